// SPDX-License-Identifier: MIT OR Apache-2.0
//! Using a device's memory while the rest of it is being made.

use alloc::boxed::Box;
use core::fmt;
use core::ptr::NonNull;

use mmkit_addr::PfnRange;
use mmkit_vmemmap::{Altmap, Executor, Progress, Staged, Vmemmap, VmemmapEnv, VmemmapSpace};

use super::register::{Stages, given_up, run_all};
use super::{RegisterError, Registration};
use crate::heap::boxed;
use crate::{DevPagemap, Devmap, Pagemap};

/// Device memory that is registered, and of which the descriptors are still being written: each part can be used from the
/// moment when it is. Made by [`Devmap::register_deferred`].
///
/// Not inside a reader: writing, finishing and dropping it take the memory map's lock, under which somebody may be waiting for
/// readers. ([`Pagemap`]s are killed without it.) Any number of threads may [`step`](Self::step). Dropping it kills the pagemap, and writes what is left: what is reserved
/// as a device's is never somebody else's meanwhile. A part whose writing panicked (in the caller's `set_pageblock` or pause) is
/// not begun again, and the memory does not go then.
///
/// ```
/// use mmkit_addr::{Geometry, NodeId, Order, Pfn, PfnRange};
/// use mmkit_devmap::{DevPagemap, Devmap, Kind};
/// use mmkit_frame::{Bare, test_util::TestFrames};
/// use mmkit_pgtable::X86_64;
/// use mmkit_sync::Readers;
/// use mmkit_vmemmap::{TableSpace, Vmemmap, WithTailSlots};
///
/// let memory = TestFrames::with_frames(4096);
/// let env = || Bare::new(memory.frames());
/// let space = TableSpace::<X86_64, _>::new(env(), Geometry::X86_64, NodeId::ZERO)?;
/// let map = Vmemmap::new(Geometry::X86_64, space, WithTailSlots::<_, 1>::new(env()))?;
/// let devmap = Devmap::new(map, Readers::new())?;
///
/// // A gigabyte as 2M pages. Its first section is usable before the others.
/// let range = PfnRange::new(Pfn::new(1 << 20).unwrap(), 1 << 18).unwrap();
/// let huge = Order::new(9).unwrap();
/// let pagemap = DevPagemap::builder(Kind::Generic).range(range).order(huge).build(&Geometry::X86_64)?;
/// let deferred = devmap.register_deferred(pagemap)?;
/// let first = deferred.step().unwrap();
/// assert_eq!((deferred.progress().done, deferred.progress().parts), (1, 8));
/// let folio = devmap.take(first.start(), huge)?;
/// assert!(devmap.take(range.last().unwrap().align_down(huge), huge).is_err());
///
/// // The rest, and then it can be taken away.
/// let registration = deferred.finish();
/// assert!(devmap.take(range.last().unwrap().align_down(huge), huge).is_ok());
/// drop(folio);
/// registration.unregister(&(), |_| std::ops::ControlFlow::Break(())).map_err(|error| error.error)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping it writes what is left, and kills the pagemap"]
pub struct Deferred<'d, S: VmemmapSpace, E: VmemmapEnv> {
    stages: Stages<'d, S, E>,
    /// What the stages use, until they are gone.
    altmap: Option<Lent>,
    /// `None` once it was given out.
    registration: Option<Registration<'d, S, E>>,
}

/// An altmap, if there is one, that a stage uses for as long as the stage is there.
struct Lent(NonNull<Option<Altmap>>);

// SAFETY: an altmap that is owned: numbers.
unsafe impl Send for Lent {}
// SAFETY: as above; nothing is done with a shared one.
unsafe impl Sync for Lent {}

impl Lent {
    fn new(altmap: Box<Option<Altmap>>) -> Self {
        Self(NonNull::from(Box::leak(altmap)))
    }

    /// It is lent no more.
    ///
    /// # Safety
    ///
    /// What it was lent to is gone.
    unsafe fn into_altmap(self) -> Option<Altmap> {
        // SAFETY: leaked by `new`, and nobody has it, by the caller's promise.
        *unsafe { Box::from_raw(self.0.as_ptr()) }
    }
}

