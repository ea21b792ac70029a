// SPDX-License-Identifier: MIT OR Apache-2.0
//! A walk over everything that must hold.

use core::fmt;
use core::sync::atomic::Ordering;

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_page::{MemMap, PageView, Reader, State, Template};

use crate::section::Section;
use crate::tails::TailKey;
use crate::{Behind, TailSlot, Vmemmap, VmemmapEnv, VmemmapSpace};

/// What must hold of a memory map that nobody is changing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invariant {
    /// A frame that is there, or for whose descriptor there should be memory, has a page behind its descriptor.
    Mapped,
    /// A page that has descriptors of no such frame is not mapped.
    Unmapped,
    /// A frame lies in one block: it is the first frame, a multiple of the block's size, or a tail or inside of the block
    /// that is there.
    InOneBlock,
    /// The head of every frame of a compound is the compound's first frame, and all of them have one order and place.
    OneHead,
    /// The pages of a compound that are shared are pages of the tails of its order, node and zone, mapped for reading
    /// only; all others are mapped for writing.
    SharedIsTails,
    /// Every word of shared tails is what it was when they were made.
    TailsUnwritten,
    /// A frame that may be written through the memory map stands behind one page.
    OneWritableAlias,
    /// Shared tails have as many users as there are sections and compounds that use them.
    TailUsers {
        /// What the slot counts.
        counted: u64,
        /// What was found.
        found: u64,
    },
    /// [`Usage::own`](crate::Usage::own) is the number of pages that are mapped to frames of the allocator.
    OwnPages {
        /// What is reported.
        counted: u64,
        /// What was found.
        found: u64,
    },
    /// [`Usage::hosted`](crate::Usage::hosted) is the number of pages that are mapped to frames of altmaps.
    HostedPages {
        /// What is reported.
        counted: u64,
        /// What was found.
        found: u64,
    },
    /// [`Usage::sections`](crate::Usage::sections) is the number of nodes of the section table.
    SectionNodes {
        /// What is reported.
        counted: u64,
        /// What was found.
        found: u64,
    },
    /// A descriptor of a frame that is there was written after its page was filled with the
    /// [poison](Vmemmap::poisoned).
    Initialised,
    /// A descriptor of a frame that is not there holds the poison, or zero where there is none.
    AbsentUnwritten,
    /// Offline frames are free, and the memory map's.
    OfflineIsClaimed,
}

/// Something that must hold and does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The frame whose descriptor, or the page of whose descriptor, is wrong. Of counts, frame 0.
    pub pfn: Pfn,
    /// What does not hold.
    pub invariant: Invariant,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {:?} does not hold", self.pfn, self.invariant)
    }
}

impl core::error::Error for Violation {}

/// The walk so far.
struct Walk<'w, 'm, S: VmemmapSpace, E: VmemmapEnv> {
    map: &'m Vmemmap<S, E>,
    reader: &'w Reader<'m, Vmemmap<S, E>>,
    own: u64,
    hosted: u64,
    /// The last block that was met: its first frame and order, and whether it has tails or insides.
    block: Option<(Pfn, Order, Option<State>)>,
}

fn broken<T>(pfn: Pfn, invariant: Invariant) -> Result<T, Violation> {
    Err(Violation { pfn, invariant })
}

impl<S: VmemmapSpace, E: VmemmapEnv> Vmemmap<S, E> {
    /// Checks every invariant of every frame, page and counter, and names the first that does not hold.
    ///
    /// The memory map must be quiescent: it is locked meanwhile, so that nothing is populated or removed, but blocks that
    /// are allocated, merged or split while they are looked at may be taken for broken ones. What stands behind pages is
    /// checked where the space says it ([`VmemmapSpace::behind`]).
    ///
    /// Takes the memory map's lock, so it must not be called from inside a reader. For tests, and for a machine that is
    /// in doubt.
    ///
    /// # Errors
    ///
    /// [`Violation`].
    ///
    /// Cost: a few loads for each descriptor; for each page of descriptors, one look at the space for every 8192 frame
    /// numbers (32 MiB of 4K frames) among which descriptors lie. So it grows with the square of the memory where descriptors
    /// are spread over it: [`verify_with`](Self::verify_with) does not. All of it under the lock. No allocation; about 1 KiB
    /// of stack.
    pub fn verify(&self) -> Result<(), Violation> {
        self.verify_with(&mut [0; 128])
    }

