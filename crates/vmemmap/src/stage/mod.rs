// SPDX-License-Identifier: MIT OR Apache-2.0
//! Populating in steps: reserved in short holds of the lock, written outside of it, published at last.

mod executor;
mod parts;
mod write;

use core::fmt;

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_sync::{Counter, Event, Events};

pub use executor::{Executor, Serial};

pub(crate) use parts::Parts;

use crate::altmap::Mark;
use crate::content::Content;
use crate::{Altmap, Populate, Vmemmap, VmemmapEnv, VmemmapError, VmemmapSpace};

/// Frames that are being put into a memory map: they have memory for their descriptors, and nobody can look them up yet.
/// Made by [`Vmemmap::stage`].
///
/// The descriptors are written in *parts*, by any number of threads: [`write`](Self::write) has an [`Executor`] do it, and
/// [`step`](Self::step) does one part, for those who have threads of their own, or several stages at once. Then
/// [`publish`](Self::publish) makes them visible.
///
/// | | [`step`](Self::step) | [`publish`](Self::publish) | dropped |
/// |---|---|---|---|
/// | as it comes | writes a part | writes what is left, shows all | all is undone |
/// | [`deferred`](Self::deferred) | writes a part and shows it | does that with what is left | parts that were shown stay |
///
/// A part is a section, or a compound where that is larger: it is never in two parts, and no lookup finds a piece of one.
///
/// ```
/// use mmkit_addr::{Geometry, NodeId, Order, Pfn, PfnRange};
/// use mmkit_frame::{Bare, test_util::TestFrames};
/// # #[cfg(feature = "pgtable")] {
/// use mmkit_pgtable::X86_64;
/// use mmkit_vmemmap::{Populate, Serial, TableSpace, Vmemmap, WithTailSlots};
///
/// let memory = TestFrames::with_frames(4096);
/// let env = || Bare::new(memory.frames());
/// let space = TableSpace::<X86_64, _>::new(env(), Geometry::X86_64, NodeId::ZERO)?;
/// let map = Vmemmap::new(Geometry::X86_64, space, WithTailSlots::<_, 1>::new(env()))?;
///
/// // Two gigabytes of a device, as 2M pages.
/// let range = PfnRange::new(Pfn::ZERO, 2 << 18).unwrap();
/// let staged = map.stage(Populate::new(range).compounds(Order::new(9).unwrap()))?;
/// assert!(!map.is_present(Pfn::ZERO));
/// staged.write(&Serial);
/// staged.publish();
/// assert!(map.is_present(Pfn::ZERO));
///
/// // Another one, as single frames, usable from its first section on.
/// let next = PfnRange::new(Pfn::new(2 << 18).unwrap(), 1 << 16).unwrap();
/// let staged = map.stage(Populate::new(next))?.deferred();
/// let first = staged.step().unwrap();
/// assert!(map.is_present(first.start()) && !map.is_present(next.last().unwrap()));
/// assert_eq!((staged.progress().done, staged.progress().parts), (1, 2));
/// staged.publish();
/// assert!(map.is_present(next.last().unwrap()));
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Source: ours. (Linux: `memmap_init_zone_device`, outside of the hotplug lock since 4.20, on one thread.)
#[must_use = "dropping it takes back what was staged"]
pub struct Staged<'m, S: VmemmapSpace, E: VmemmapEnv> {
    map: &'m Vmemmap<S, E>,
    content: Content,
    /// Where the descriptors lie, and how full that was before.
    altmap: Option<(&'m mut Altmap, Mark)>,
    pageblocks: Option<u8>,
    /// log2 of the frames of a part.
    unit: Order,
    /// Parts that are reserved, and mapped.
    reserved: u64,
    parts: Parts,
    deferred: bool,
    published: bool,
}

/// How far a [`Staged`] range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Parts that there are.
    pub parts: u64,
    /// Parts that are written, and visible where the range is [`deferred`](Staged::deferred).
    pub done: u64,
}

