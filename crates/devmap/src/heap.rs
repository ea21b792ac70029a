// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that may not be there.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::DevmapError;

/// An empty list with room for `len`.
pub(crate) fn list<T>(len: usize) -> Result<Vec<T>, DevmapError> {
    let mut list = Vec::new();
    list.try_reserve_exact(len).map_err(|_| DevmapError::NoMemory)?;
    Ok(list)
}

/// `len` values.
pub(crate) fn array<T>(len: usize, value: impl FnMut() -> T) -> Result<Box<[T]>, DevmapError> {
    let mut list = list(len)?;
    list.extend(core::iter::repeat_with(value).take(len));
    Ok(list.into_boxed_slice())
}

/// One value.
pub(crate) fn boxed<T>(value: T) -> Result<Box<T>, DevmapError> {
    let mut list = list(1)?;
    list.push(value);
    let one: Box<[T; 1]> = list.into_boxed_slice().try_into().map_err(|_| DevmapError::NoMemory)?;
    // SAFETY: an array of one value has the layout of the value, so this is the allocation of a `Box<T>`.
    Ok(unsafe { Box::from_raw(Box::into_raw(one).cast()) })
}
