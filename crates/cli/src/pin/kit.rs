// SPDX-License-Identifier: MIT OR Apache-2.0
//! This kit's side: address spaces in this process, with real memory.

use std::fmt;
use std::time::Duration;

use mmkit_addr::{Order, VirtAddr, VirtRange};
use mmkit_folio::{Hold, NoPageMapcount, PowerSums};
use mmkit_gup::{Extent, Extents, PageRef, Pages, Refusal, Request, Run, Sink};
use mmkit_host::memory_budget;
use mmkit_oracle::hvo::median;
use mmkit_oracle::pin::Shape;
use mmkit_sim::{Area, PMD_ORDER};
use mmkit_sync::atomic::AtomicU64;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::failure::Failure;
use crate::progress::Progress;
use crate::size::rough;

/// Bytes of a base page, and of a huge one, of the address spaces.
const BASE_BYTES: u64 = 4096;
pub(super) const HUGE_BYTES: u64 = BASE_BYTES << PMD_ORDER.get();

/// Where the memory is mapped.
const START: VirtAddr = VirtAddr::new(1 << 30);

type World<'i> = mmkit_sim::World<'i, NoPageMapcount<PowerSums>>;
type Space<'w> = mmkit_sim::AddressSpace<'w, NoPageMapcount<PowerSums>>;

/// What the kit takes. Times are medians, in nanoseconds for each base page.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Kit {
    pub(crate) pages: u64,
    /// Runs of consecutive frames, across folios.
    pub(crate) extents: u64,
    /// Atomic operations on counts of folios that holding takes: one on references for each run within a folio, and one on pins
    /// of a folio of several pages.
    pub(crate) atomics: u64,
    /// Into extents, and back.
    pub(crate) extents_ns: f64,
    pub(crate) unpin_extents_ns: f64,
    /// Into a page array, and back.
    pub(crate) pages_ns: f64,
    pub(crate) unpin_pages_ns: f64,
}

/// Measures it, or says why not.
pub(crate) fn measure(
    bytes: u64,
    shape: Shape,
    request: Request,
    batch: Option<u64>,
    repeats: usize,
    progress: &mut Progress,
) -> Result<Result<Kit, String>, Failure> {
    let pages = bytes / BASE_BYTES;
    // A last-level table for each huge page, and some.
    let frames = pages + pages / PMD_ORDER.frames() + 4096;
    // Its bytes, its descriptor, what is pinned of it.
    let need = frames.saturating_mul(BASE_BYTES + 64 + 32);
    let budget = memory_budget().unwrap_or(2 << 30);
    if need > budget {
        return Ok(Err(format!("that needs {}, and {} may be used", rough(need), rough(budget))));
    }
    let mut ids = [AtomicU64::new(0)];
    let world = World::new(frames, &mut ids).map_err(bug)?;
    let scene = Scene { space: populated(&world, bytes, shape)?, world: &world, request, bytes, batch };
    let kit = scene.all(repeats, progress)?;
    drop(scene);
    match world.frames() - world.free_frames() {
        0 => Ok(Ok(kit)),
        out => Err(bug(format_args!("{out} frames are out after all was unpinned"))),
    }
}

fn bug(what: impl fmt::Display) -> Failure {
    Failure::run(format_args!("{what}; that is a bug of mmkit, please report it"))
}

/// An address space with the memory in it, all of which is present.
fn populated<'w>(world: &'w World<'_>, bytes: u64, shape: Shape) -> Result<Space<'w>, Failure> {
    let area = match shape {
        Shape::Pmd => Area::anonymous(PMD_ORDER),
        Shape::Ptes => Area::anonymous(PMD_ORDER).by_ptes(),
        Shape::Base => Area::anonymous(Order::ZERO),
    };
    let space = world.spawn().map_err(bug)?;
    let range = VirtRange::new(START, bytes).ok_or_else(|| bug("the memory has no addresses"))?;
    space.mmap(range, area).map_err(bug)?;
    space.populate(range).map_err(bug)?;
    Ok(space)
}

/// What is held, and how.
struct Scene<'w, 'i> {
    world: &'w World<'i>,
    space: Space<'w>,
    request: Request,
    bytes: u64,
    batch: Option<u64>,
}

