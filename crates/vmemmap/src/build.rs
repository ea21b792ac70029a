// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory for descriptors: taken, written and mapped, before anybody can look it up.

use core::ops::Range;
use core::sync::atomic::Ordering;

use mmkit_addr::{DESCRIPTOR_BYTES, Order, Pfn, PfnRange};
use mmkit_frame::Request;
use mmkit_page::Template;
use mmkit_sync::{Counter, Event, Events};

use crate::content::Content;
use crate::{
    Altmap, Backing, Exchange, Removed, TailRun, Unmapped, Vmemmap, VmemmapEnv, VmemmapError, VmemmapSpace,
};

/// Compounds that are mapped by one call: with 4K pages, and eight of them for a compound's descriptors, those of one table.
const CHUNK: usize = 64;

/// How far a range has been built. Nobody can look it up yet.
struct Built<'a> {
    /// Pages from here...
    start: u64,
    /// ...to here are mapped.
    mapped: u64,
    /// Frames that are written but not mapped yet, for the pages from `mapped` on.
    run: Option<(Pfn, u64)>,
    /// Where frames come from, if not from the allocator.
    altmap: Option<&'a mut Altmap>,
}

/// Why a range could not be built.
pub(crate) struct Failed {
    pub(crate) error: VmemmapError,
    /// Whether everything that had been mapped is unmapped again.
    pub(crate) undone: bool,
}

impl<T: Into<VmemmapError>> From<T> for Failed {
    fn from(error: T) -> Self {
        Self { error: error.into(), undone: true }
    }
}

impl<S: VmemmapSpace, E: VmemmapEnv> Vmemmap<S, E> {
    /// Takes, writes and maps the pages that belong to the range alone, or none of them.
    pub(crate) fn build(
        &self,
        content: &Content,
        tails: Option<TailRun>,
        altmap: Option<&mut Altmap>,
    ) -> Result<(), Failed> {
        let pages = self.own_pages(content.memory);
        let mut built = Built { start: pages.start, mapped: pages.start, run: None, altmap };
        let done = match tails {
            Some(run) => self.build_compounds(content, run, pages, &mut built),
            None => self.build_pages(content, pages, &mut built),
        };
        // Before anybody can look anything up, or is given what was taken.
        Template::finish_streams();
        done.map_err(|error| Failed { error, undone: self.unbuild(&built) })
    }

    fn build_pages(
        &self,
        content: &Content,
        pages: Range<u64>,
        built: &mut Built<'_>,
    ) -> Result<(), VmemmapError> {
        let leaf = self.leaf_pages().filter(|_| content.huge);
        let mut page = pages.start;
        while page < pages.end {
            match leaf {
                Some(leaf) if page.is_multiple_of(leaf.frames()) && leaf.frames() <= pages.end - page => {
                    page = self.build_leaf(content, built, (page, leaf))?;
                }
                _ => page = self.build_page(content, built, page)?,
            }
        }
        self.map_run(content, built)
    }

    /// Pages behind a huge leaf, where the space has leaves that are not larger than what comes and goes as one.
    pub(crate) fn leaf_pages(&self) -> Option<Order> {
        let leaf = self.space.leaf_order()?;
        (leaf.get() + self.page_order().get() <= self.largest_unit().get()).then_some(leaf)
    }

    /// Compounds that share their tails, a number at a time: the frames for their heads are taken at once, and mapped by one
    /// call.
    fn build_compounds(
        &self,
        content: &Content,
        run: TailRun,
        pages: Range<u64>,
        built: &mut Built<'_>,
    ) -> Result<(), VmemmapError> {
        let shift = content.order.get() - self.page_order().get();
        let chunk = (CHUNK as u64) << shift;
        let mut frames = [Pfn::ZERO; CHUNK];
        let mut page = pages.start;
        while page < pages.end {
            let end = pages.end.min((page / chunk + 1) * chunk);
            let before = |page: u64| page.div_ceil(1 << shift);
            let heads = |end: u64| (before(end) - before(page)) as usize;
            let frames = &mut frames[..heads(end)];
            self.take_all(self.request(content, Order::ZERO), content.place, frames)?;
            let mut compounds = Compounds { map: self, content, run, page, end, shift, frames };
            // SAFETY: the tails are written, and this range is their user until it is taken apart; the frames were taken
            // for these pages, and nobody else has them.
            let mapped = unsafe { self.space.map_from(page..end, content.place.node, &mut compounds) };
            let done = mapped.map_or_else(|(pages, _)| page + pages, |()| end);
            built.mapped = done;
            self.count_mapped(content, heads(done) as u64);
            if let Err((_, error)) = mapped {
                Template::finish_streams();
                for &mut pfn in &mut frames[heads(done)..] {
                    self.give_run(pfn, 1);
                }
                return Err(error.into());
            }
            page = end;
        }
        Ok(())
    }

