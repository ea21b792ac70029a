// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hardware reported an error in a frame of a device.

use core::fmt;

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_page::{Folio, MemMap, PageFlags};
use mmkit_vmemmap::{VmemmapEnv, VmemmapSpace};

use crate::kinds::{FolioError, HeadWords, why_taken};
use crate::{Devmap, Failed, Kind, Pagemap, Provided};

/// The address spaces that may map a bad frame.
pub trait Victims<M: MemMap> {
    /// The order of the largest entry that maps frame `pfn` of `folio` in any of them; `None` where none does. Linux:
    /// `collect_procs` and `dev_pagemap_mapping_shift`.
    fn largest_mapping(&self, folio: &Folio<'_, M>, pfn: Pfn) -> Option<Order>;

    /// Takes the frames around the bad one, in all of them, out of their translations, and stops everybody who would touch them:
    /// nothing else can be done about storage. Whether that succeeded. It is called once for each failure, with the folio marked, so that
    /// no new entry comes about. Linux: `unmap_mapping_range` and `kill_procs`, which must kill.
    fn report(&self, folio: &Folio<'_, M>, report: Report) -> bool;
}

/// What victims are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The bad frame.
    pub pfn: Pfn,
    /// Log2 of the frames that nobody can use any more where the largest entry maps them: `pfn` is in that naturally aligned
    /// block. Linux: `si_addr_lsb`.
    pub order: Order,
}

impl Report {
    /// The frames that are to be unmapped.
    #[must_use]
    pub const fn frames(&self) -> PfnRange {
        PfnRange::block(self.pfn.align_down(self.order), self.order)
    }
}

/// What became of a bad frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The driver has dealt with it.
    Driver,
    /// Its folio is marked, and those who mapped it were told.
    Reported(Report),
    /// Its folio is marked. Nobody mapped it.
    NotMapped,
    /// Nobody used it. It is kept from everybody for as long as the device is there.
    Unused,
    /// The frame was known to be bad. Nobody was told again.
    Known,
}

/// Why a bad frame was not dealt with. No folio is marked, unless it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureError {
    /// The frame is no device's, or nobody's of one that is going. Linux: `ENXIO`.
    Foreign {
        /// The frame.
        pfn: Pfn,
    },
    /// Descriptors of the device's memory lie in the frame. Nothing can be done about those. Linux: `ENXIO`.
    Metadata {
        /// The frame.
        pfn: Pfn,
        /// The frames in which there are descriptors.
        set_aside: PfnRange,
    },
    /// The driver failed.
    Device {
        /// The frame.
        pfn: Pfn,
        /// What it said.
        error: Failed,
    },
    /// Memory of a kind that only its driver knows how to deal with, and it did not. Linux: `ENXIO`.
    OnlyDriver {
        /// The frame.
        pfn: Pfn,
        /// The kind.
        kind: Kind,
    },
    /// The frame is being handed out or taken back: try again.
    Busy {
        /// The frame.
        pfn: Pfn,
    },
    /// The folio is marked, and somebody who mapped it could not be stopped. Linux: `MF_FAILED`.
    NotStopped(Report),
}

impl fmt::Display for FailureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign { pfn } => write!(f, "no device has {pfn:?}"),
            Self::Metadata { pfn, set_aside } => {
                write!(f, "descriptors of the device lie in {pfn:?}, of {set_aside:?}")
            }
            Self::Device { pfn, error } => write!(f, "{pfn:?}: {error}"),
            Self::OnlyDriver { pfn, kind } => {
                write!(f, "the driver of {kind} memory did not deal with {pfn:?}")
            }
            Self::Busy { pfn } => write!(f, "{pfn:?} is being handed out or taken back"),
            Self::NotStopped(report) => write!(f, "somebody still maps {:?}", report.frames()),
        }
    }
}

impl core::error::Error for FailureError {}

/// Whether the frame can be dealt with at all, and what the driver made of it; `None` where it has nothing for this, and the
/// kit can go on.
fn by_driver(pagemap: &Pagemap, pfn: Pfn) -> Result<Option<Failure>, FailureError> {
    if let Some(set_aside) = pagemap.set_aside().filter(|set_aside| set_aside.contains(pfn)) {
        return Err(FailureError::Metadata { pfn, set_aside });
    }
    if let Some(driver) = pagemap.operations(Provided::MEMORY_FAILURE) {
        match driver.memory_failure(PfnRange::block(pfn, Order::ZERO)) {
            Ok(()) => return Ok(Some(Failure::Driver)),
            Err(Failed::Unsupported) => {}
            Err(error) => return Err(FailureError::Device { pfn, error }),
        }
    }
    match pagemap.kind() {
        kind @ (Kind::Private | Kind::Coherent) => Err(FailureError::OnlyDriver { pfn, kind }),
        _ => Ok(None),
    }
}

