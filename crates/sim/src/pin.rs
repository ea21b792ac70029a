// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pins: a device that looks at pages for as long as it likes.

use std::fmt;

use mmkit_addr::{Pfn, VirtAddr};
use mmkit_folio::{Hold, Mapcounts};
use mmkit_gup::{Extent, Extents, Flags, Refusal, Request};

use crate::arena::BYTES;
use crate::contents::Contents;
use crate::{AddressSpace, Error, World};

/// Extents that are taken over at a time.
const BATCH: usize = 32;

/// Pages that are held: they are not freed. Those that are *pinned* also stay their address space's own, and where they are: a
/// fork copies them for the child. Linux: what `pin_user_pages` returns.
///
/// It belongs to the world, and outlives the address space. Dropping it gives the pages back.
pub struct Pin<'w, C: Mapcounts> {
    world: &'w World<'w, C>,
    extents: Vec<Extent>,
    hold: Hold,
    write: bool,
    /// The bytes of the range that are held, the first of which is `skip` bytes after the start of the first page.
    skip: u64,
    bytes: u64,
    stopped: Option<Refusal>,
}

impl<'w, C: Mapcounts> AddressSpace<'w, C> {
    /// Pins the page at `va` to write to it, after a write fault where it needs one.
    ///
    /// # Errors
    ///
    /// As [`pin_range`](Self::pin_range).
    pub fn pin(&self, va: VirtAddr) -> Result<Pin<'w, C>, Error> {
        self.pin_range(va.align_down(crate::arena::SHIFT), BYTES, Flags::PIN | Flags::WRITE)
    }

    /// Pins the page at `va` to read it for long: what the address space writes later is seen. A page that is shared since a
    /// fork, or a file's and private, is made its own for that, but stays read-only.
    ///
    /// # Errors
    ///
    /// As [`pin_range`](Self::pin_range).
    pub fn pin_to_read(&self, va: VirtAddr) -> Result<Pin<'w, C>, Error> {
        self.pin_range(va.align_down(crate::arena::SHIFT), BYTES, Flags::PIN | Flags::LONGTERM)
    }

    /// Holds the pages that have a byte of `len` bytes from `start` on, as `flags` say, as far as that goes.
    ///
    /// # Errors
    ///
    /// [`Error::NoArea`], [`Error::ReadOnly`], and [`Error::Refused`] with all other reasons, where the first page cannot be
    /// held. [`Error::Flags`], [`Error::Span`].
    pub fn pin_range(&self, start: VirtAddr, len: u64, flags: Flags) -> Result<Pin<'w, C>, Error> {
        let request = Request::new(flags)?;
        let mut span = self.span(start, len)?;
        let mut pin = Pin {
            world: self.world,
            extents: Vec::new(),
            hold: if request.is_pin() { Hold::Pin } else { Hold::Get },
            write: request.is_write(),
            skip: start.get() % BYTES,
            bytes: 0,
            stopped: None,
        };
        let mut buffer = [Extent::EMPTY; BATCH];
        let mut pages = 0;
        loop {
            let mut sink = Extents::new(&mut buffer);
            let stopped = match self.hold(span, request, &mut sink) {
                Ok(held) => {
                    pages += held.pages;
                    span = span.after(held.pages);
                    held.stopped
                }
                Err(why) => Some(why),
            };
            sink.extents().iter().for_each(|&extent| pin.add(extent));
            match stopped {
                Some(Refusal::NoRoom) => {}
                Some(why) if pages == 0 => return Err(why.into()),
                stopped => {
                    pin.stopped = stopped;
                    // Where it stopped, the last page is one of the middle, of which all bytes are wanted.
                    pin.bytes = len.min((pages * BYTES).saturating_sub(pin.skip));
                    return Ok(pin);
                }
            }
        }
    }
}

