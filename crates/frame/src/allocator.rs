// SPDX-License-Identifier: MIT OR Apache-2.0
//! The trait that a frame allocator implements.

use core::fmt;

use mmkit_addr::{NodeId, Order, Pfn};

use crate::Request;

static_assertions::assert_obj_safe!(FrameAllocator);

/// An allocator of naturally aligned blocks of frames.
///
/// A block of order `k` is `2^k` frames whose first frame number is a multiple of `2^k`. All methods take `&self`: an
/// allocator that is shared locks inside. It is object safe, and implemented for references.
///
/// Source: ours. (Linux: `alloc_pages_node`, `alloc_pages_bulk`, `__free_pages`, `split_page`.)
///
/// # Safety
///
/// Whoever implements this promises:
///
/// * **Exclusive.** A block returned by [`allocate`](Self::allocate) is naturally aligned in frame-number space, ends at
///   or below [`Pfn::MAX`], and belongs to the caller alone until it is given back: no frame of it is handed out again,
///   and the allocator does not touch its memory.
/// * **Ordered.** What the last owner did to a frame happens before the next one gets it: giving back releases, taking
///   acquires.
/// * **All or nothing.** An error changes nothing: no frame is lost or handed out.
/// * **As asked.** A request with `zeroed` returns frames whose every byte is zero; `strict` and `zone` are kept to.
/// * **Splits are books only.** [`split`](Self::split) changes how the block may be given back, never its contents or
///   its owner.
/// * **One allocator.** Moving the value moves no frame, and a clone, where there is one, is the same allocator: what
///   one hands out, the other may take back.
///
/// What is said of `allocate` holds for each block of [`allocate_bulk`](Self::allocate_bulk).
pub unsafe trait FrameAllocator {
    /// Takes one block.
    ///
    /// Cost: the allocator's; as a rule a lock or an atomic, plus writing the block where it must be zeroed.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where no block satisfies `request`; nothing has changed then.
    fn allocate(&self, request: Request) -> Result<Pfn, AllocError>;

