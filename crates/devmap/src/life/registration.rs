// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking a device's memory away.

use alloc::boxed::Box;
use core::fmt;
use core::ops::ControlFlow;

use mmkit_addr::PfnRange;
use mmkit_vmemmap::{Altmap, VmemmapEnv, VmemmapSpace};

use crate::registry::Reserved;
use crate::{DevPagemap, Devmap, DevmapError, Kind, Pagemap, PagemapInfo, kinds};

/// Takes frames out of the address spaces that map them: what a memory manager does for
/// [`Registration::unregister`].
pub trait Revoke {
    /// Removes every translation to a frame of `range`, flushes, and puts the references that the translations had. New
    /// ones may come about while the call lasts, of those who had a reference before the pagemap was killed: it is made
    /// again for them. Linux: `unmap_mapping_range` on each of the device's mappings.
    fn revoke(&self, range: PfnRange);
}

/// Nobody maps the memory.
impl Revoke for () {
    fn revoke(&self, _: PfnRange) {}
}

impl<R: Revoke + ?Sized> Revoke for &R {
    fn revoke(&self, range: PfnRange) {
        (**self).revoke(range);
    }
}

/// The one right to take a device's memory away. Made by [`Devmap::register`].
///
/// Callbacks are not given it. Dropping it kills the pagemap: nobody gets a new reference; but it frees nothing, and the
/// memory stays for those who have one, and its intervals reserved, for as long as the [`Devmap`] exists.
#[must_use = "dropping it kills the pagemap, and nobody can take the memory away any more"]
pub struct Registration<'d, S: VmemmapSpace, E: VmemmapEnv> {
    devmap: &'d Devmap<S, E>,
    /// Until it is released.
    reserved: Option<Reserved<'d, E::Read, E::Lock>>,
    altmap: Option<Altmap>,
    /// Whether the references that stand for the memory were put.
    let_go: bool,
    /// Ranges that are out of the memory map, counted from the last.
    removed: usize,
}

/// A pagemap that is not gone, and why. It is killed; trying again goes on where this stopped.
pub struct UnregisterError<'d, S: VmemmapSpace, E: VmemmapEnv> {
    /// Why.
    pub error: DevmapError,
    /// The right to try again.
    pub registration: Registration<'d, S, E>,
}

impl<S: VmemmapSpace, E: VmemmapEnv> fmt::Debug for UnregisterError<'_, S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnregisterError({:?})", self.error)
    }
}

impl<S: VmemmapSpace, E: VmemmapEnv> fmt::Display for UnregisterError<'_, S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<S: VmemmapSpace, E: VmemmapEnv> core::error::Error for UnregisterError<'_, S, E> {}

impl<'d, S: VmemmapSpace, E: VmemmapEnv> Registration<'d, S, E> {
    pub(super) fn new(
        devmap: &'d Devmap<S, E>,
        reserved: Reserved<'d, E::Read, E::Lock>,
        altmap: Option<Altmap>,
    ) -> Self {
        Self { devmap, reserved: Some(reserved), altmap, let_go: false, removed: 0 }
    }

    /// The altmap comes back, from where it was in use.
    pub(super) fn set_altmap(&mut self, altmap: Option<Altmap>) {
        self.altmap = altmap;
    }

    /// The pagemap.
    #[must_use]
    pub fn pagemap(&self) -> &Pagemap {
        match &self.reserved {
            Some(reserved) => reserved.pagemap(),
            None => {
                unreachable!("it is taken by what consumes the registration, and put back where that fails")
            }
        }
    }

    /// From now on nobody gets a reference or finds the pagemap; who has one keeps it. Linux: `percpu_ref_kill`.
    ///
    /// It takes no lock and waits for nobody, so it may be called from inside a reader. A lookup that meets another pagemap
    /// being registered or released at this moment may still find this one, dead.
    ///
    /// Cost: a full fence, the registry's read side, and a look at each interval of the registry.
    pub fn kill(&self) {
        if let Some(reserved) = &self.reserved {
            reserved.kill();
        }
    }

