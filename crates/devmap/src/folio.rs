// SPDX-License-Identifier: MIT OR Apache-2.0
//! Folios of devices.

use core::fmt;
use core::ops::Deref;
use core::ptr::NonNull;

use mmkit_addr::{Order, Pfn};
use mmkit_page::{ClaimError, Folio, MemMap, Refused};
use mmkit_vmemmap::{VmemmapEnv, VmemmapSpace};

use crate::{Devmap, Pagemap, PagemapIndex};

/// A reference on a folio of a device, and with it on the device's pagemap, which stays for as long as this does.
///
/// Linux: a folio of which `folio_is_zone_device`, and its `pgmap`, of which a comment says that it stays.
///
/// ```compile_fail,E0505
/// # use mmkit_devmap::DeviceFolio;
/// # use mmkit_vmemmap::{VmemmapEnv, VmemmapSpace};
/// fn outlives<S: VmemmapSpace, E: VmemmapEnv>(folio: DeviceFolio<'_, S, E>) {
///     let pagemap = folio.pagemap();
///     drop(folio);
///     let _ = pagemap.index();
/// }
/// ```
#[must_use = "dropping a folio gives its reference back"]
pub struct DeviceFolio<'d, S: VmemmapSpace, E: VmemmapEnv> {
    folio: Folio<'d, Devmap<S, E>>,
    pagemap: NonNull<Pagemap>,
}

// SAFETY: a folio, and a pointer to a pagemap, which is only read and may be shared.
unsafe impl<'d, S: VmemmapSpace, E: VmemmapEnv> Send for DeviceFolio<'d, S, E> where
    Folio<'d, Devmap<S, E>>: Send
{
}
// SAFETY: as above.
unsafe impl<'d, S: VmemmapSpace, E: VmemmapEnv> Sync for DeviceFolio<'d, S, E> where
    Folio<'d, Devmap<S, E>>: Sync
{
}

impl<'d, S: VmemmapSpace, E: VmemmapEnv> DeviceFolio<'d, S, E> {
    /// The pagemap: in place for as long as the reference.
    #[must_use]
    pub fn pagemap(&self) -> &Pagemap {
        // SAFETY: found through the index in the folio's head, so the folio has references on it until its last one is put;
        // `self` has one. Pagemaps are freed once they have drained.
        unsafe { self.pagemap.as_ref() }
    }

    /// The reference on the folio alone: it keeps the pagemap as well, but nobody can tell by its type.
    pub fn into_folio(self) -> Folio<'d, Devmap<S, E>> {
        self.folio
    }
}

impl<'d, S: VmemmapSpace, E: VmemmapEnv> Deref for DeviceFolio<'d, S, E> {
    type Target = Folio<'d, Devmap<S, E>>;

    fn deref(&self) -> &Self::Target {
        &self.folio
    }
}

impl<S: VmemmapSpace, E: VmemmapEnv> fmt::Debug for DeviceFolio<'_, S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceFolio({:?}, {:?})", self.folio, self.pagemap().index())
    }
}

/// Why a folio of a device could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TakeError {
    /// The frame belongs to no pagemap that is visible.
    NoPagemap {
        /// The frame.
        pfn: Pfn,
    },
    /// The pagemap is going.
    Gone {
        /// The frame.
        pfn: Pfn,
    },
    /// No folio of that order begins there.
    Order {
        /// The frame.
        pfn: Pfn,
        /// The order.
        order: Order,
    },
    /// The frames are not free.
    Claim(ClaimError),
}

impl fmt::Display for TakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPagemap { pfn } => write!(f, "{pfn:?} belongs to no pagemap"),
            Self::Gone { pfn } => write!(f, "the pagemap of {pfn:?} is going"),
            Self::Order { pfn, order } => write!(f, "no folio of {order:?} begins at {pfn:?}"),
            Self::Claim(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for TakeError {}

impl<S: VmemmapSpace, E: VmemmapEnv> Devmap<S, E> {
    /// Makes a folio of the free frames of a device: the `2^order` frames from `pfn` on, one block of the pagemap's order
    /// or several single frames that are made a compound.
    ///
    /// The folio has one reference for itself, and [as many on the pagemap](crate::PagemapInfo::references_of) as it has
    /// blocks. Linux: `zone_device_page_init`.
    ///
    /// # Errors
    ///
    /// [`TakeError`], with nothing changed.
    ///
    /// Cost: a lookup, an addition to a counter of this processor and a full fence; a claim.
    pub fn take(&self, pfn: Pfn, order: Order) -> Result<DeviceFolio<'_, S, E>, TakeError> {
        let registry = self.registry();
        let reader = registry.enter();
        let pagemap = reader.find(pfn).ok_or(TakeError::NoPagemap { pfn })?;
        let single = pagemap.order() == Order::ZERO;
        if !pfn.is_aligned(order) || (!single && order != pagemap.order()) {
            return Err(TakeError::Order { pfn, order });
        }
        let references = pagemap.references_of(order);
        if !pagemap.get(registry.processor(), references) {
            return Err(TakeError::Gone { pfn });
        }
        match self.make(pfn, order, pagemap) {
            Ok(folio) => Ok(folio),
            Err(error) => {
                // SAFETY: taken just now, and nobody else knows of them; inside a reader.
                unsafe { pagemap.put(registry.processor(), references) };
                Err(error)
            }
        }
    }

    /// The folio, for which references on its pagemap were taken.
    fn make(&self, pfn: Pfn, order: Order, pagemap: &Pagemap) -> Result<DeviceFolio<'_, S, E>, TakeError> {
        let free = self.claim_joined(pfn, order).map_err(TakeError::Claim)?;
        let mut frozen = free.allocate();
        if order > Order::ZERO && !frozen.is_compound() {
            // A block of several frames that is none.
            frozen = match frozen.prep() {
                Ok(frozen) | Err(Refused { handle: frozen, .. }) => frozen,
            };
        }
        // SAFETY: of the words of the head only the index is written, which map counts do not use.
        if let Some(head) = unsafe { frozen.descriptors() }.words(0) {
            PagemapIndex::write(Some(pagemap.index()), &head);
        }
        Ok(DeviceFolio { folio: frozen.into_folio(), pagemap: NonNull::from(pagemap) })
    }

    /// The folio as one of a device.
    ///
    /// # Errors
    ///
    /// The folio, if it is memory of the machine.
    ///
    /// Cost: entering the registry's read side, and three loads.
    pub fn device_folio<'d>(
        &'d self,
        folio: Folio<'d, Self>,
    ) -> Result<DeviceFolio<'d, S, E>, Folio<'d, Self>> {
        match self.pagemap_of(&folio) {
            Some(pagemap) => Ok(DeviceFolio { folio, pagemap }),
            None => Err(folio),
        }
    }

    /// The pagemap of a folio. It stays for as long as somebody has a reference on the folio.
    pub(crate) fn pagemap_of(&self, folio: &Folio<'_, Self>) -> Option<NonNull<Pagemap>> {
        // SAFETY: of the words of the head only the index is read, which map counts do not use.
        let descriptors = unsafe { folio.descriptors() };
        let index = PagemapIndex::read(&descriptors.words(0)?)?;
        // A folio of another map of this type may come here: its index means something there.
        if !core::ptr::eq(folio.map(), self) {
            return None;
        }
        self.registry().enter().of_index(index).map(NonNull::from)
    }
}
