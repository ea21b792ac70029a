// SPDX-License-Identifier: MIT OR Apache-2.0
//! The strategies that a memory map may choose.

use core::marker::PhantomData;

use mmkit_page::Counting;

use crate::Tracker;
use crate::tracker::sealed::Sealed;

/// How the mappings of a memory map's folios are counted: [`MemMap::Counts`](mmkit_page::MemMap::Counts).
///
/// A [`Tracker`], and whether each page of a folio has a map count of its own. Sealed.
pub trait Mapcounts: Counting + Sealed + 'static {
    /// Who maps a folio.
    type Tracker: Tracker;
    /// Whether each page has a map count of its own.
    const PER_PAGE: bool;
}

/// Every page of a folio has a map count of its own. Linux: `CONFIG_PAGE_MAPCOUNT`.
///
/// The number of pages that are mapped is exact, at an atomic read-modify-write for each page of a batch. Not for folios
/// whose descriptors are shared, which have no place for it.
#[derive(Debug)]
pub struct PageMapcount<T>(PhantomData<fn() -> T>);

/// Only the folio as a whole has map counts. Linux: `CONFIG_NO_PAGE_MAPCOUNT`.
///
/// A batch of any size costs the same. A folio counts as mapped as a whole from its first mapping to its last.
#[derive(Debug)]
pub struct NoPageMapcount<T>(PhantomData<fn() -> T>);

impl<T: Tracker> Counting for PageMapcount<T> {}
impl<T: Tracker> Counting for NoPageMapcount<T> {}
impl<T: Tracker> Sealed for PageMapcount<T> {}
impl<T: Tracker> Sealed for NoPageMapcount<T> {}

impl<T: Tracker> Mapcounts for PageMapcount<T> {
    type Tracker = T;
    const PER_PAGE: bool = true;
}

impl<T: Tracker> Mapcounts for NoPageMapcount<T> {
    type Tracker = T;
    const PER_PAGE: bool = false;
}