    /// Takes the memory away: descriptors, intervals, pagemap. The description comes back, and can be registered again.
    /// Linux: `memunmap_pages`.
    ///
    /// 1. *Kill* it: no lookup finds it, no reference is given out.
    /// 2. *Revoke* the translations of user memory, by `revoke`.
    /// 3. *Wait* for the last reference: `pause` is called with a count from 0 for as long as there is one, to sleep, spin, or
    ///    give up.
    /// 4. *Remove* the ranges from the memory map: hidden, readers waited for, unmapped, flushed, frames given back.
    /// 5. *Release* the intervals, wait for readers of the registry, free the pagemap.
    ///
    /// Translations that come about late, from those who had a reference before 1, are revoked again while it waits.
    ///
    /// # Errors
    ///
    /// The registration, and why: [`DevmapError::Held`] where `pause` gave up, [`DevmapError::Memory`] where somebody has
    /// claimed a free frame. The pagemap is killed, everything else is as it was or gone, range by range; trying again goes on
    /// from there.
    ///
    /// Folios of generic memory that somebody let rest past the pagemap ([`Devmap`]) are found when it is tried again.
    ///
    /// Cost: two loads per processor each time it looks for references; that of [`mmkit_vmemmap::Vmemmap::remove`]
    /// for each range; a wait for readers. Of generic memory two compare-exchanges for each folio the first time, and a look at
    /// each when it is tried again.
    pub fn unregister(
        mut self,
        revoke: &dyn Revoke,
        pause: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<DevPagemap, UnregisterError<'d, S, E>> {
        match self.take_away(revoke, pause) {
            Ok(info) => Ok(DevPagemap { info, altmap: self.altmap.take() }),
            Err(error) => Err(UnregisterError { error, registration: self }),
        }
    }

    fn take_away(
        &mut self,
        revoke: &dyn Revoke,
        pause: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Box<PagemapInfo>, DevmapError> {
        let Self { devmap, reserved: Some(reserved), let_go, .. } = self else {
            return Err(DevmapError::NoRange);
        };
        let devmap: &Devmap<S, E> = devmap;
        let stop = |pagemap: &Pagemap| match pagemap.kind() {
            Kind::Generic => kinds::retire_all(devmap.registry(), devmap, pagemap),
            // SAFETY: `hold` took them before the intervals were shown, and they are put once: this is called once.
            _ => unsafe { pagemap.let_go() },
        };
        if *let_go && reserved.pagemap().kind() == Kind::Generic {
            kinds::put_lost(devmap.registry(), devmap, reserved.pagemap());
        }
        let retired = reserved.retire(let_go, stop, &mut |range| revoke.revoke(range), pause);
        if let (Err(held), Some(&range)) = (retired, reserved.pagemap().ranges().first()) {
            return Err(DevmapError::Held { range, held });
        }
        reserved.pagemap().folios.forgive(devmap);
        // Nobody has a folio of it. What is populated in the intervals from now on is others'.
        reserved.pagemap().set_populated(false);
        self.remove()?;
        let Some(reserved) = self.reserved.take() else { return Err(DevmapError::NoRange) };
        reserved.release().map_err(|(reserved, error)| {
            self.reserved = Some(reserved);
            error
        })
    }

    /// Takes what is left of the ranges out of the memory map, from the last on.
    fn remove(&mut self) -> Result<(), DevmapError> {
        let Self { devmap, reserved: Some(reserved), altmap, removed, .. } = self else {
            return Ok(());
        };
        let (pagemap, place) = (reserved.pagemap(), reserved.pagemap().place());
        let (ranges, spans) = (pagemap.ranges(), devmap.spans.find(place.node));
        while let Some(&range) = ranges.len().checked_sub(*removed + 1).and_then(|at| ranges.get(at)) {
            // Before: a span that is contiguous has no holes.
            let described = pagemap.described(range);
            let gone = spans.is_none_or(|spans| spans.remove(place.zone, described).is_ok());
            debug_assert!(gone, "it was added when it was populated");
            let result = match altmap {
                Some(altmap) => devmap.memory().remove_altmap(range, altmap),
                None => devmap.memory().remove(range),
            };
            if let Err(cause) = result {
                let back = spans.is_none_or(|spans| spans.add(place.zone, described).is_ok());
                debug_assert!(back, "it was there");
                return Err(DevmapError::Memory { range, cause });
            }
            *removed += 1;
        }
        Ok(())
    }
}

impl<S: VmemmapSpace, E: VmemmapEnv> Drop for Registration<'_, S, E> {
    fn drop(&mut self) {
        self.kill();
    }
}

impl<S: VmemmapSpace, E: VmemmapEnv> fmt::Debug for Registration<'_, S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("pagemap", &self.reserved.as_ref().map(Reserved::pagemap))
            .field("let_go", &self.let_go)
            .field("removed", &self.removed)
            .finish()
    }
}