    /// The same with memory from the caller, a bit for each frame: with a bit for each frame from the lowest to the highest in
    /// which descriptors lie, one look at the space for each page of descriptors. (512 KiB where those of 1 TiB, of 4K frames,
    /// lie side by side.) What is in `seen` does not matter; where it is empty, a word of the stack is used.
    ///
    /// # Errors
    ///
    /// As [`verify`](Self::verify).
    pub fn verify_with(&self, seen: &mut [u64]) -> Result<(), Violation> {
        let mut word = [0];
        let seen = if seen.is_empty() { &mut word } else { seen };
        let _lock = self.locked();
        let reader = self.enter();
        let mut walk = Walk { map: self, reader: &reader, own: 0, hosted: 0, block: None };
        let mut result = Ok(());
        self.sections.for_each(self.frames(), &mut |number, section| {
            if result.is_ok() {
                result = walk.section(number, section);
            }
        });
        result?;
        let (own, hosted) = (walk.own, walk.hosted);
        self.verify_aliases(seen)?;
        self.verify_users()?;
        let known = self.space.behind(0) != Behind::Unknown;
        let count = |counter: &core::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let nodes = self.sections.nodes(self.frames());
        match (count(&self.counts.own), count(&self.counts.hosted), count(&self.counts.sections)) {
            (counted, ..) if known && counted != own => {
                broken(Pfn::ZERO, Invariant::OwnPages { counted, found: own })
            }
            (_, counted, _) if known && counted != hosted => {
                broken(Pfn::ZERO, Invariant::HostedPages { counted, found: hosted })
            }
            (.., counted) if counted != nodes => {
                broken(Pfn::ZERO, Invariant::SectionNodes { counted, found: nodes })
            }
            _ => Ok(()),
        }
    }

    /// The pages that begin with a frame of section `number`.
    fn pages_from(&self, number: u64) -> core::ops::Range<u64> {
        let shift = self.page_order().get();
        let frames = self.geometry.frames_per_section();
        (number * frames).div_ceil(1 << shift)..((number + 1) * frames).div_ceil(1 << shift)
    }

    /// Makes sure that no frame stands behind two pages that may be written, a window of frame numbers at a time.
    fn verify_aliases(&self, seen: &mut [u64]) -> Result<(), Violation> {
        let window = 64 * seen.len() as u64;
        let mut low = 0;
        loop {
            seen.fill(0);
            let mut next = None::<u64>;
            let mut result = Ok(());
            self.sections.for_each(self.frames(), &mut |number, _| {
                // Nothing stands behind others: each was looked at.
                for page in
                    self.pages_from(number).filter(|&page| self.any_covered_frame(self.frames_of(page)))
                {
                    let Behind::Own(frame) = self.space.behind(page) else { continue };
                    let Some(offset) = frame.get().checked_sub(low) else { continue };
                    if offset >= window {
                        next = Some(next.map_or(frame.get(), |next| next.min(frame.get())));
                        continue;
                    }
                    let (word, bit) = (&mut seen[(offset / 64) as usize], 1 << (offset % 64));
                    if *word & bit != 0 || self.is_tail_frame(frame) {
                        result = broken(self.frames_of(page).start(), Invariant::OneWritableAlias);
                    }
                    *word |= bit;
                }
            });
            result?;
            match next {
                Some(next) => low = next,
                None => return Ok(()),
            }
        }
    }

    fn is_tail_frame(&self, frame: Pfn) -> bool {
        let used = self.env.tail_slots().iter().filter_map(TailSlot::used);
        used.map(|(.., run)| PfnRange::block(run.first, run.order)).any(|run| run.contains(frame))
    }

    /// Makes sure that tails are used by as many as the slots say.
    fn verify_users(&self) -> Result<(), Violation> {
        for (key, counted, run) in self.env.tail_slots().iter().filter_map(TailSlot::used) {
            let mut found = self.optimised_users(key);
            self.sections.for_each(self.frames(), &mut |_, section| {
                found += u64::from(section.tails() == Some(key));
            });
            if counted != found {
                return broken(Pfn::ZERO, Invariant::TailUsers { counted, found });
            }
            let template = Template::tail(key.order, key.place).words();
            for frame in PfnRange::block(run.first, run.order) {
                // SAFETY: the frame is the memory map's, which gives it back under the lock only, and nobody writes it.
                let words = unsafe { self.frames().words(frame) }.unwrap_or(&[]);
                let wrong = words.chunks(Template::WORDS).any(|tail| !is(tail, &template));
                if wrong {
                    return broken(frame, Invariant::TailsUnwritten);
                }
            }
        }
        Ok(())
    }
}

/// Whether words of memory are these.
fn is(words: &[mmkit_frame::Word], expected: &[u64]) -> bool {
    words.len() == expected.len()
        && words.iter().zip(expected).all(|(word, &expected)| word.load(Ordering::Relaxed) == expected)
}

