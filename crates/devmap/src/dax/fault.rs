// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who maps a device, and what a fault in such a mapping finds.

use core::fmt;

use mmkit_addr::{Order, VirtAddr, VirtRange};
use mmkit_page::{Folio, MemMap, PageFlags};
use mmkit_vmemmap::{VmemmapEnv, VmemmapSpace};

use super::DaxDevice;
use crate::kinds::HeadWords;
use crate::{Devmap, FilePlace};

/// A range of addresses that maps a device. Linux: a `vm_area_struct` of a `/dev/dax`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DaxMapping {
    /// The addresses.
    pub range: VirtRange,
    /// The position of the first one in the device, in frames.
    pub first: u64,
    /// Writes are seen by others who map it.
    pub shared: bool,
}

/// Why a device cannot be mapped so. Linux: `EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MappingError {
    /// A private mapping would be copied when it is written, into memory that is no device's.
    Private,
    /// A boundary, or the position, is not a multiple of the alignment.
    Misaligned {
        /// The addresses.
        range: VirtRange,
        /// The position.
        first: u64,
        /// The alignment.
        order: Order,
    },
    /// The device is going.
    Gone,
}

impl fmt::Display for MappingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Private => f.write_str("a device is mapped shared only"),
            Self::Misaligned { range, first, order } => {
                write!(f, "{range:?} at {first:#x} is not aligned to {order:?}")
            }
            Self::Gone => f.write_str("the device is going"),
        }
    }
}

impl core::error::Error for MappingError {}

/// Why a fault maps nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultError {
    /// A smaller entry is to be tried. Linux: `VM_FAULT_FALLBACK`.
    Fallback {
        /// What was asked for.
        order: Order,
        /// The alignment.
        alignment: Order,
    },
    /// Whoever touched the address is told. Linux: `VM_FAULT_SIGBUS`.
    Sigbus(Sigbus),
}

/// What is wrong with the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sigbus {
    /// Entries of the device are larger than that.
    SmallEntry {
        /// What was asked for.
        order: Order,
        /// The alignment.
        alignment: Order,
    },
    /// The page reaches out of the mapping, or the address lies outside.
    OutsideMapping {
        /// The address.
        addr: VirtAddr,
    },
    /// The device has nothing there.
    OutsideDevice {
        /// The position, in frames.
        index: u64,
    },
    /// The device is going.
    Gone {
        /// The position, in frames.
        index: u64,
    },
    /// The hardware reported an error there. Linux: `VM_FAULT_HWPOISON`.
    Poisoned {
        /// The position, in frames.
        index: u64,
    },
}

impl fmt::Display for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fallback { order, alignment } => {
                write!(f, "an entry of {order:?} is larger than {alignment:?}")
            }
            Self::Sigbus(sigbus) => sigbus.fmt(f),
        }
    }
}

impl fmt::Display for Sigbus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SmallEntry { order, alignment } => {
                write!(f, "an entry of {order:?} is smaller than {alignment:?}")
            }
            Self::OutsideMapping { addr } => write!(f, "the page of {addr:?} is not all in the mapping"),
            Self::OutsideDevice { index } => write!(f, "the device has no page at {index:#x}"),
            Self::Gone { index } => write!(f, "the device is going; the page at {index:#x} is not mapped"),
            Self::Poisoned { index } => write!(f, "the hardware reported an error in the page at {index:#x}"),
        }
    }
}

impl core::error::Error for FaultError {}

/// What a fault is to map.
#[must_use = "the folio's reference belongs to the entry"]
pub struct DaxFault<'d, S: VmemmapSpace, E: VmemmapEnv> {
    /// The folio, with a reference for the entry. Its place in the device is known.
    pub folio: Folio<'d, Devmap<S, E>>,
    /// The first address that the entry translates.
    pub addr: VirtAddr,
    /// Where that is in the device.
    pub place: FilePlace,
}