    /// Takes, writes and maps the block behind one leaf, or one page where there is no such block. The next page.
    fn build_leaf(
        &self,
        content: &Content,
        built: &mut Built<'_>,
        (page, leaf): (u64, Order),
    ) -> Result<u64, VmemmapError> {
        let first = match &mut built.altmap {
            Some(altmap) => self.take_set_aside(altmap, leaf)?,
            None => match self.take(self.request(content, leaf), content.place) {
                Ok(first) => first,
                Err(VmemmapError::NoFrame(_)) => return self.build_page(content, built, page),
                Err(error) => return Err(error),
            },
        };
        if built.altmap.is_none() {
            // From here on each frame is given back by itself, like any other frame of descriptors.
            // SAFETY: taken just above at this order.
            unsafe { self.frames().split(first, leaf, Order::ZERO) };
        }
        for (page, pfn) in (page..).zip(PfnRange::block(first, leaf)) {
            self.write_page(content, page, pfn);
        }
        let mapped = self.map_run(content, built).and_then(|()| {
            // SAFETY: the block was taken for these pages, and nobody else has it.
            Ok(unsafe { self.space.map_leaf(page, first, content.place.node) }?)
        });
        if let Err(error) = mapped {
            if built.altmap.is_none() {
                Template::finish_streams();
                self.give_run(first, leaf.frames());
            }
            return Err(error);
        }
        self.count_mapped(content, leaf.frames());
        built.mapped = page + leaf.frames();
        Ok(built.mapped)
    }

    /// Takes and writes one page, and joins it to the run where it follows. The next page.
    fn build_page(&self, content: &Content, built: &mut Built<'_>, page: u64) -> Result<u64, VmemmapError> {
        let pfn = match &mut built.altmap {
            Some(altmap) => self.take_set_aside(altmap, Order::ZERO)?,
            None => self.take(self.request(content, Order::ZERO), content.place)?,
        };
        self.write_page(content, page, pfn);
        match &mut built.run {
            Some((first, count)) if first.checked_add(*count) == Some(pfn) => *count += 1,
            _ => {
                if let Err(error) = self.map_run(content, built) {
                    if built.altmap.is_none() {
                        Template::finish_streams();
                        self.give_run(pfn, 1);
                    }
                    return Err(error);
                }
                built.run = Some((pfn, 1));
            }
        }
        Ok(page + 1)
    }

    fn request(&self, content: &Content, order: Order) -> Request {
        let request = Request::new(order);
        if content.strict { request.strict() } else { request }
    }

    /// Takes frames of the altmap, which are good for descriptors if the space would map that very memory.
    fn take_set_aside(&self, altmap: &mut Altmap, order: Order) -> Result<Pfn, VmemmapError> {
        let (base, free, needed) = (altmap.base(), altmap.free(), order.frames());
        let first = altmap.take(needed).ok_or(VmemmapError::AltmapFull { base, needed, free })?;
        self.check_reached(PfnRange::block(first, order))?;
        Ok(first)
    }

    /// Writes what stands in `page` into the frame `pfn`, which nobody else has. It is there after
    /// [`Template::finish_streams`].
    ///
    /// Of content that is written later, what is not the content's: neighbours may come before.
    fn write_page(&self, content: &Content, page: u64, pfn: Pfn) {
        let frames = self.frames_of(page);
        if content.staged && content.asked.contains_range(frames) {
            return;
        }
        let Some(bytes) = self.frames().frame(pfn) else { return };
        let part = if content.staged { None } else { frames.intersection(content.range) };
        if part != Some(frames) || self.poison.is_some() {
            // SAFETY: the caller owns the frame, which has room for the descriptors of a page.
            unsafe { self.fill_absent(bytes, frames.frames()) };
        }
        if let Some(part) = part {
            let offset = (part.start().get() - frames.start().get()) * DESCRIPTOR_BYTES;
            // SAFETY: the part begins inside the page, so `offset` lies inside the frame.
            let to = unsafe { bytes.byte_add(offset as usize) };
            // SAFETY: nobody else has the frame, and from `offset` on it has room for the part. The caller asks for no
            // page that is all tails; a page with a head is the compound's own. A page is written once, and `build` ends the
            // stream before anybody gets the frame.
            unsafe { content.stream(part, to) };
            self.env.events().count(Counter::DescriptorWritten, part.frames());
        }
    }

