// SPDX-License-Identifier: MIT OR Apache-2.0
//! A pagemap that is registered.

use alloc::boxed::Box;
use core::fmt;
use core::ops::Deref;

use mmkit_sync::atomic::{AtomicBool, Ordering};
use mmkit_sync::{LiveRef, Shard, Shards};

use crate::heap::array;
use crate::kinds::Folios;
use crate::{DevmapError, PagemapIndex, PagemapInfo};

/// The counters of a pagemap's references.
struct Counters(Box<[Shard]>);

// SAFETY: the box is never exchanged, and what it holds does not move with it.
unsafe impl Shards for Counters {
    fn shards(&self) -> &[Shard] {
        &self.0
    }
}

/// A pagemap that is registered: what a lookup finds. What was said of it is read through [`PagemapInfo`].
pub struct Pagemap {
    info: Box<PagemapInfo>,
    index: PagemapIndex,
    live: LiveRef<Counters>,
    /// Whether the descriptors of its frames are its own: from when all of them are staged until the first are removed.
    /// Before and after that, the machine may have memory in its intervals.
    populated: AtomicBool,
    pub(crate) folios: Folios,
}

impl Pagemap {
    pub(super) fn counters(processors: usize) -> Result<Box<[Shard]>, DevmapError> {
        array(processors, Shard::new)
    }

    pub(super) fn new(info: Box<PagemapInfo>, index: PagemapIndex, counters: Box<[Shard]>) -> Self {
        let live = LiveRef::new(Counters(counters));
        Self { info, index, live, populated: AtomicBool::new(false), folios: Folios::new() }
    }

    pub(super) fn into_info(self) -> Box<PagemapInfo> {
        self.info
    }

    /// Its name in descriptors.
    #[must_use]
    pub const fn index(&self) -> PagemapIndex {
        self.index
    }

    /// Whether it is going: nobody gets a new reference. A snapshot.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.live.is_dead()
    }

    /// References that are held: exact once it is dead and there are none.
    #[must_use]
    pub fn references(&self) -> u64 {
        self.live.held()
    }

    /// Whether a folio of its frames is its own, and not memory of the machine: for those who have one.
    pub(crate) fn is_populated(&self) -> bool {
        // Relaxed: the folio's frames became present after the mark was set, or not before it was taken off and they were
        // removed, and whoever has the folio has seen them present.
        self.populated.load(Ordering::Relaxed)
    }

    /// Descriptors are staged for all of its frames, and are about to become present; or they are about to be removed.
    pub(crate) fn set_populated(&self, populated: bool) {
        self.populated.store(populated, Ordering::Relaxed);
    }

    /// Takes `n` references, unless it is going. Whoever has one finds what is behind this in place.
    #[must_use]
    pub(crate) fn get(&self, processor: usize, n: u32) -> bool {
        self.live.enter_many(processor, n).map(core::mem::forget).is_some()
    }

    /// Puts `n` references.
    ///
    /// # Safety
    ///
    /// The caller has them, from [`get`](Self::get), and uses them no more. He is inside a reader of the registry, since
    /// this may be freed as soon as they are put.
    pub(crate) unsafe fn put(&self, processor: usize, n: u32) {
        // SAFETY: passed on to the caller.
        unsafe { self.live.put_many(processor, n) };
    }

    /// Takes the references that stand for the memory itself, before anybody finds it.
    pub(crate) fn hold(&self) {
        Self::in_parts(self.bulk_references(), |n| {
            let alive = self.get(0, n);
            debug_assert!(alive, "nobody kills what nobody finds");
        });
    }

    /// Puts the references that [`hold`](Self::hold) took.
    ///
    /// # Safety
    ///
    /// They were taken, and are put once.
    pub(crate) unsafe fn let_go(&self) {
        // SAFETY: those that `hold` took, by the caller's promise, who has this registered still.
        Self::in_parts(self.bulk_references(), |n| unsafe { self.put(0, n) });
    }

    /// Calls `each` for parts of `left` references, which are taken or put in one go.
    pub(crate) fn in_parts(mut left: u64, mut each: impl FnMut(u32)) {
        while left > 0 {
            let n = u32::try_from(left).unwrap_or(u32::MAX);
            each(n);
            left -= u64::from(n);
        }
    }

    pub(crate) fn kill(&self) -> bool {
        self.live.kill()
    }

    /// Whether it was killed and nobody has a reference: what was done under all of them happens before.
    pub(crate) fn is_drained(&self) -> bool {
        self.live.is_drained()
    }
}

impl Deref for Pagemap {
    type Target = PagemapInfo;

    fn deref(&self) -> &PagemapInfo {
        &self.info
    }
}

impl fmt::Debug for Pagemap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pagemap")
            .field("index", &self.index)
            .field("info", &self.info)
            .field("live", &self.live)
            .finish()
    }
}
