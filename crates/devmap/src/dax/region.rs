// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that is divided into devices.

use alloc::vec::Vec;
use core::fmt;
use core::ops::ControlFlow;

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_page::Place;
use mmkit_vmemmap::{Executor, Vmemmap, VmemmapEnv, VmemmapSpace};

use super::{DaxDevice, DaxError};
use crate::{BuildError, DevPagemap, Devmap, DevmapError, Kind, MappingId, Revoke};

/// Memory out of which devices are made. Linux: `struct dax_region`.
///
/// A *static* region is one device, of all of it. A *dynamic* one is divided as its user likes, into devices of different
/// alignments, which come and go: what one gives back, another may have, as larger or smaller pages. A device's memory
/// is in several ranges where there is no gap that is large enough.
///
/// While no device has a frame, it has no descriptor, and no lookup finds it.
#[derive(Debug)]
pub struct DaxRegion {
    range: PfnRange,
    place: Place,
    dynamic: bool,
    /// What devices have, in ascending order.
    taken: Vec<PfnRange>,
}

/// Why a region has no such device. Nothing has changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum RegionError {
    /// A device of no frames, or of a number that is not a multiple of its alignment and of the subsection.
    Size {
        /// Frames that were asked for.
        frames: u64,
        /// What that has to be a multiple of.
        unit: Order,
    },
    /// Not so many frames are left, aligned as they have to be.
    Full {
        /// Frames that were asked for.
        frames: u64,
        /// Frames that there are.
        left: u64,
    },
    /// A static region is one device as a whole, and has it already, or was asked for another size.
    Static {
        /// The region.
        range: PfnRange,
    },
    /// The description was refused.
    Build(BuildError),
    /// The device could not be made.
    Dax(DaxError),
    /// No memory for the list of devices.
    NoMemory,
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { frames, unit } => write!(f, "{frames} frames are not a multiple of {unit:?}"),
            Self::Full { frames, left } => write!(f, "{frames} frames of {left} that are left"),
            Self::Static { range } => write!(f, "{range:?} are one device"),
            Self::Build(error) => error.fmt(f),
            Self::Dax(error) => error.fmt(f),
            Self::NoMemory => f.write_str("no memory for the list of devices"),
        }
    }
}

impl core::error::Error for RegionError {}

impl DaxRegion {
    /// A region that is one device.
    #[must_use]
    pub const fn fixed(range: PfnRange, place: Place) -> Self {
        Self { range, place, dynamic: false, taken: Vec::new() }
    }

    /// A region that is divided.
    #[must_use]
    pub const fn dynamic(range: PfnRange, place: Place) -> Self {
        Self { range, place, dynamic: true, taken: Vec::new() }
    }

    /// All of it.
    #[must_use]
    pub const fn range(&self) -> PfnRange {
        self.range
    }

    /// What devices have of it, in ascending order.
    #[must_use]
    pub fn taken(&self) -> &[PfnRange] {
        &self.taken
    }

    /// Frames that no device has.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.range.frames() - self.taken.iter().map(|range| range.frames()).sum::<u64>()
    }

    /// Makes a device of `frames` frames, in pages of `order`, whose file is `mapping`: of the lowest gaps.
    ///
    /// # Errors
    ///
    /// [`RegionError`].
    ///
    /// Cost: that of [`Devmap::register`].
    pub fn create<'d, S: VmemmapSpace, E: VmemmapEnv, X: Executor + ?Sized>(
        &mut self,
        devmap: &'d Devmap<S, E>,
        frames: u64,
        order: Order,
        mapping: MappingId,
        executor: &X,
    ) -> Result<DaxDevice<'d, S, E>, RegionError>
    where
        Vmemmap<S, E>: Sync,
    {
        let geometry = devmap.memory().geometry();
        let unit = order.max(geometry.subsection_order());
        if frames == 0 || frames & unit.mask() != 0 {
            return Err(RegionError::Size { frames, unit });
        }
        if !self.dynamic && (!self.taken.is_empty() || frames != self.range.frames()) {
            return Err(RegionError::Static { range: self.range });
        }
        let parts = self.find(frames, unit)?;
        self.taken.try_reserve(parts.len()).map_err(|_| RegionError::NoMemory)?;
        let builder = DevPagemap::builder(Kind::Generic).order(order).at(self.place);
        let builder = parts.iter().fold(builder, |builder, &part| builder.range(part));
        let pagemap = builder.build(geometry).map_err(RegionError::Build)?;
        let device = DaxDevice::new(devmap, pagemap, mapping, executor).map_err(RegionError::Dax)?;
        self.taken.extend(parts);
        self.taken.sort_unstable_by_key(|range| range.start());
        Ok(device)
    }

    /// The lowest `frames` frames that no device has, in pieces that are multiples of `unit`.
    fn find(&self, frames: u64, unit: Order) -> Result<Vec<PfnRange>, RegionError> {
        let mut parts = Vec::new();
        let mut needed = frames;
        let mut from = self.range.start().get();
        let taken = self.taken.iter().map(|taken| (taken.start().get(), taken.end()));
        for (start, end) in taken.chain([(self.range.end(), self.range.end())]) {
            let gap = Pfn::new(from).and_then(|first| PfnRange::new(first, start - from));
            if let Some(gap) = gap.and_then(|gap| gap.aligned_part(unit)) {
                let part = gap.split_at(needed.min(gap.frames())).map_or(gap, |(part, _)| part);
                parts.try_reserve(1).map_err(|_| RegionError::NoMemory)?;
                parts.push(part);
                needed -= part.frames();
                if needed == 0 {
                    return Ok(parts);
                }
            }
            from = end;
        }
        Err(RegionError::Full { frames, left: self.left() })
    }

    /// Ends a device of this region, and has its frames for others. See [`DaxDevice::end`].
    ///
    /// # Errors
    ///
    /// The device again, killed, to go on with; and why. The region still counts its frames as the device's.
    pub fn destroy<'d, S: VmemmapSpace, E: VmemmapEnv>(
        &mut self,
        device: DaxDevice<'d, S, E>,
        revoke: &dyn Revoke,
        pause: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<(), (DaxDevice<'d, S, E>, DevmapError)> {
        let pagemap = device.end(revoke, pause)?;
        self.taken.retain(|taken| !pagemap.ranges().contains(taken));
        Ok(())
    }
}