    /// Maps the frames that were written since the last page was mapped.
    fn map_run(&self, content: &Content, built: &mut Built<'_>) -> Result<(), VmemmapError> {
        if let Some((first, count)) = built.run {
            let pages = built.mapped..built.mapped + count;
            // SAFETY: the frames of the run were taken for these pages, and nobody else has them.
            unsafe { self.space.map(pages, Backing::Own { first }, content.place.node) }?;
            self.count_mapped(content, count);
            built.mapped += count;
            built.run = None;
        }
        Ok(())
    }

    fn count_mapped(&self, content: &Content, pages: u64) {
        let counter = if content.altmap.is_some() { &self.counts.hosted } else { &self.counts.own };
        counter.fetch_add(pages, Ordering::Relaxed);
    }

    /// Undoes what was built, and says whether it could. Nobody has looked it up.
    fn unbuild(&self, built: &Built<'_>) -> bool {
        let hosted = built.altmap.is_some();
        if let Some((first, count)) = built.run.filter(|_| !hosted) {
            self.give_run(first, count);
        }
        if built.start == built.mapped {
            return true;
        }
        // SAFETY: mapped by `build`, and nobody has been able to look the descriptors up.
        match unsafe { self.space.unmap(built.start..built.mapped) } {
            Ok(unmapped) => {
                unmapped.flush(&mut |count, backing| self.give_back(count, backing, hosted));
                true
            }
            // Nobody can look the pages up, and a later populate of the range is told that they are occupied.
            Err(_) => {
                let pfn = self.frames_of(built.start).start().get();
                self.env.events().report(&Event::Leaked { pfn, frames: built.mapped - built.start });
                false
            }
        }
    }

    /// Takes back what stood behind pages that nobody can reach any more: `hosted` if it came from an altmap.
    pub(crate) fn give_back(&self, count: u64, backing: Backing, hosted: bool) {
        match backing {
            Backing::Own { .. } if hosted => {
                self.counts.hosted.fetch_sub(count, Ordering::Relaxed);
            }
            Backing::Own { first } => {
                self.counts.own.fetch_sub(count, Ordering::Relaxed);
                self.give_run(first, count);
            }
            Backing::Tails(_) => {}
        }
    }

    pub(crate) fn give_run(&self, first: Pfn, count: u64) {
        for pfn in PfnRange::new(first, count).into_iter().flat_map(PfnRange::iter) {
            // SAFETY: frames of own pages are taken one by one, or as blocks that were split; they were not mapped, or
            // are not any more.
            unsafe { self.give(pfn, Order::ZERO) };
        }
    }
}

/// What stands behind the pages of some compounds: for each head the next frame, in which it is written, and then tails.
struct Compounds<'a, S: VmemmapSpace, E: VmemmapEnv> {
    map: &'a Vmemmap<S, E>,
    content: &'a Content,
    run: TailRun,
    /// The next page.
    page: u64,
    end: u64,
    /// log2 of the pages of a compound.
    shift: u8,
    /// The frames for the heads that are left.
    frames: &'a [Pfn],
}

impl<S: VmemmapSpace, E: VmemmapEnv> Exchange for Compounds<'_, S, E> {
    fn next(&mut self) -> (u64, Backing) {
        let page = self.page;
        let within = (1 << self.shift) - 1;
        if page & within == 0
            && let Some((&first, rest)) = self.frames.split_first()
        {
            self.map.write_page(self.content, page, first);
            self.frames = rest;
            self.page += 1;
            return (1, Backing::Own { first });
        }
        self.page = ((page | within) + 1).min(self.end);
        (self.page - page, Backing::Tails(self.run))
    }

    fn removed(&mut self, _: Removed) {}

    /// Whoever has the frames counts the pages that are mapped.
    fn unused(&mut self, _: Pfn, _: u64) {}
}
