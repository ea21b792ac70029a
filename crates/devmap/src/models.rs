// SPDX-License-Identifier: MIT OR Apache-2.0
//! The registry and the way out of it, without a memory map, for the models of `tests/loom_registry.rs`. Exists in builds for
//! the model checker only.

use alloc::boxed::Box;
use alloc::vec;
use core::fmt;
use core::ops::ControlFlow;

use mmkit_addr::{NodeId, Order, PfnRange, ZoneId};
use mmkit_page::Place;
use mmkit_sync::{RawLock, ReadSide};

use crate::registry::Reserved;
use crate::spans::AllSpans;
use crate::{DevmapError, Kind, Pagemap, PagemapInfo, Registry, Span};

/// A pagemap in a registry, for memory that the model says of what it is.
pub struct Entry<'r, R, L>(Reserved<'r, R, L>);

impl<R, L> fmt::Debug for Entry<'_, R, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Entry").finish_non_exhaustive()
    }
}

/// Reserves `range`, and holds what stands for its memory.
pub fn reserve<R: ReadSide, L: RawLock>(
    registry: &Registry<R, L>,
    range: PfnRange,
) -> Result<Entry<'_, R, L>, DevmapError> {
    let info = PagemapInfo {
        kind: Kind::PciP2pdma,
        ranges: vec![range],
        order: Order::ZERO,
        place: Place::default(),
        owner: None,
        operations: None,
        set_aside: None,
        pageblocks: None,
    };
    let reserved = registry.reserve(Box::new(info)).map_err(|(_, error)| error)?;
    reserved.pagemap().set_populated(true);
    reserved.pagemap().hold();
    Ok(Entry(reserved))
}

impl<R: ReadSide, L: RawLock> Entry<'_, R, L> {
    /// The memory is there: it can be found.
    pub fn show(&self) {
        self.0.show();
    }

    /// [`kill`](crate::Registration::kill).
    pub fn kill(&self) {
        self.0.kill();
    }

    /// What [`unregister`](crate::Registration::unregister) does until nobody has a reference.
    pub fn retire(
        &self,
        let_go: &mut bool,
        revoke: &mut dyn FnMut(&Pagemap),
        pause: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<(), u64> {
        // SAFETY: taken by `reserve`, and put once: `retire` calls this once.
        let stop = |pagemap: &Pagemap| unsafe { pagemap.let_go() };
        self.0.retire(let_go, stop, &mut |_| revoke(self.0.pagemap()), pause)
    }

    /// The last step.
    pub fn release(self) -> bool {
        self.0.release().is_ok()
    }
}

/// A folio takes `n` references, if the pagemap is not going.
pub fn get(pagemap: &Pagemap, n: u32) -> bool {
    pagemap.get(0, n)
}

/// Puts them, as the last put of a folio does.
///
/// # Safety
///
/// The caller has them; `pagemap` is there.
pub unsafe fn put<R: ReadSide, L: RawLock>(registry: &Registry<R, L>, pagemap: &Pagemap, n: u32) {
    let _reader = registry.enter();
    // SAFETY: passed on to the caller; inside a reader.
    unsafe { pagemap.put(0, n) };
}

/// Frames of a zone of node 0 come: the node's spans are made by whoever is first.
pub fn add_span(spans: &Spans, range: PfnRange) {
    let of_node = spans.0.of(NodeId::ZERO).expect("there is memory");
    of_node.add(ZoneId::ZERO, range).expect("they are not there");
}

/// The spans of all nodes.
pub struct Spans(AllSpans);

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Spans")
    }
}

impl Spans {
    /// Of no node.
    #[allow(clippy::new_without_default, reason = "for models")]
    pub fn new() -> Self {
        Self(AllSpans::new())
    }

    /// What node 0 spans.
    pub fn node(&self) -> Option<Span> {
        self.0.find(NodeId::ZERO)?.node()
    }
}