impl<S: VmemmapSpace, E: VmemmapEnv> Vmemmap<S, E> {
    /// Gives frames descriptors in steps: what [`populate_with`](Self::populate_with) does under one hold of the lock, for
    /// ranges that are large and in no hurry to be whole. For memory of devices.
    ///
    /// This takes the memory and maps it, and reserves the frames: everything that can fail. The lock is held for one
    /// part at a time, so that others wait no longer for a terabyte than for a gigabyte. Between two parts
    /// [`Events::pause`] is called.
    ///
    /// Reserved frames are absent for everybody, and whoever wants to populate them is refused with
    /// [`VmemmapError::Staged`].
    ///
    /// It takes the memory map's lock, so it must not be called from inside a reader; the same holds for the methods of
    /// [`Staged`], and for dropping it.
    ///
    /// # Errors
    ///
    /// Those of [`populate_with`](Self::populate_with), with nothing changed: parts that were reserved before are undone.
    /// [`VmemmapError::Early`] for an [early](Populate::early) range: memory from boot is there before anybody could wait
    /// for a lock.
    ///
    /// Cost: a hold of the lock for each part, in which its frames are taken and mapped.
    pub fn stage<'m>(&'m self, mut request: Populate<'m>) -> Result<Staged<'m, S, E>, VmemmapError> {
        if request.early {
            return Err(VmemmapError::Early { pfn: request.range.start() });
        }
        let content = {
            let _lock = self.locked();
            Content { staged: true, ..self.content(&request)? }
        };
        let unit = self.largest_unit().max(content.order);
        let first = content.asked.start().get() >> unit.get();
        let parts = content.asked.end().div_ceil(unit.frames()) - first;
        let mut staged = Staged {
            map: self,
            content,
            altmap: request.altmap.take().map(|altmap| {
                let mark = altmap.mark();
                (altmap, mark)
            }),
            pageblocks: request.pageblocks,
            unit,
            reserved: 0,
            parts: Parts::new(parts),
            deferred: false,
            published: false,
        };
        while staged.reserved < parts {
            staged.reserve_next()?;
            self.env.events().pause();
        }
        Ok(staged)
    }

    /// Reserves what is staged of a part, as far as it can be.
    fn reserve_part(&self, mut part: Content, altmap: Option<&mut Altmap>) -> Result<(), VmemmapError> {
        let _lock = self.locked();
        let Some(last) = part.asked.last() else { return Ok(()) };
        let early = [part.asked.start(), last].into_iter().find(|&pfn| self.is_early(pfn));
        if let (Some(pfn), true) = (early, part.shared) {
            // It was not when the stage began.
            return Err(VmemmapError::Early { pfn });
        }
        part.memory = self.memory_of(part.asked, false);
        self.take_in(&part, altmap)
    }

    /// Undoes [`reserve_part`](Self::reserve_part) of a part that was never visible. Pages that were unmapped; `None`
    /// where the space refused, and the part stays reserved.
    fn let_go(&self, part: &Content) -> Option<u64> {
        let _lock = self.locked();
        let set = |reserved: bool| {
            for (number, part) in self.shape.parts(part.asked) {
                let Some(section) = self.sections.get(self.frames(), number) else { continue };
                match reserved {
                    true => section.reserved().set(part),
                    false => section.reserved().clear(part),
                }
            }
        };
        set(false);
        // SAFETY: the part was reserved and never present, so nobody ever found its descriptors; and nobody writes them any
        // more, since whoever does borrows the stage.
        let done = unsafe { self.take_apart(part.asked, part.place.node, part.altmap.is_some()) };
        if done.is_err() {
            set(true);
            let (pfn, frames) = (part.asked.start().get(), part.asked.frames());
            self.env.events().report(&Event::Leaked { pfn, frames });
        }
        done.ok()
    }
}