    /// Takes `out.len()` blocks, all or none; an empty `out` always succeeds.
    ///
    /// Cost: `out.len()` calls of [`allocate`](Self::allocate) as provided; an allocator that can do better, should.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where fewer could be had; those that could are given back, and `out` is arbitrary.
    fn allocate_bulk(&self, request: Request, out: &mut [Pfn]) -> Result<(), AllocError> {
        for taken in 0..out.len() {
            match self.allocate(request) {
                Ok(pfn) => out[taken] = pfn,
                Err(error) => {
                    for &pfn in &out[..taken] {
                        // SAFETY: `allocate` returned `pfn` at this order above, and nobody else has seen it.
                        unsafe { self.deallocate(pfn, request.order) };
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Gives one block back.
    ///
    /// # Safety
    ///
    /// * `pfn` was handed out by this allocator at `order` and not split since, or is a part of such a
    ///   block that [`split`](Self::split) made freeable at `order`.
    /// * Nothing uses the block any more: no pointer, reference, page-table entry or device.
    /// * It is given back once.
    unsafe fn deallocate(&self, pfn: Pfn, order: Order);

    /// Makes the block at `pfn` of order `from` freeable in parts of order `to`, each once, and no longer as a whole.
    ///
    /// The parts are the `2^(from - to)` naturally aligned ones; they may be split again. It cannot fail.
    ///
    /// # Safety
    ///
    /// The caller owns the block `(pfn, from)`, as [`deallocate`](Self::deallocate) would ask (it may be in use), and
    /// `to <= from`.
    unsafe fn split(&self, pfn: Pfn, from: Order, to: Order);

    /// The node that the frame is on, where the allocator knows. It never changes. Linux: `page_to_nid`.
    fn node_of(&self, pfn: Pfn) -> Option<NodeId> {
        let _ = pfn;
        None
    }
}

/// No block satisfies the request. Nothing has changed; the same request may succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocError {
    /// What was asked for.
    pub request: Request,
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Request { order, node, strict, zone, .. } = self.request;
        write!(f, "no free block of {order:?} ({} frames)", order.frames())?;
        if let Some(zone) = zone {
            write!(f, " in {zone:?}")?;
        }
        if strict { write!(f, " on {node:?}") } else { write!(f, " on {node:?} or any other") }
    }
}

impl core::error::Error for AllocError {}

// SAFETY: every call is passed on unchanged, so each clause holds for `&T` because it holds for `T`.
unsafe impl<T: FrameAllocator + ?Sized> FrameAllocator for &T {
    fn allocate(&self, request: Request) -> Result<Pfn, AllocError> {
        (**self).allocate(request)
    }

    fn allocate_bulk(&self, request: Request, out: &mut [Pfn]) -> Result<(), AllocError> {
        (**self).allocate_bulk(request, out)
    }

    unsafe fn deallocate(&self, pfn: Pfn, order: Order) {
        // SAFETY: the caller's promise is about the allocator behind the reference.
        unsafe { (**self).deallocate(pfn, order) }
    }

    unsafe fn split(&self, pfn: Pfn, from: Order, to: Order) {
        // SAFETY: the caller's promise is about the allocator behind the reference.
        unsafe { (**self).split(pfn, from, to) }
    }

    fn node_of(&self, pfn: Pfn) -> Option<NodeId> {
        (**self).node_of(pfn)
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use mmkit_addr::{NodeId, ZoneId};

    use super::*;
    use crate::test_util::TestFrames;

    fn order(order: u8) -> Order {
        Order::new(order).unwrap()
    }

    /// Runs through all four methods behind one more reference and behind a trait object.
    fn use_all(allocator: impl FrameAllocator) {
        let request = Request::new(order(2));
        let mut blocks = [Pfn::ZERO; 3];
        allocator.allocate_bulk(request, &mut blocks).unwrap();
        let pfn = allocator.allocate(request).unwrap();
        // SAFETY: handed out just above at this order.
        unsafe { allocator.split(pfn, order(2), order(1)) };
        // SAFETY: the first half that the split made.
        unsafe { allocator.deallocate(pfn, order(1)) };
        // SAFETY: the second half that the split made.
        unsafe { allocator.deallocate(pfn.checked_add(2).unwrap(), order(1)) };
        for pfn in blocks {
            // SAFETY: handed out by the bulk call, unused, once.
            unsafe { allocator.deallocate(pfn, order(2)) };
        }
    }

    #[test]
    fn references_and_objects_pass_every_call_on() {
        let t = TestFrames::with_frames(64);
        use_all(&t);
        let twice = &&t;
        use_all(twice);
        let object: &dyn FrameAllocator = &t;
        use_all(object);
        let stats = t.stats();
        assert_eq!((stats.calls, stats.frees, stats.splits), (12, 15, 3));
        t.assert_no_leaks();
    }

    #[test]
    fn bulk_is_all_or_nothing_whichever_block_fails() {
        let t = TestFrames::with_frames(1024);
        let kept = t.allocate(Request::new(order(0))).unwrap();
        let before = t.snapshot();
        for k in 1..=9 {
            t.fail_nth(k);
            let mut out = [Pfn::ZERO; 8];
            let result = t.allocate_bulk(Request::new(order(3)), &mut out);
            t.heal();
            if k <= 8 {
                assert_eq!(result, Err(AllocError { request: Request::new(order(3)) }));
            } else {
                assert_eq!(result, Ok(()));
                let mut sorted = out;
                sorted.sort();
                assert!(sorted.windows(2).all(|w| w[1].get() - w[0].get() >= 8), "{out:?} overlap");
                for pfn in out {
                    // SAFETY: handed out just now at this order.
                    unsafe { t.deallocate(pfn, order(3)) };
                }
            }
            assert_eq!(t.snapshot(), before, "k = {k}");
        }
        assert_eq!(t.allocate_bulk(Request::new(order(3)), &mut []), Ok(()));
        // SAFETY: handed out above at order 0.
        unsafe { t.deallocate(kept, order(0)) };
        t.assert_no_leaks();
    }

    #[test]
    fn errors_name_the_request() {
        let request = Request::new(order(9)).on_node(NodeId::new(3).unwrap());
        assert_eq!(
            AllocError { request }.to_string(),
            "no free block of order 9 (512 frames) on node 3 or any other"
        );
        let request = request.strict().in_zone(ZoneId::new(1).unwrap());
        assert_eq!(
            AllocError { request }.to_string(),
            "no free block of order 9 (512 frames) in zone 1 on node 3"
        );
    }
}
