// SPDX-License-Identifier: MIT OR Apache-2.0
//! A memory map with devices in it.

use core::fmt;
use core::ptr::NonNull;

use mmkit_addr::{NodeId, Pfn};
use mmkit_page::{Frozen, MemMap, Page, Place};
use mmkit_vmemmap::{Vmemmap, VmemmapEnv, VmemmapSpace};

use crate::spans::AllSpans;
use crate::{DevmapError, Registry, Span, kinds};

/// A memory map with devices in it: the descriptors of all memory, and a [`Registry`] that says what of it is whose.
///
/// It is a [`MemMap`] with the descriptors of the [`Vmemmap`] inside. A folio of a device is a folio of this map, so its last
/// reference finds the way back to its pagemap.
///
/// That holds for folios *of this map*. A reference on a device's folio that is taken through [`memory`](Self::memory) and is
/// the last one that is put, and a [`Frozen`] one that is made [free](Frozen::into_free) by hand, pass the pagemap by: the frames
/// rest, the driver does not hear of it, and the references on the pagemap stay. Nothing is unsound, but the device does not go:
/// [`unregister`](crate::Registration::unregister) answers [`DevmapError::Held`] for ever, except of generic memory, where it finds
/// such folios when it is tried again.
///
/// Whoever claims free frames of a device past it ([`MemMap::claim`]) has them as anybody has who was first. The memory does
/// not go before they are free again, but nobody waits for that:
/// [`unregister`](crate::Registration::unregister) refuses.
pub struct Devmap<S: VmemmapSpace, E: VmemmapEnv> {
    map: Vmemmap<S, E>,
    registry: Registry<E::Read, E::Lock>,
    pub(crate) spans: AllSpans,
}

impl<S: VmemmapSpace, E: VmemmapEnv> Devmap<S, E> {
    /// `map`, with devices to come. `read_side` is that of the registry.
    ///
    /// # Errors
    ///
    /// [`DevmapError::NoMemory`].
    pub fn new(map: Vmemmap<S, E>, read_side: E::Read) -> Result<Self, DevmapError> {
        Ok(Self::with_registry(map, Registry::new(read_side)?))
    }

    /// `map`, with an empty registry that was made for it.
    ///
    /// Pagemaps that are in the registry already have frames in another memory map.
    #[must_use]
    pub fn with_registry(map: Vmemmap<S, E>, registry: Registry<E::Read, E::Lock>) -> Self {
        Self { map, registry, spans: AllSpans::new() }
    }

    /// The memory map: for memory of the machine. Folios of devices are taken through `self`, as folios of the map that
    /// knows whose they are: see [`Devmap`].
    #[must_use]
    pub const fn memory(&self) -> &Vmemmap<S, E> {
        &self.map
    }

    /// Which frames are whose.
    #[must_use]
    pub const fn registry(&self) -> &Registry<E::Read, E::Lock> {
        &self.registry
    }

    /// What the devices of a node and zone span; `None` where none was ever registered there. Memory of the machine is not in
    /// it, nor are frames that an altmap sets aside. A span only grows: what goes leaves a hole. Linux: the span of
    /// `ZONE_DEVICE`.
    ///
    /// Cost: that of [`NodeSpans::zone`](crate::NodeSpans::zone), and a look at each node that has devices.
    #[must_use]
    pub fn zone_span(&self, place: Place) -> Option<Span> {
        self.spans.find(place.node)?.zone(place.zone)
    }

    /// What the devices of a node span, of all zones together; `None` where none was ever registered there.
    #[must_use]
    pub fn node_span(&self, node: NodeId) -> Option<Span> {
        self.spans.find(node)?.node()
    }
}

// SAFETY: every call is passed on to the one memory map inside, which keeps the contract; the two have all descriptors in
// common, and the same `Counts`. `release` is replaced, which may be.
unsafe impl<S: VmemmapSpace, E: VmemmapEnv> MemMap for Devmap<S, E> {
    type Read = E::Read;
    type Counts = E::Counts;

    fn read_side(&self) -> &E::Read {
        self.map.read_side()
    }

    #[inline]
    unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>> {
        // SAFETY: passed on to the caller.
        unsafe { self.map.descriptor(pfn) }
    }

    #[inline]
    unsafe fn run(&self, pfn: Pfn, most: u64) -> Option<(NonNull<Page>, u64)> {
        // SAFETY: passed on to the caller.
        unsafe { self.map.run(pfn, most) }
    }

    /// As provided for memory of the machine. A folio of a device goes the way of its kind, and its references on the pagemap
    /// are put.
    fn release(&self, frozen: Frozen<'_, Self>) {
        // The map that the folio is of, whichever this was asked of: its index means something there.
        if let Some(frozen) = kinds::release(frozen.map().registry(), frozen) {
            drop(frozen.into_free());
        }
    }
}

impl<S: VmemmapSpace, E: VmemmapEnv> fmt::Debug for Devmap<S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Devmap").field("map", &self.map).field("registry", &self.registry).finish()
    }
}