impl<'m, S: VmemmapSpace, E: VmemmapEnv> Walk<'_, 'm, S, E> {
    fn section(&mut self, number: u64, section: Section<'_>) -> Result<(), Violation> {
        for page in self.map.pages_from(number) {
            self.page(page)?;
        }
        for subsection in (0..self.map.shape.subsections()).filter(|&bit| section.present().contains(bit)) {
            let first = self.map.shape.first_frame(number, subsection);
            let end = first.get() + self.map.geometry.frames_per_subsection();
            let mut next = Some(first);
            while let Some(pfn) = next.filter(|pfn| pfn.get() < end) {
                self.frame(pfn)?;
                let page = pfn.get() >> self.map.page_order().get();
                // The others in a page of shared tails are the same bytes, which are looked at once.
                let shared = matches!(self.map.space.behind(page), Behind::Tails(_));
                let step = if shared { self.map.page_order().frames() } else { 1 };
                next = pfn.checked_add(step);
            }
        }
        Ok(())
    }

    /// What stands behind a page, and what is in it where no frame is.
    fn page(&mut self, page: u64) -> Result<(), Violation> {
        let (map, frames) = (self.map, self.map.frames_of(page));
        let first = frames.start();
        let covered = map.any_covered_frame(frames);
        let frame = match (map.space.behind(page), covered) {
            (Behind::Unknown, _) | (Behind::Nothing, false) => return Ok(()),
            (Behind::Nothing, true) => return broken(first, Invariant::Mapped),
            (_, false) => return broken(first, Invariant::Unmapped),
            (Behind::Own(frame), true) => {
                if self.shares(first).is_some_and(|(_, must)| must) {
                    return broken(first, Invariant::SharedIsTails);
                }
                frame
            }
            (Behind::Tails(frame), true) => {
                let run = self.shares(first).and_then(|(key, _)| map.tail_run(key));
                return match run.filter(|run| run.contains(frame)) {
                    Some(_) => Ok(()),
                    None => broken(first, Invariant::SharedIsTails),
                };
            }
        };
        if map.is_hosted(first) {
            self.hosted += 1;
        } else {
            self.own += 1;
        }
        // SAFETY: the frame is mapped for descriptors, which are accessed as words.
        let words = unsafe { map.frames().words(frame) }.unwrap_or(&[]);
        let filling = [map.poison.unwrap_or(0); Template::WORDS];
        for (pfn, words) in frames.iter().zip(words.chunks(Template::WORDS)) {
            if map.is_reserved(pfn) {
                // Somebody is writing it.
                continue;
            }
            match map.has(pfn) {
                true if map.poison.is_some() && is(words, &filling) => {
                    return broken(pfn, Invariant::Initialised);
                }
                false if !is(words, &filling) => return broken(pfn, Invariant::AbsentUnwritten),
                _ => {}
            }
        }
        Ok(())
    }

    /// Which tails the page that begins with the descriptor of `first` should be, and whether it must be.
    fn shares(&self, first: Pfn) -> Option<(TailKey, bool)> {
        let map = self.map;
        if let Some(order) = map.shared_order(first) {
            let section = map.sections.get(map.frames(), map.shape.section_of(first))?;
            return section.tails().filter(|_| !first.is_aligned(order)).map(|key| (key, true));
        }
        // A compound that was populated in full, and shares since.
        let page = self.reader.page(first)?;
        let State::Tail { order } = page.state() else { return None };
        self.reader.page(page.head()).filter(PageView::has_shared_tails)?;
        Some((TailKey { place: page.place(), order }, false))
    }

    /// What a frame says it is.
    fn frame(&mut self, pfn: Pfn) -> Result<(), Violation> {
        let Some(page) = self.reader.page(pfn) else { return broken(pfn, Invariant::Mapped) };
        let state = page.state();
        let block = self.block.filter(|&(head, order, _)| pfn.get() - head.get() < order.frames());
        let order = match state {
            State::Tail { order } => return self.tail(pfn, page, order),
            State::Inside => {
                let inside = block.is_some_and(|(.., rest)| matches!(rest, None | Some(State::Inside)));
                self.block = block.map(|(head, order, _)| (head, order, Some(State::Inside)));
                return if inside { Ok(()) } else { broken(pfn, Invariant::InOneBlock) };
            }
            State::Free { order, .. } | State::Frozen { order } | State::Held { order, .. } => order,
            _ => return broken(pfn, Invariant::InOneBlock),
        };
        if block.is_some() || !pfn.is_aligned(order) {
            return broken(pfn, Invariant::InOneBlock);
        }
        if self.map.is_offline(pfn) && !matches!(state, State::Free { parked: false, .. }) {
            return broken(pfn, Invariant::OfflineIsClaimed);
        }
        let shared = self.map.shared_order(pfn);
        if shared.is_some_and(|shared| shared != order) {
            return broken(pfn, Invariant::OneHead);
        }
        self.block = Some((pfn, order, shared.map(|order| State::Tail { order })));
        Ok(())
    }

    fn tail(
        &mut self,
        pfn: Pfn,
        page: PageView<'m, '_, Vmemmap<S, E>>,
        order: Order,
    ) -> Result<(), Violation> {
        let (map, head) = (self.map, pfn.align_down(order));
        let shared = map.shared_order(pfn);
        if page.head() != head || shared.is_some_and(|shared| shared != order) {
            return broken(pfn, Invariant::OneHead);
        }
        let Some(first) = self.reader.page(head) else {
            // The head of a compound that is populated section by section comes when it comes.
            return if shared.is_some() { Ok(()) } else { broken(pfn, Invariant::OneHead) };
        };
        match self.block {
            Some((at, of, None | Some(State::Tail { .. }))) if (at, of) == (head, order) => {}
            _ => return broken(pfn, Invariant::OneHead),
        }
        self.block = Some((head, order, Some(State::Tail { order })));
        if page.place() != first.place() {
            return broken(pfn, Invariant::OneHead);
        }
        Ok(())
    }
}