impl<S: VmemmapSpace, E: VmemmapEnv> Devmap<S, E> {
    /// [`register`](Self::register) for who cannot wait: everything that can fail is done, the intervals are visible, and the
    /// descriptors are written by [`Deferred::step`], part by part, each visible when it is written.
    ///
    /// A part is a section, or a compound where that is larger. A lookup finds the pagemap of a frame that is not there yet;
    /// who wants a folio of it is told [`FolioError::NoPagemap`](crate::FolioError::NoPagemap), as if it were no device's.
    ///
    /// # Errors
    ///
    /// Those of [`register`](Self::register).
    pub fn register_deferred(&self, pagemap: DevPagemap) -> Result<Deferred<'_, S, E>, RegisterError> {
        let DevPagemap { info, altmap } = pagemap;
        let mut place = match boxed(None) {
            Ok(place) => place,
            Err(error) => return Err(RegisterError { error, pagemap: Some(DevPagemap { info, altmap }) }),
        };
        let reserved = match self.registry().reserve(info) {
            Ok(reserved) => reserved,
            Err((info, error)) => {
                return Err(RegisterError { error, pagemap: info.map(|info| DevPagemap { info, altmap }) });
            }
        };
        *place = altmap;
        let mut altmap = Lent::new(place);
        // SAFETY: leaked, so it is in place until it is taken back, after the stages; and lent once.
        let lent = unsafe { altmap.0.as_mut() };
        match self.stage_all(&reserved, lent.as_mut(), true) {
            Ok(stages) => {
                self.populated(&reserved);
                reserved.pagemap().hold();
                reserved.show();
                let registration = Some(Registration::new(self, reserved, None));
                Ok(Deferred { stages: Stages(stages), altmap: Some(altmap), registration })
            }
            // SAFETY: no stage is left.
            Err(error) => Err(given_up(reserved, error, unsafe { altmap.into_altmap() })),
        }
    }
}

impl<'d, S: VmemmapSpace, E: VmemmapEnv> Deferred<'d, S, E> {
    /// The pagemap.
    #[must_use]
    pub fn pagemap(&self) -> &Pagemap {
        match &self.registration {
            Some(registration) => registration.pagemap(),
            None => unreachable!("it is given out by what consumes this"),
        }
    }

    /// Writes one part that nobody has begun and shows it: its frames, of the first range that has one left; `None` where all are
    /// begun. Any number of threads may do this at once. See [`Staged::step`].
    pub fn step(&self) -> Option<PfnRange> {
        self.stages.0.iter().find_map(Staged::step)
    }

    /// Has `executor` write all parts that nobody has begun.
    pub fn write<X: Executor + ?Sized>(&self, executor: &X)
    where
        Vmemmap<S, E>: Sync,
    {
        run_all(&self.stages.0, executor);
    }

    /// How far it is: all ranges together.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let none = Progress { parts: 0, done: 0 };
        self.stages
            .0
            .iter()
            .map(Staged::progress)
            .fold(none, |sum, of| Progress { parts: sum.parts + of.parts, done: sum.done + of.done })
    }

    /// Writes what is left. From now on it is as if it had been registered at once.
    pub fn finish(mut self) -> Registration<'d, S, E> {
        self.write_rest();
        match self.registration.take() {
            Some(registration) => registration,
            None => unreachable!("it is given out here"),
        }
    }

    /// Writes what is left of all stages, which are gone then, and gives the altmap back.
    fn write_rest(&mut self) {
        self.stages.publish();
        if let (Some(lent), Some(registration)) = (self.altmap.take(), &mut self.registration) {
            // SAFETY: the stages are gone.
            registration.set_altmap(unsafe { lent.into_altmap() });
        }
    }
}

impl<S: VmemmapSpace, E: VmemmapEnv> Drop for Deferred<'_, S, E> {
    fn drop(&mut self) {
        if let Some(registration) = &self.registration {
            registration.kill();
            self.write_rest();
        }
    }
}

impl<S: VmemmapSpace, E: VmemmapEnv> fmt::Debug for Deferred<'_, S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deferred")
            .field("registration", &self.registration)
            .field("progress", &self.progress())
            .finish()
    }
}