impl<S: VmemmapSpace, E: VmemmapEnv> Staged<'_, S, E> {
    /// The frames that are to be visible.
    #[must_use]
    pub const fn range(&self) -> PfnRange {
        self.content.range
    }

    /// The same, with every part visible as soon as it is written.
    pub const fn deferred(mut self) -> Self {
        self.deferred = true;
        self
    }

    /// How far it is. What was done is seen by whoever is told so.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress { parts: self.parts.total(), done: self.parts.done() }
    }

    /// Part number `number`.
    fn part(&self, number: u64) -> Content {
        let first = (self.content.asked.start().get() >> self.unit.get()) + number;
        let start = Pfn::new(first << self.unit.get()).unwrap_or(Pfn::MAX);
        self.content.part(PfnRange::block(start, self.unit))
    }

    fn reserve_next(&mut self) -> Result<(), VmemmapError> {
        let part = self.part(self.reserved);
        self.map.reserve_part(part, self.altmap.as_mut().map(|(altmap, _)| &mut **altmap))?;
        self.reserved += 1;
        Ok(())
    }

    /// Writes one part that nobody has begun, and answers its frames; `None` where all are begun. Any number of threads may
    /// do this at once.
    ///
    /// A part that an altmap sets aside has no frames; what stands in the descriptors that they do not have is written.
    /// Types of pageblocks are told ([`Populate::pageblocks`]) when the part's descriptors are written. At the end
    /// [`Events::pause`] is called.
    ///
    /// Cost: each descriptor is written once, past the caches; one atomic addition; where the range is
    /// [`deferred`](Self::deferred), a short hold of the lock.
    pub fn step(&self) -> Option<PfnRange> {
        let events = self.map.env.events();
        let write = |number| {
            let part = self.part(number);
            // SAFETY: the parts are reserved until they are shown, or given up by who has the stage for himself. This one is
            // in nobody else's hands: parts are handed out once.
            let written = unsafe { self.map.write_reserved(&part) };
            events.count(Counter::DescriptorWritten, written);
            if let Some(kind) = self.pageblocks {
                self.map.set_pageblocks(part.range, kind);
            }
        };
        let show = |number| {
            if self.deferred {
                self.show(number);
            }
        };
        let number = self.parts.step(write, show)?;
        events.pause();
        Some(self.part(number).range)
    }

    /// Makes a part that is written visible.
    fn show(&self, number: u64) {
        let _lock = self.map.locked();
        self.map.publish(&self.part(number));
    }

    /// Has `executor` write all parts. What it leaves, this thread writes.
    pub fn write<X: Executor + ?Sized>(&self, executor: &X)
    where
        Self: Sync,
    {
        let left = self.parts.total() - self.parts.begun();
        executor.run(left, &|_| {
            self.step();
        });
        while self.step().is_some() {}
    }

    /// Writes the parts that are not written yet, and makes all of them visible, one after the other.
    ///
    /// Cost: a short hold of the lock for each part.
    pub fn publish(mut self) {
        while self.step().is_some() {}
        if !self.deferred {
            if self.parts.done() < self.parts.total() {
                // Somebody panicked in the middle of a part.
                self.parts.restart();
                while self.step().is_some() {}
            }
            // From now on nothing is undone, not even where a callback panics: some parts are visible.
            self.published = true;
            for number in 0..self.parts.total() {
                self.show(number);
                self.map.env.events().pause();
            }
        }
    }
}

impl<S: VmemmapSpace, E: VmemmapEnv> Drop for Staged<'_, S, E> {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        let shown = if self.deferred { self.parts.begun() } else { 0 };
        let unfinished = shown.saturating_sub(self.parts.done());
        let (mut pages, mut leaked) = (0, unfinished > 0);
        if unfinished > 0 {
            // Somebody panicked in the middle of a part, and which is not known: it stays reserved.
            let (pfn, frames) = (self.content.asked.start().get(), unfinished << self.unit.get());
            self.map.env.events().report(&Event::Leaked { pfn, frames });
        }
        for number in (shown..self.reserved).rev() {
            let freed = self.map.let_go(&self.part(number));
            leaked |= freed.is_none();
            pages += freed.unwrap_or(0);
            self.map.env.events().pause();
        }
        match &mut self.altmap {
            Some((altmap, mark)) if shown == 0 && !leaked => altmap.rewind(*mark),
            Some((altmap, _)) => altmap.give(pages),
            None => {}
        }
    }
}

impl<S: VmemmapSpace, E: VmemmapEnv> fmt::Debug for Staged<'_, S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staged").field("range", &self.range()).field("progress", &self.progress()).finish()
    }
}
