// SPDX-License-Identifier: MIT OR Apache-2.0
//! Folios of devices.

use core::fmt;
use core::ops::Deref;
use core::ptr::NonNull;

use mmkit_addr::{Order, Pfn};
use mmkit_page::Folio;
use mmkit_vmemmap::{VmemmapEnv, VmemmapSpace};

use crate::{Devmap, FolioError, Pagemap, kinds};

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

impl<S: VmemmapSpace, E: VmemmapEnv> Devmap<S, E> {
    /// A folio of the frames of a device that nobody uses, whatever kind of memory it is: the `2^order` frames from `pfn` on.
    ///
    /// Of generic memory it is the folio that is ready there, with [the pagemap's own
    /// reference](Self::hand_out). Of others it is [made](Self::allocate), and has a reference for itself, and [as many on the
    /// pagemap](crate::PagemapInfo::references_of) as it has blocks; no file, and nothing that a driver keeps. Linux:
    /// `zone_device_page_init`.
    ///
    /// # Errors
    ///
    /// [`FolioError`], with nothing changed.
    ///
    /// Cost: a lookup, an addition to a counter of this processor and a full fence; a claim for each block.
    pub fn take(&self, pfn: Pfn, order: Order) -> Result<DeviceFolio<'_, S, E>, FolioError> {
        let folio = kinds::take(self.registry(), self, pfn, order)?;
        self.device_folio(folio).map_err(|_| FolioError::NoPagemap { pfn })
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
        match self.held(&folio) {
            Some(held) => Ok(DeviceFolio { folio, pagemap: NonNull::from(&*held) }),
            None => Err(folio),
        }
    }
}
