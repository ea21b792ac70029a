// SPDX-License-Identifier: MIT OR Apache-2.0
//! What may cross threads: handles where the map may be shared, a reader where its guard may move.
#![cfg(not(mmkit_loom))]

use core::cell::Cell;
use core::ptr::NonNull;

use mmkit_addr::Pfn;
use mmkit_page::{Dump, Folio, Free, Frozen, MemMap, Page, PageView, Reader, SliceMap};
use mmkit_sync::{Immovable, Readers};
use static_assertions::{assert_impl_all, assert_not_impl_any, assert_type_eq_all};

/// A map of no frames, for one thread.
struct Local(Cell<u8>);

// SAFETY: it has no descriptors.
unsafe impl MemMap for Local {
    type Read = Immovable;
    type Counts = mmkit_page::Uncounted;

    fn read_side(&self) -> &Immovable {
        &Immovable
    }

    unsafe fn descriptor(&self, _: Pfn) -> Option<NonNull<Page>> {
        self.0.set(1);
        None
    }
}

/// A map of no frames whose readers stay on their thread.
struct Pinned(Readers);

// SAFETY: it has no descriptors.
unsafe impl MemMap for Pinned {
    type Read = Readers;
    type Counts = mmkit_page::Uncounted;

    fn read_side(&self) -> &Readers {
        &self.0
    }

    unsafe fn descriptor(&self, _: Pfn) -> Option<NonNull<Page>> {
        None
    }
}

type Slice = SliceMap<'static>;

assert_impl_all!(Slice: Send, Sync);
assert_impl_all!(Folio<'static, Slice>: Send, Sync);
assert_impl_all!(Frozen<'static, Slice>: Send, Sync);
assert_impl_all!(Free<'static, Slice>: Send, Sync);
assert_impl_all!(PageView<'static, 'static, Slice>: Send, Sync, Copy);
assert_impl_all!(Dump<'static, 'static, 'static, Slice>: Send, Sync);
assert_impl_all!(Reader<'static, Slice>: Send, Sync);

assert_not_impl_any!(Folio<'static, Local>: Send, Sync);
assert_not_impl_any!(Frozen<'static, Local>: Send, Sync);
assert_not_impl_any!(Free<'static, Local>: Send, Sync);
assert_not_impl_any!(PageView<'static, 'static, Local>: Send, Sync);
assert_not_impl_any!(Reader<'static, Local>: Send, Sync);

// Views and handles go where they like while the reader stays.
assert_not_impl_any!(Reader<'static, Pinned>: Send);
assert_impl_all!(PageView<'static, 'static, Pinned>: Send, Sync);
assert_impl_all!(Folio<'static, Pinned>: Send, Sync);

// One handle is one right.
assert_not_impl_any!(Folio<'static, Slice>: Clone, Copy, Default);
assert_not_impl_any!(Frozen<'static, Slice>: Clone, Copy, Default);
assert_not_impl_any!(Free<'static, Slice>: Clone, Copy, Default);
assert_not_impl_any!(Reader<'static, Slice>: Clone, Copy, Default);

// Where descriptors never move, being a reader costs nothing.
assert_type_eq_all!(<Slice as MemMap>::Read, Immovable);

#[test]
fn a_reader_of_what_never_moves_is_a_reference() {
    assert_eq!(size_of::<Reader<'static, Slice>>(), size_of::<&Slice>());
    assert_eq!(size_of::<Folio<'static, Slice>>(), 3 * size_of::<u64>());
    let local = Local(Cell::new(0));
    assert!(local.enter().page(Pfn::ZERO).is_none());
    assert_eq!(local.0.get(), 1);
    assert!(Pinned(Readers::new()).enter().page(Pfn::ZERO).is_none());
}