impl<C: Mapcounts> Pin<'_, C> {
    fn add(&mut self, extent: Extent) {
        if let Some(last) = self.extents.last_mut()
            && last.pfn.get() + u64::from(last.frames) == extent.pfn.get()
            && let Some(frames) = last.frames.checked_add(extent.frames)
        {
            last.frames = frames;
        } else {
            self.extents.push(extent);
        }
    }

    /// Runs of consecutive frames, in the order of their addresses.
    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The frames, in the order of their addresses.
    pub fn pfns(&self) -> impl Iterator<Item = Pfn> + '_ {
        self.extents
            .iter()
            .flat_map(|extent| (0..extent.frames.into()).filter_map(|n| extent.pfn.checked_add(n)))
    }

    /// Bytes of the range that are held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Why it is not all of the range; `None` where it is.
    #[must_use]
    pub fn stopped(&self) -> Option<Refusal> {
        self.stopped
    }

    /// Reads bytes from `offset` on, counted from the start of the range; those past its end stay as they were in `out`.
    pub fn read(&self, offset: u64, out: &mut [u8]) {
        self.pieces(offset, out.len(), |contents, at, range| contents.read(at, &mut out[range]));
    }

    /// Writes bytes from `offset` on; those past the end of the range are left out.
    ///
    /// # Errors
    ///
    /// [`Error::NotForWriting`] where the pages are held only to be read. Nothing is written then.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        if !self.write {
            return Err(Error::NotForWriting);
        }
        self.pieces(offset, bytes.len(), |contents, at, range| contents.write(at, &bytes[range], true));
        Ok(())
    }

    /// Calls `access` for each piece of a page that `len` bytes from `offset` on have: with the place in the page, and the bytes.
    fn pieces(
        &self,
        offset: u64,
        len: usize,
        mut access: impl FnMut(Contents<'_>, usize, std::ops::Range<usize>),
    ) {
        let len = (len as u64).min(self.bytes.saturating_sub(offset));
        let mut done = 0;
        while done < len {
            let at = self.skip + offset + done;
            let inside = at % BYTES;
            let piece = (len - done).min(BYTES - inside);
            // SAFETY: the page is held, so its folio has a reference, and such folios are accessed through `Contents` alone.
            let contents =
                self.frame(at / BYTES).and_then(|pfn| unsafe { Contents::of(&self.world.memory, pfn) });
            if let Some(contents) = contents {
                access(contents, inside as usize, done as usize..(done + piece) as usize);
            }
            done += piece;
        }
    }

    /// The frame of a page.
    fn frame(&self, mut page: u64) -> Option<Pfn> {
        for extent in &self.extents {
            if page < u64::from(extent.frames) {
                return extent.pfn.checked_add(page);
            }
            page -= u64::from(extent.frames);
        }
        None
    }
}

impl<C: Mapcounts> Drop for Pin<'_, C> {
    fn drop(&mut self) {
        // SAFETY: `pin_range` took these holds in this world, and this is the only place where they are given back.
        let _ = unsafe { self.world.release_extents(self.hold, &self.extents) };
    }
}

