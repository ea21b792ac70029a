// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device whose memory is mapped.

use core::fmt;
use core::ops::ControlFlow;

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_vmemmap::{Executor, Vmemmap, VmemmapEnv, VmemmapSpace};

use crate::{
    DevPagemap, Devmap, Kind, MappingId, Pagemap, RegisterError, Registration, Revoke, UnregisterError,
};

/// Memory that is handed to one user as a whole, who maps it by pages of one size, the *alignment*. Linux: `struct dev_dax`.
///
/// Its [order](crate::PagemapInfo::order) is the alignment: each page is a folio from the beginning, so one fault maps one
/// folio by one entry, and its counts are those of any other folio. A user sees the device as a file of
/// [`frames`](Self::frames) frames: its ranges one behind the other, without what an altmap sets aside.
///
/// See [`DaxRegion`](crate::DaxRegion) for devices that come and go within one memory.
#[must_use = "dropping it ends the device, and its memory can never be used again"]
pub struct DaxDevice<'d, S: VmemmapSpace, E: VmemmapEnv> {
    pub(super) devmap: &'d Devmap<S, E>,
    registration: Registration<'d, S, E>,
    pub(super) mapping: MappingId,
}

/// Why there is no such device.
#[derive(Debug)]
#[non_exhaustive]
pub enum DaxError {
    /// Memory of that kind is not for device-dax.
    OtherKind {
        /// The description.
        pagemap: DevPagemap,
    },
    /// No entry of the machine's page tables maps so many frames.
    Alignment {
        /// The order of the description.
        order: Order,
        /// The description.
        pagemap: DevPagemap,
    },
    /// The memory could not be registered.
    Register(RegisterError),
}

impl fmt::Display for DaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherKind { pagemap } => write!(f, "{} memory is not for device-dax", pagemap.kind()),
            Self::Alignment { order, .. } => write!(f, "no entry maps {order:?}"),
            Self::Register(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for DaxError {}

impl<'d, S: VmemmapSpace, E: VmemmapEnv> DaxDevice<'d, S, E> {
    /// Registers `pagemap`, of generic memory, as a device whose file is `mapping`.
    ///
    /// # Errors
    ///
    /// [`DaxError`], with the description in it and nothing changed.
    ///
    /// Cost: that of [`Devmap::register`].
    pub fn new<X: Executor + ?Sized>(
        devmap: &'d Devmap<S, E>,
        pagemap: DevPagemap,
        mapping: MappingId,
        executor: &X,
    ) -> Result<Self, DaxError>
    where
        Vmemmap<S, E>: Sync,
    {
        if pagemap.kind() != Kind::Generic {
            return Err(DaxError::OtherKind { pagemap });
        }
        let order = pagemap.order();
        if devmap.memory().geometry().leaf_level(order).is_none() {
            return Err(DaxError::Alignment { order, pagemap });
        }
        let registration = devmap.register(pagemap, executor).map_err(DaxError::Register)?;
        Ok(Self { devmap, registration, mapping })
    }

    /// Its pagemap.
    #[must_use]
    pub fn pagemap(&self) -> &Pagemap {
        self.registration.pagemap()
    }

    /// Log2 of the frames of a page of it.
    #[must_use]
    pub fn alignment(&self) -> Order {
        self.pagemap().order()
    }

    /// The device's name as a file.
    #[must_use]
    pub const fn mapping(&self) -> MappingId {
        self.mapping
    }

    /// Its ranges as users see them.
    fn parts(&self) -> impl Iterator<Item = PfnRange> {
        let set_aside = self.pagemap().set_aside();
        self.pagemap().ranges().iter().map(move |&range| match set_aside {
            // At the beginning of the one range.
            Some(set_aside) if range.overlaps(set_aside) => {
                range.split_at(set_aside.frames()).map_or(range, |(_, rest)| rest)
            }
            _ => range,
        })
    }

    /// How many frames users see.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.parts().map(PfnRange::frames).sum()
    }

    /// The first of the `2^order` frames that users see from position `index` on, if those are one naturally aligned
    /// block. Linux: `dax_pgoff_to_phys`.
    #[must_use]
    pub fn frame_at(&self, index: u64, order: Order) -> Option<Pfn> {
        let mut left = index;
        for part in self.parts() {
            if left < part.frames() {
                let pfn = part.start().checked_add(left)?;
                let fits = part.frames() - left >= order.frames() && pfn.is_aligned(order);
                return fits.then_some(pfn);
            }
            left -= part.frames();
        }
        None
    }

    /// From now on nobody gets at its memory who has not got it yet. Linux: `kill_dev_dax`.
    pub fn kill(&self) {
        self.registration.kill();
    }

    /// Ends the device: see [`Registration::unregister`].
    ///
    /// # Errors
    ///
    /// The device again, killed, to go on with; and why.
    pub fn end(
        self,
        revoke: &dyn Revoke,
        pause: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<DevPagemap, (Self, crate::DevmapError)> {
        let Self { devmap, registration, mapping } = self;
        registration.unregister(revoke, pause).map_err(|UnregisterError { error, registration }| {
            (Self { devmap, registration, mapping }, error)
        })
    }
}

impl<S: VmemmapSpace, E: VmemmapEnv> fmt::Debug for DaxDevice<'_, S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DaxDevice")
            .field("mapping", &self.mapping)
            .field("pagemap", self.pagemap())
            .finish_non_exhaustive()
    }
}
