// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making a device's memory usable.

use alloc::vec::Vec;
use core::fmt;

use mmkit_addr::PfnRange;
use mmkit_sync::{RawLock, ReadSide};
use mmkit_vmemmap::{Altmap, Executor, Populate, Staged, Vmemmap, VmemmapEnv, VmemmapError, VmemmapSpace};

use super::Registration;
use crate::heap::list;
use crate::registry::Reserved;
use crate::{DevPagemap, Devmap, DevmapError, Kind, PagemapInfo, kinds};

/// A description that was not registered, and why.
#[derive(Debug)]
pub struct RegisterError {
    /// Why.
    pub error: DevmapError,
    /// The description, as it was. `None` only if readers could not be waited for in the middle: then it is never freed, since
    /// somebody may look at it, and its intervals may stay reserved.
    pub pagemap: Option<DevPagemap>,
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl core::error::Error for RegisterError {}

impl<S: VmemmapSpace, E: VmemmapEnv> Devmap<S, E> {
    /// Gives the memory of `pagemap` descriptors, and makes it usable. `executor` runs what takes long. Linux:
    /// `memremap_pages`.
    ///
    /// 1. *Reserve* all intervals, so that nobody else begins with one of them.
    /// 2. *Populate*: reserve and map the descriptors of one range after the other. Everything that can fail is done.
    /// 3. *Initialise* the descriptors, in parts, on as many threads as `executor` has, without a lock.
    /// 4. *Publish*: the frames get present in the memory map, and last, lookups find the pagemap.
    ///
    /// The thread is not inside a reader.
    ///
    /// # Errors
    ///
    /// [`DevmapError`], with the description and everything else as before: what was done of the ranges before is undone.
    /// [`DevmapError::Overlap`] where another pagemap has a frame of it, [`DevmapError::Ram`] where the machine has one.
    ///
    /// Cost: for each part of a range a hold of the memory map's lock; a wait for readers of the registry; each descriptor
    /// is written once.
    pub fn register<X: Executor + ?Sized>(
        &self,
        pagemap: DevPagemap,
        executor: &X,
    ) -> Result<Registration<'_, S, E>, RegisterError>
    where
        Vmemmap<S, E>: Sync,
    {
        let DevPagemap { info, mut altmap } = pagemap;
        let reserved = match self.registry().reserve(info) {
            Ok(reserved) => reserved,
            Err((info, error)) => {
                return Err(RegisterError { error, pagemap: info.map(|info| DevPagemap { info, altmap }) });
            }
        };
        match self.populate(&reserved, altmap.as_mut(), executor) {
            Ok(()) => {
                reserved.pagemap().hold();
                reserved.show();
                Ok(Registration::new(self, reserved, altmap))
            }
            Err(error) => Err(given_up(reserved, error, altmap)),
        }
    }

    /// Descriptors for all ranges, in the memory map at last; or for none.
    fn populate<X: Executor + ?Sized>(
        &self,
        reserved: &Reserved<'_, E::Read, E::Lock>,
        altmap: Option<&mut Altmap>,
        executor: &X,
    ) -> Result<(), DevmapError>
    where
        Vmemmap<S, E>: Sync,
    {
        let stages = self.stage_all(reserved, altmap, false)?;
        run_all(&stages, executor);
        self.populated(reserved);
        Stages(stages).publish();
        Ok(())
    }

    /// Memory for the descriptors of all ranges, or of none. Dropping what is staged undoes it. `deferred` as
    /// [`Staged::deferred`] has it.
    pub(super) fn stage_all<'a>(
        &'a self,
        reserved: &Reserved<'_, E::Read, E::Lock>,
        altmap: Option<&'a mut Altmap>,
        deferred: bool,
    ) -> Result<Vec<Staged<'a, S, E>>, DevmapError> {
        let info: &PagemapInfo = reserved.pagemap();
        let mut stages = list(info.ranges().len())?;
        // So that nothing fails when they are extended.
        self.spans.of(info.place().node)?;
        let mut altmap = altmap;
        for &range in info.ranges() {
            let mut request = Populate::new(range).compounds(info.order()).at(info.place());
            if info.kind() == Kind::Generic {
                let words = kinds::ready_words(reserved.pagemap().index());
                // SAFETY: the memory is this pagemap's, whose intervals are reserved.
                request = unsafe { request.held(words) };
            }
            if let Some(altmap) = altmap.take() {
                request = request.altmap(altmap);
            }
            if let Some(kind) = info.pageblocks {
                request = request.pageblocks(kind);
            }
            let staged = self.memory().stage(request).map_err(|cause| refused(range, cause))?;
            stages.push(if deferred { staged.deferred() } else { staged });
        }
        Ok(stages)
    }

    /// All of its memory is staged, and none of it visible. From now on what is found there is its own, and spanned.
    pub(super) fn populated(&self, reserved: &Reserved<'_, E::Read, E::Lock>) {
        let pagemap = reserved.pagemap();
        pagemap.set_populated(true);
        let place = pagemap.place();
        if let Some(spans) = self.spans.find(place.node) {
            for &range in pagemap.ranges() {
                let added = spans.add(place.zone, pagemap.described(range));
                debug_assert!(added.is_ok(), "intervals of the registry do not overlap: {added:?}");
            }
        }
    }
}

/// The description again, of what could not be registered.
pub(super) fn given_up<R: ReadSide, L: RawLock>(
    reserved: Reserved<'_, R, L>,
    error: DevmapError,
    altmap: Option<Altmap>,
) -> RegisterError {
    let info = reserved.release().ok();
    RegisterError { error, pagemap: info.map(|info| DevPagemap { info, altmap }) }
}

/// What is staged of a pagemap that is found to be populated: if a callback panics half way, the frames stay reserved, and
/// are not given to somebody else.
pub(super) struct Stages<'m, S: VmemmapSpace, E: VmemmapEnv>(pub(super) Vec<Staged<'m, S, E>>);

impl<S: VmemmapSpace, E: VmemmapEnv> Stages<'_, S, E> {
    /// Makes all of them visible, one after the other.
    pub(super) fn publish(&mut self) {
        while let Some(stage) = self.0.pop() {
            stage.publish();
        }
    }
}

impl<S: VmemmapSpace, E: VmemmapEnv> Drop for Stages<'_, S, E> {
    fn drop(&mut self) {
        while let Some(stage) = self.0.pop() {
            core::mem::forget(stage);
        }
    }
}

/// Writes all parts of all stages, those of different ranges beside each other.
pub(super) fn run_all<S: VmemmapSpace, E: VmemmapEnv, X: Executor + ?Sized>(
    stages: &[Staged<'_, S, E>],
    executor: &X,
) where
    Vmemmap<S, E>: Sync,
{
    let parts = stages.iter().map(|stage| stage.progress().parts).sum();
    executor.run(parts, &|_| {
        // Whichever range has something left.
        let _ = stages.iter().find_map(Staged::step);
    });
}

/// What the memory map's refusal of a range means for a device.
fn refused(range: PfnRange, cause: VmemmapError) -> DevmapError {
    match cause {
        // No pagemap has it, since the interval is reserved.
        VmemmapError::Present { .. } | VmemmapError::Staged { .. } | VmemmapError::Early { .. } => {
            DevmapError::Ram { range, cause }
        }
        cause => DevmapError::Memory { range, cause },
    }
}
