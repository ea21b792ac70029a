// SPDX-License-Identifier: MIT OR Apache-2.0
//! The spans of every node that has a device.

use alloc::boxed::Box;
use core::ptr::{self, NonNull};

use mmkit_addr::NodeId;
use mmkit_sync::atomic::{AtomicPtr, Ordering};
use mmkit_sync::mutant;

use crate::heap::boxed;
use crate::{DevmapError, NodeSpans};

/// The spans of some nodes: a list that only grows. There are few nodes, and fewer that have devices.
pub(crate) struct AllSpans {
    first: AtomicPtr<OfNode>,
}

struct OfNode {
    node: NodeId,
    spans: NodeSpans,
    /// Null in the last. Does not change once others see this.
    next: *mut OfNode,
}

impl AllSpans {
    pub(crate) fn new() -> Self {
        Self { first: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Those of `node`, if they were made.
    pub(crate) fn find(&self, node: NodeId) -> Option<&NodeSpans> {
        // Acquire: pairs with the Release of `of`.
        self.find_from(self.first.load(Ordering::Acquire), node)
    }

    fn find_from(&self, first: *mut OfNode, node: NodeId) -> Option<&NodeSpans> {
        let mut next = NonNull::new(first);
        while let Some(at) = next {
            // SAFETY: made from a box, put into the list whole, which was acquired, and freed with the list, which is
            // borrowed.
            let of = unsafe { at.as_ref() };
            if of.node == node {
                return Some(&of.spans);
            }
            next = NonNull::new(of.next);
        }
        None
    }

    /// Those of `node`, made if there are none.
    ///
    /// # Errors
    ///
    /// [`DevmapError::NoMemory`].
    pub(crate) fn of(&self, node: NodeId) -> Result<&NodeSpans, DevmapError> {
        if let Some(spans) = self.find(node) {
            return Ok(spans);
        }
        let mut new = boxed(OfNode { node, spans: NodeSpans::new(), next: ptr::null_mut() })?;
        // Acquire: pairs with the Release below, of others.
        let mut first = self.first.load(Ordering::Acquire);
        loop {
            // Somebody else may have been faster.
            if let Some(spans) = mutant!("spans-list-no-recheck", self.find_from(first, node), None) {
                return Ok(spans);
            }
            new.next = first;
            let raw = Box::into_raw(new);
            // Release: pairs with the Acquire of `find`; Acquire, with the Release of whoever was faster.
            match self.first.compare_exchange(first, raw, Ordering::Release, Ordering::Acquire) {
                Ok(_) => {
                    // SAFETY: in the list from now on, which is borrowed.
                    let of = unsafe { &*raw };
                    return Ok(&of.spans);
                }
                Err(now) => first = now,
            }
            // SAFETY: made from a box just above, and nobody else has seen it.
            new = unsafe { Box::from_raw(raw) };
        }
    }
}

impl Drop for AllSpans {
    fn drop(&mut self) {
        let mut next = self.first.load(Ordering::Relaxed);
        while !next.is_null() {
            // SAFETY: made from a box, and owned by the list, which is borrowed for good.
            let of = unsafe { Box::from_raw(next) };
            next = of.next;
        }
    }
}

#[cfg(all(test, not(mmkit_loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_one() {
        let all = AllSpans::new();
        let nodes = [3, 0, 1023].map(|node| NodeId::new(node).unwrap());
        assert!(nodes.iter().all(|&node| all.find(node).is_none()));
        let made = nodes.map(|node| ptr::from_ref(all.of(node).unwrap()));
        let found = nodes.map(|node| ptr::from_ref(all.find(node).unwrap()));
        let again = nodes.map(|node| ptr::from_ref(all.of(node).unwrap()));
        assert_eq!((made, made), (found, again));
        assert!(made[0] != made[1] && made[1] != made[2] && made[0] != made[2]);
        assert!(all.find(NodeId::new(7).unwrap()).is_none());
    }
}
