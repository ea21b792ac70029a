// SPDX-License-Identifier: MIT OR Apache-2.0
//! Long arrays, in huge pages.

use std::ops::{Deref, DerefMut};

/// Bytes of a huge page.
const BYTES: usize = 2 << 20;

/// `len` values, all of them in memory, and that in huge pages where the system has some, whatever its setting is.
///
/// In small pages an array of a few megabytes takes other places in the caches in each run, and so another time.
#[derive(Debug)]
pub(crate) struct Huge<T> {
    /// One huge page more than needed, so that there is room to align.
    all: Vec<T>,
    skip: usize,
    len: usize,
}

impl<T: Clone> Huge<T> {
    /// `len` times `value`.
    pub(crate) fn new(value: T, len: usize) -> Self {
        let room = const { BYTES / size_of::<T>() };
        let all = vec![value; len.next_multiple_of(room) + room];
        let skip = all.as_ptr().align_offset(BYTES);
        let whole = all.len().saturating_sub(skip) / room * BYTES;
        // SAFETY: whole huge pages of what was just allocated; the call moves their contents to other memory, and changes none.
        let _ = unsafe { libc::madvise(all[skip..].as_ptr().cast_mut().cast(), whole, libc::MADV_COLLAPSE) };
        Self { all, skip, len }
    }
}

impl<T> Deref for Huge<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.all[self.skip..self.skip + self.len]
    }
}

impl<T> DerefMut for Huge<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.all[self.skip..self.skip + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_long_as_was_asked_for_and_aligned() {
        for len in [1, BYTES / 8 - 1, BYTES / 8, BYTES / 8 + 1] {
            let mut huge = Huge::new(7_u64, len);
            assert_eq!((huge.len(), huge.as_ptr().addr() % BYTES), (len, 0));
            huge[len - 1] = 8;
            assert_eq!(huge.iter().sum::<u64>(), 7 * (len as u64 - 1) + 8);
        }
    }
}