impl<S: VmemmapSpace, E: VmemmapEnv> Vmemmap<S, E> {
    /// Whether there is memory for the descriptor of any frame of a page.
    fn any_covered_frame(&self, frames: PfnRange) -> bool {
        let subsection = self.geometry.subsection_order().frames();
        frames.iter().step_by(subsection as usize).any(|pfn| {
            let section = self.sections.get(self.frames(), self.shape.section_of(pfn));
            section.is_some_and(|section| section.is_covered(self.shape.subsection_of(pfn)))
        })
    }

    /// The frames of the tails of `key`, where they are in use.
    fn tail_run(&self, key: TailKey) -> Option<PfnRange> {
        let mut used = self.env.tail_slots().iter().filter_map(TailSlot::used);
        used.find(|&(of, ..)| of == key).map(|(.., run)| PfnRange::block(run.first, run.order))
    }
}

#[cfg(all(test, not(mmkit_loom), feature = "pgtable"))]
mod tests {
    use mmkit_addr::{Geometry, NodeId};
    use mmkit_frame::Bare;
    use mmkit_frame::test_util::TestFrames;
    use mmkit_page::Place;
    use mmkit_pgtable::X86_64;

    use super::*;
    use crate::{TableSpace, WithTailSlots};

    /// Books that are wrong, and bits: each by one.
    #[test]
    fn wrong_books_are_named() {
        let memory = TestFrames::with_frames(2048);
        let env = || Bare::new(memory.frames());
        let space = TableSpace::<X86_64, _>::new(env(), Geometry::X86_64, NodeId::ZERO).unwrap();
        let map = Vmemmap::new(Geometry::X86_64, space, WithTailSlots::<_, 2>::new(env())).unwrap();
        let compounds = PfnRange::new(Pfn::ZERO, 1024).unwrap();
        let singles = PfnRange::new(Pfn::new(1 << 15).unwrap(), 1024).unwrap();
        map.populate(compounds, Order::new(9).unwrap(), Place::default()).unwrap();
        map.populate(singles, Order::ZERO, Place::default()).unwrap();
        assert_eq!(map.verify(), Ok(()));
        let at = |pfn: u64, invariant| Err(Violation { pfn: Pfn::new(pfn).unwrap(), invariant });

        let slot = &map.env.tail_slots()[0];
        slot.join(1).unwrap();
        assert_eq!(map.verify(), at(0, Invariant::TailUsers { counted: 2, found: 1 }));
        assert_eq!(slot.leave(1), None);
        for (counter, invariant) in [
            (&map.counts.own, Invariant::OwnPages { counted: 19, found: 18 }),
            (&map.counts.hosted, Invariant::HostedPages { counted: 1, found: 0 }),
            (&map.counts.sections, Invariant::SectionNodes { counted: 2, found: 1 }),
        ] {
            counter.fetch_add(1, Ordering::Relaxed);
            assert_eq!(map.verify(), at(0, invariant));
            counter.fetch_sub(1, Ordering::Relaxed);
        }
        let (first, second) = (map.sections.get(map.frames(), 0), map.sections.get(map.frames(), 1));
        let (first, second) = (first.unwrap(), second.unwrap());
        // Present without memory; memory without a frame; shared, and not said to be.
        second.present().set(5..6);
        assert_eq!(map.verify(), at((1 << 15) + 5 * 512, Invariant::Mapped));
        second.present().clear(5..6);
        second.present().clear(1..2);
        assert_eq!(map.verify(), at((1 << 15) + 512, Invariant::Unmapped));
        second.present().set(1..2);
        first.set_tails(None);
        assert!(map.verify().is_err());
        first.set_tails(slot.used().map(|(key, ..)| key));
        assert_eq!(map.verify(), Ok(()));
    }
}