impl<S: VmemmapSpace, E: VmemmapEnv> Devmap<S, E> {
    /// Deals with frame `pfn`, in which the hardware reported an error, if it is a device's. Linux:
    /// `memory_failure_dev_pagemap`.
    ///
    /// 1. The driver is asked ([`Operations::memory_failure`](crate::Operations::memory_failure)).
    /// 2. If it has nothing for this: the folio's head is marked ([`HWPOISON`](PageFlags::HWPOISON)), and the frame itself
    ///    where its descriptor is its own. From now on the folio is not handed out or mapped.
    /// 3. Those who map it are [told](Victims::report), once, with the size of the largest entry.
    ///
    /// Of a pagemap that is going the same is done where somebody still has a folio of the frame; what nobody has any more is
    /// [`Foreign`](FailureError::Foreign).
    ///
    /// What nobody uses is kept from everybody. When a folio that is marked loses its last reference, its good frames are
    /// free again, and the bad one is kept. All marks end with the device's registration.
    ///
    /// # Errors
    ///
    /// [`FailureError`].
    pub fn memory_failure(&self, pfn: Pfn, victims: &dyn Victims<Self>) -> Result<Failure, FailureError> {
        if let Some(pagemap) = self.registry().get(pfn) {
            if let Some(done) = by_driver(&pagemap, pfn)? {
                return Ok(done);
            }
            return match self.try_get(pfn) {
                Ok(folio) => self.fail_folio(&folio, pfn, victims),
                Err(_) => self.fail_unused(&pagemap, pfn),
            };
        }
        // No lookup finds a pagemap that is going. Whoever has a folio of it has the pagemap.
        if let Ok(folio) = self.try_get(pfn)
            && let Some(pagemap) = self.held(&folio)
        {
            return match by_driver(&pagemap, pfn)? {
                Some(done) => Ok(done),
                None => self.fail_folio(&folio, pfn, victims),
            };
        }
        // Nor has anybody a folio of frames that are set aside.
        let reader = self.registry().enter();
        let going = reader.find_reserved(pfn).filter(|pagemap| pagemap.is_populated());
        Err(match going.and_then(|pagemap| pagemap.set_aside()).filter(|set_aside| set_aside.contains(pfn)) {
            Some(set_aside) => FailureError::Metadata { pfn, set_aside },
            None => FailureError::Foreign { pfn },
        })
    }

    fn fail_folio(
        &self,
        folio: &Folio<'_, Self>,
        pfn: Pfn,
        victims: &dyn Victims<Self>,
    ) -> Result<Failure, FailureError> {
        let index = pfn.get() - folio.pfn().get();
        let marked = |index| folio.flags_at(index).is_some_and(|flags| flags.contains(PageFlags::HWPOISON));
        // What is known of the frame itself: by its own descriptor, or, of the first, by a note beside the folio's mark. Of
        // frames that have neither it is not known, and they are reported again.
        let known = if index > 0 {
            let known = marked(index);
            folio.insert_at(index..index + 1, PageFlags::HWPOISON);
            known
        } else {
            let noted = self.held(folio).filter(|held| matches!(held.kind(), Kind::FsDax | Kind::Generic));
            noted.is_some_and(|_| HeadWords::of(folio).set_head_bad())
        };
        folio.insert(PageFlags::HWPOISON);
        if known {
            return Ok(Failure::Known);
        }
        let Some(order) = victims.largest_mapping(folio, pfn) else { return Ok(Failure::NotMapped) };
        let report = Report { pfn, order };
        if victims.report(folio, report) {
            Ok(Failure::Reported(report))
        } else {
            Err(FailureError::NotStopped(report))
        }
    }

    /// Marks a frame that nobody uses, and keeps it.
    fn fail_unused(&self, pagemap: &Pagemap, pfn: Pfn) -> Result<Failure, FailureError> {
        let head = pfn.align_down(pagemap.order());
        match self.claim(head) {
            Ok(free) => {
                let mut frozen = free.allocate();
                let index = pfn.get() - head.get();
                frozen.insert_at(index..index + 1, PageFlags::HWPOISON);
                frozen.insert_at(0..1, PageFlags::HWPOISON);
                pagemap.folios.bad.push(frozen);
                // Somebody may have found the frame in this thread's hands, and wait.
                pagemap.tell_idle(PfnRange::block(head, pagemap.order()));
                Ok(Failure::Unused)
            }
            Err(error) => match why_taken(self, head, error) {
                FolioError::Poisoned { .. } => Ok(Failure::Known),
                // Not written yet.
                FolioError::NoPagemap { pfn } => Err(FailureError::Foreign { pfn }),
                _ => Err(FailureError::Busy { pfn }),
            },
        }
    }
}
