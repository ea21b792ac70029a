// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blocks that a pagemap keeps from everybody because a frame is bad.

use mmkit_addr::Pfn;
use mmkit_page::{Frozen, MemMap};
use mmkit_sync::atomic::{AtomicU64, Ordering};
use mmkit_sync::mutant;

/// Blocks that are set apart, each naming the next in the word that it keeps. Zero is the end.
#[derive(Debug)]
pub(crate) struct BadBlocks {
    /// The first one's frame number, plus 1.
    first: AtomicU64,
}

impl BadBlocks {
    pub(crate) fn new() -> Self {
        Self { first: AtomicU64::new(0) }
    }

    /// Keeps a block.
    pub(crate) fn push<'m, M: MemMap>(&self, mut frozen: Frozen<'m, M>) {
        let map = frozen.map();
        loop {
            let next = self.first.load(Ordering::Relaxed);
            let pfn = frozen.set_apart(next);
            // Release: pairs with the Acquire of `take`, whoever else pushes in between.
            let kept = pfn.get() + 1;
            let exchanged = mutant!(
                "bad-push-store",
                self.first.compare_exchange(next, kept, Ordering::Release, Ordering::Relaxed),
                {
                    self.first.store(kept, Ordering::Release);
                    Ok::<u64, u64>(next)
                }
            );
            if exchanged.is_ok() {
                return;
            }
            // SAFETY: set apart just above, and not in the list: nobody else takes it back.
            match unsafe { Frozen::recall(map, pfn) } {
                Some((again, _)) => frozen = again,
                // It cannot be absent while it is set apart.
                None => return,
            }
        }
    }

    /// Takes all of them back.
    pub(crate) fn take<'m, M: MemMap>(&self, map: &'m M, mut each: impl FnMut(Frozen<'m, M>)) {
        // Acquire: pairs with the Release of `push`.
        let mut next = self.first.swap(0, Ordering::Acquire);
        while let Some(pfn) = next.checked_sub(1).and_then(Pfn::new) {
            // SAFETY: `push` set it apart, and put it into the list, which is this thread's alone now.
            let Some((frozen, after)) = (unsafe { Frozen::recall(map, pfn) }) else { return };
            next = after;
            each(frozen);
        }
    }
}