impl<S: VmemmapSpace, E: VmemmapEnv> fmt::Debug for DaxFault<'_, S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DaxFault")
            .field("folio", &self.folio)
            .field("addr", &self.addr)
            .field("place", &self.place)
            .finish()
    }
}

impl<'d, S: VmemmapSpace, E: VmemmapEnv> DaxDevice<'d, S, E> {
    /// log2 of the bytes of a page of `order`.
    fn shift(&self, order: Order) -> u32 {
        self.devmap.memory().geometry().base_shift() + u32::from(order.get())
    }

    /// Whether the device may be mapped so. Linux: `check_vma`.
    ///
    /// # Errors
    ///
    /// [`MappingError`].
    pub fn check(&self, mapping: &DaxMapping) -> Result<(), MappingError> {
        let order = self.alignment();
        if !mapping.shared {
            return Err(MappingError::Private);
        }
        if !mapping.range.is_aligned(self.shift(order)) || mapping.first & order.mask() != 0 {
            return Err(MappingError::Misaligned { range: mapping.range, first: mapping.first, order });
        }
        if self.pagemap().is_dead() {
            return Err(MappingError::Gone);
        }
        Ok(())
    }

    /// Whether a mapping of the device may be divided at `addr`. Linux: `dev_dax_may_split`.
    #[must_use]
    pub fn may_divide_at(&self, addr: VirtAddr) -> bool {
        addr.is_aligned(self.shift(self.alignment()))
    }

    /// What an entry of `order` is to map that translates `addr` of `mapping`. Linux: `dev_dax_huge_fault`.
    ///
    /// The folio's place in the device ([`place_in_file`](Devmap::place_in_file)) is that of the page's first address, which is
    /// `addr` rounded *down*. It is written before the folio is returned, into the head alone, by whoever maps the folio
    /// first; after that it stays.
    ///
    /// # Errors
    ///
    /// [`FaultError`], with nothing changed: an `order` below the alignment is an error for whoever touched `addr`, one above
    /// it is to be tried again with less.
    ///
    /// Cost: two compare-exchanges; of the first fault of a page two atomics more.
    pub fn fault(
        &self,
        mapping: &DaxMapping,
        addr: VirtAddr,
        order: Order,
    ) -> Result<DaxFault<'d, S, E>, FaultError> {
        let alignment = self.alignment();
        if order < alignment {
            return Err(FaultError::Sigbus(Sigbus::SmallEntry { order, alignment }));
        }
        if order > alignment {
            return Err(FaultError::Fallback { order, alignment });
        }
        let shift = self.shift(order);
        let start = addr.align_down(shift);
        let outside = FaultError::Sigbus(Sigbus::OutsideMapping { addr });
        let page = VirtRange::new(start, 1 << shift).ok_or(outside)?;
        let into = start.offset_from(mapping.range.start()).ok_or(outside)?;
        if !mapping.range.contains(start) || page.last().is_none_or(|last| !mapping.range.contains(last)) {
            return Err(outside);
        }
        let index = mapping.first.saturating_add(into >> self.shift(Order::ZERO));
        let nothing = FaultError::Sigbus(Sigbus::OutsideDevice { index });
        let pfn = self.frame_at(index, order).ok_or(nothing)?;
        let gone = FaultError::Sigbus(Sigbus::Gone { index });
        if self.pagemap().is_dead() {
            return Err(gone);
        }
        // Ready, so that it can be had, unless somebody else claimed it.
        let folio = self.devmap.try_get(pfn).map_err(|_| gone)?;
        let held = self.devmap.held(&folio).ok_or(gone)?;
        if held.index() != self.pagemap().index() || folio.pfn() != pfn || folio.order() != order {
            return Err(gone);
        }
        if folio.flags().contains(PageFlags::HWPOISON) {
            return Err(FaultError::Sigbus(Sigbus::Poisoned { index }));
        }
        let place = FilePlace { mapping: self.mapping, index };
        HeadWords::of(&folio).name(place);
        Ok(DaxFault { folio, addr: start, place })
    }
}