impl Scene<'_, '_> {
    fn all(&self, repeats: usize, progress: &mut Progress) -> Result<Kit, Failure> {
        let pages = self.bytes / BASE_BYTES;
        let kind = if self.request.is_pin() { Hold::Pin } else { Hold::Get };
        let mut extents = vec![Extent::EMPTY; pages as usize];
        let mut array = vec![None; pages as usize];
        let (mut count, mut atomics) = (0, 0);
        let mut times = Vec::with_capacity(repeats);
        // The first time fills the caches, and counts.
        for repeat in 0..=repeats {
            progress.advance(1);
            let mut sink = Counted { sink: Extents::new(&mut extents), atomics: 0, pin: kind == Hold::Pin };
            let to_extents = if repeat == 0 { self.hold(&mut sink) } else { self.hold(&mut sink.sink) }?;
            if repeat == 0 {
                (count, atomics) = (sink.sink.extents().len(), sink.atomics);
            }
            let (from_extents, released) = timed(|| {
                // SAFETY: they were just taken, and are given back once.
                unsafe { self.world.release_extents(kind, &extents[..count]) }
            });
            self.check(released)?;
            let to_pages = self.hold(&mut Pages::new(&mut array))?;
            let (from_pages, released) = timed(|| {
                // SAFETY: as above.
                unsafe { self.world.release_pages(kind, &array as &[Option<PageRef>]) }
            });
            self.check(released)?;
            if repeat > 0 {
                times.push([to_extents, from_extents, to_pages, from_pages]);
            }
        }
        let ns = |which: usize| {
            let each = times.iter().map(|times| times[which].as_nanos() as f64 / pages as f64);
            median(each).unwrap_or(f64::NAN)
        };
        Ok(Kit {
            pages,
            extents: count as u64,
            atomics,
            extents_ns: ns(0),
            unpin_extents_ns: ns(1),
            pages_ns: ns(2),
            unpin_pages_ns: ns(3),
        })
    }

    /// Holds all of the memory, and the time that takes.
    fn hold(&self, sink: &mut impl Sink) -> Result<Duration, Failure> {
        let step = self.batch.map_or(self.bytes, |pages| pages.saturating_mul(BASE_BYTES)).min(self.bytes);
        let spans = (0..self.bytes).step_by(step as usize).map(|at| {
            let start = VirtAddr::new(START.get() + at);
            self.space.span(start, step.min(self.bytes - at))
        });
        let spans = spans.collect::<Result<Vec<_>, _>>().map_err(bug)?;
        let (time, done) = timed(|| {
            spans.iter().try_for_each(|&span| match self.space.hold(span, self.request, sink)?.stopped {
                None => Ok(()),
                Some(why) => Err(why),
            })
        });
        done.map(|()| time).map_err(|why: Refusal| bug(why))
    }

    fn check(&self, released: mmkit_gup::Released) -> Result<(), Failure> {
        match released.refused {
            None if released.frames * BASE_BYTES == self.bytes => Ok(()),
            None => Err(bug(format_args!("{} pages were given back", released.frames))),
            Some((pfn, why)) => Err(bug(format_args!("{pfn:?} was not given back: {why}"))),
        }
    }
}

/// Counts what goes by.
struct Counted<'b> {
    sink: Extents<'b>,
    atomics: u64,
    pin: bool,
}

impl Sink for Counted<'_> {
    fn room(&self) -> u64 {
        self.sink.room()
    }

    fn push(&mut self, run: Run) -> u32 {
        // Pins of a folio of one page are references.
        self.atomics += 1 + u64::from(self.pin && run.order > Order::ZERO);
        self.sink.push(run)
    }
}

/// What this thread's processor takes for it.
fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default();
    let start = now();
    let result = work();
    (now().saturating_sub(start), result)
}

#[cfg(test)]
mod tests {
    use mmkit_gup::Flags;

    use super::*;

    /// Sixteen huge pages: what is counted is exact, whatever the machine does.
    #[test]
    fn what_is_counted_is_what_the_shape_says() {
        let bytes = 16 * HUGE_BYTES;
        for (shape, flags, batch, atomics) in [
            (Shape::Pmd, Flags::PIN, None, 32),
            (Shape::Ptes, Flags::PIN | Flags::WRITE, None, 32),
            (Shape::Ptes, Flags::GET, None, 16),
            (Shape::Ptes, Flags::GET, Some(100), 16 + 81),
            (Shape::Base, Flags::PIN | Flags::WRITE | Flags::LONGTERM, Some(512), 8192),
        ] {
            let request = Request::new(flags).unwrap();
            let mut progress = Progress::new(String::new(), 3);
            let kit = measure(bytes, shape, request, batch, 2, &mut progress).unwrap().unwrap();
            assert_eq!((kit.pages, kit.atomics), (8192, atomics), "{shape}: {kit:?}");
            // Single frames need not be neighbours; each huge page is one piece.
            let most = if matches!(shape, Shape::Base) { kit.pages } else { 17 };
            assert!(kit.extents >= 1 && kit.extents <= most, "{shape}: {kit:?}");
            assert!(kit.extents_ns > 0.0 && kit.unpin_pages_ns > 0.0, "{kit:?}");
        }
    }
}