impl<C: Mapcounts> fmt::Debug for Pin<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pin")
            .field("extents", &self.extents)
            .field("hold", &self.hold)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use mmkit_addr::{Order, VirtRange};
    use mmkit_folio::{NoPageMapcount, PowerSums, Rmap};
    use mmkit_sync::atomic::AtomicU64;

    use super::*;
    use crate::Area;

    const ANONYMOUS: Area = Area::anonymous(Order::ZERO);

    #[test]
    fn pinners_without_locks_keep_out_while_pages_are_taken() {
        let mut ids = [AtomicU64::new(0)];
        let world = World::<NoPageMapcount<PowerSums>>::new(64, &mut ids).unwrap();
        let space = world.spawn().unwrap();
        let va = VirtAddr::new(1 << 20);
        space.mmap(VirtRange::new(va, 4 * BYTES).unwrap(), ANONYMOUS).unwrap();
        for flags in [Flags::PIN | Flags::WRITE, Flags::PIN, Flags::PIN | Flags::LONGTERM, Flags::GET] {
            let lockless =
                || space.pin_range(va, BYTES, flags | Flags::FAST_ONLY).map_or(0, |pin| pin.bytes());
            space.dont_need(VirtRange::new(va, BYTES).unwrap()).unwrap();
            assert_eq!(lockless(), 0, "nothing is mapped");
            space.write(va, b"x").unwrap();
            let writer = space.write_protecting();
            // Who only refers to a page does not mind whose it is.
            assert_eq!(lockless(), if flags == Flags::GET { BYTES } else { 0 }, "{flags:?}");
            drop(writer);
            assert_eq!(lockless(), BYTES, "{flags:?}");
            let pfn = space.page(va).unwrap().unwrap().pfn;
            assert_eq!(world.folio(pfn).unwrap().pins(), 0, "no pin is left");
        }
    }

    #[test]
    fn a_range_is_held_to_its_last_byte_as_far_as_it_goes() {
        let mut ids = [AtomicU64::new(0)];
        let world = World::<NoPageMapcount<PowerSums>>::new(256, &mut ids).unwrap();
        let space = world.spawn().unwrap();
        let va = VirtAddr::new(1 << 20);
        space.mmap(VirtRange::new(va, 40 * BYTES).unwrap(), Area::anonymous(Order::new(2).unwrap())).unwrap();
        let start = VirtAddr::new(va.get() + 100);
        let pin = space.pin_range(start, 9 * BYTES, Flags::PIN | Flags::WRITE).unwrap();
        assert_eq!((pin.bytes(), pin.stopped(), pin.pfns().count()), (9 * BYTES, None, 10));
        // A device writes over a border of pages, and past its end.
        pin.write(BYTES - 104, b"eight by").unwrap();
        pin.write(9 * BYTES - 2, b"two and more").unwrap();
        let mut seen = [0; 8];
        space.read(VirtAddr::new(va.get() + BYTES - 4), &mut seen).unwrap();
        assert_eq!(&seen, b"eight by");
        space.read(VirtAddr::new(va.get() + 9 * BYTES + 98), &mut seen[..4]).unwrap();
        assert_eq!(&seen[..4], b"tw\0\0");
        pin.read(9 * BYTES - 2, &mut seen);
        assert_eq!(&seen, b"tw\0\0t by", "past the end nothing is read");
        assert!(pin.pfns().zip(0..).all(|(pfn, page)| {
            space.page(VirtAddr::new(va.get() + page * BYTES)).unwrap().unwrap().pfn == pfn
        }));

        let to_read = space.pin_range(start, 1, Flags::PIN).unwrap();
        assert_eq!(to_read.write(0, b"x"), Err(Error::NotForWriting));
        // To the end of the area, and no farther.
        let part = space.pin_range(VirtAddr::new(va.get() + 38 * BYTES + 7), 5 * BYTES, Flags::GET).unwrap();
        assert_eq!(part.bytes(), 2 * BYTES - 7);
        assert_eq!(part.stopped(), Some(Refusal::NoArea { va: VirtAddr::new(va.get() + 40 * BYTES) }));
        assert!(matches!(space.pin_range(va, BYTES, Flags::GET | Flags::PIN), Err(Error::Flags(_))));
        assert!(matches!(space.pin_range(VirtAddr::MAX, 2, Flags::PIN), Err(Error::Span(_))));
        drop((pin, to_read, part, space));
        assert_eq!(world.free_frames(), world.frames());
    }

    #[test]
    fn a_pin_to_read_is_of_a_page_that_stays() {
        let mut ids = [AtomicU64::new(0)];
        let world = World::<NoPageMapcount<PowerSums>>::new(256, &mut ids).unwrap();
        let file = world.create_file(b"file", Order::ZERO).unwrap();
        let space = world.spawn().unwrap();
        let [anon, private, shared] = [1 << 20, 2 << 20, 3 << 20].map(VirtAddr::new);
        let range = |va| VirtRange::new(va, BYTES).unwrap();
        space.mmap(range(anon), ANONYMOUS).unwrap();
        space.mmap(range(private), Area::file(file, 0, false)).unwrap();
        space.mmap(range(shared), Area::file(file, 0, true)).unwrap();
        space.write(anon, b"x").unwrap();
        let child = space.fork().unwrap();
        for va in [anon, private, shared] {
            let pin = space.pin_to_read(va).unwrap();
            space.write(va, b"y").unwrap();
            let mut seen = [0];
            pin.read(0, &mut seen);
            assert_eq!(&seen, b"y", "{va:?}");
        }
        // Read-only from the beginning.
        space.munmap(range(shared)).unwrap();
        space.mmap(range(shared), Area::file(file, 0, true).read_only()).unwrap();
        let mut seen = [0; 4];
        space.pin_to_read(shared).unwrap().read(0, &mut seen);
        assert_eq!(&seen, b"yile");
        child.read(anon, &mut seen[..1]).unwrap();
        assert_eq!(&seen[..1], b"x");
    }
}
