// SPDX-License-Identifier: MIT OR Apache-2.0
//! Folios that move to other frames: out of the zone that is kept for what can.

use mmkit_addr::Order;
use mmkit_folio::{Kind, Mapcounts, Rmap};
use mmkit_gup::{Isolated, Migrate, MigrateError};
use mmkit_page::{Folio, MemMap, PageFlags, PinPolicy, PinUse, PinVerdict};
use mmkit_sync::atomic::{Ordering, fence};

use crate::arena::BYTES;
use crate::huge::UPPER_TABLES;
use crate::memory::{Home, MOVABLE, Memory};
use crate::runs::Run;
use crate::view::View;
use crate::vma::TOP;
use crate::{AddressSpace, Error};

/// Pins that stay do not stay in [`MOVABLE`].
pub(crate) struct Zones;

impl<C: Mapcounts> PinPolicy<Memory<C>> for Zones {
    #[inline]
    fn verdict(&self, folio: &Folio<'_, Memory<C>>, usage: PinUse) -> PinVerdict {
        if usage.contains(PinUse::LONGTERM) && folio.place().zone == MOVABLE {
            PinVerdict::Migrate
        } else {
            PinVerdict::Allow
        }
    }
}

/// A folio moves if this address space alone maps it, and nobody but its mappings has it. (There is no list of all who map a
/// folio here; in their turn all of them could.)
impl<C: Mapcounts> Migrate<Memory<C>> for View<'_, '_, C> {
    fn isolate(&self, folio: &Folio<'_, Memory<C>>) -> bool {
        // Who sets the flag has it.
        !folio.insert(PageFlags::LOCKED).contains(PageFlags::LOCKED)
    }

    fn drain(&self) {
        // Somebody else is moving it, or about to.
        std::thread::yield_now();
    }

    fn migrate(&self, isolated: Isolated<'_, Memory<C>>) -> Result<(), MigrateError> {
        let mut result = Ok(());
        for folio in isolated {
            let moved = self.0.move_folio(&folio).map_err(|error| match error {
                Error::Alloc(_) | Error::Tables(_) => MigrateError::NoMemory,
                _ => MigrateError::Busy,
            });
            // The flag of a folio that moved ends with it, if this is the last reference.
            folio.remove(PageFlags::LOCKED);
            result = result.and(moved);
        }
        result
    }
}

impl<C: Mapcounts> AddressSpace<'_, C> {
    /// Puts the contents of `folio`, on which the caller has one reference, into frames that stay, and maps those. Where that
    /// fails, some pages may have moved. Linux: `migrate_pages`.
    fn move_folio(&self, folio: &Folio<'_, Memory<C>>) -> Result<(), Error> {
        // All others are kept out: faults, and whoever changes areas.
        let _vmas = self.vmas.write();
        let mut runs = self.runs(0, TOP)?;
        runs.retain(|run| run.head == folio.pfn());
        if runs.is_empty() {
            // It was unmapped since it was looked at.
            return Ok(());
        }
        // Pinners without locks take their pins back from here on, or are seen.
        let _writer = self.write_protecting();
        let mut left: u32 = runs.iter().map(Run::mappings).sum();
        for run in &runs {
            if run.pages == folio.order().frames() {
                self.move_run(folio, run, folio.order(), &mut left)?;
                continue;
            }
            // The rest of the folio is mapped elsewhere, or nowhere.
            for page in 0..run.pages {
                let (start, index) = (run.start + page * BYTES, run.index + page);
                self.move_run(folio, &Run { start, index, pages: 1, ..*run }, Order::ZERO, &mut left)?;
            }
        }
        Ok(())
    }

    /// Moves what `run` maps of `folio` into a folio of `order`, of as many pages. Of the folio's mappings `left` are this
    /// address space's, which become fewer. Nothing has changed where that fails.
    fn move_run(
        &self,
        folio: &Folio<'_, Memory<C>>,
        run: &Run,
        order: Order,
        left: &mut u32,
    ) -> Result<(), Error> {
        check_alone(folio, run, *left)?;
        // The old entries give their tables back, but others may take those.
        let _aside = self.set_aside(UPPER_TABLES + 1)?;
        let frozen = self.world.memory.take(order, Home::Fixed)?;
        if let Err(error) = self.clear(run.start, run.end()) {
            self.world.memory.release(frozen);
            return Err(error);
        }
        // SeqCst: pairs with the fence of those who take references without locks, between that and their second look at the
        // entry. Either they see that it is gone, or their references are seen here.
        fence(Ordering::SeqCst);
        if let Err(error) = check_alone(folio, run, *left) {
            self.world.memory.release(frozen);
            self.tables.map(run.range(), run.entries(run.prot))?;
            return Err(error);
        }
        for page in 0..run.pages {
            if let (Some(from), Some(to)) = (run.pfn().checked_add(page), frozen.pfn().checked_add(page)) {
                self.world.copy_frame(from, to);
            }
        }
        // What one address space has alone is its own in the new place, and what was read-only stays so until it is written.
        *left -= run.mappings();
        self.world.counters.moved.fetch_add(1, Ordering::Relaxed);
        let mapped = self.map_new(frozen, run.start, run.huge, run.prot);
        mapped.and(self.uncount_of(folio, run.mapping()))
    }
}

/// Fails where `folio` is a file's, or somebody has it beside the caller and `mappings` of one address space.
fn check_alone<C: Mapcounts>(folio: &Folio<'_, Memory<C>>, run: &Run, mappings: u32) -> Result<(), Error> {
    // A pin has a reference.
    let alone = folio.mappings() == mappings && folio.count() == mappings + 1;
    if alone && folio.kind() == Kind::Anon { Ok(()) } else { Err(Error::Busy { va: run.range().start() }) }
}

#[cfg(test)]
mod tests {
    use mmkit_addr::{VirtAddr, VirtRange};
    use mmkit_folio::{NoPageMapcount, PowerSums};
    use mmkit_gup::{Flags, Refusal};
    use mmkit_sync::atomic::AtomicU64;

    use super::*;
    use crate::space::PMD_BYTES;
    use crate::{Area, PMD_ORDER, Pin, World};

    type Strategy = NoPageMapcount<PowerSums>;

    const VA: VirtAddr = VirtAddr::new(4 * PMD_BYTES);
    const FOREVER: Flags = Flags::PIN.union(Flags::WRITE).union(Flags::LONGTERM);

    fn range(pages: u64) -> VirtRange {
        VirtRange::new(VA, pages * BYTES).unwrap()
    }

    fn page(page: u64) -> VirtAddr {
        VirtAddr::new(VA.get() + page * BYTES)
    }

    /// An address space with `area` at [`VA`], each page of which has its number in it, in a world most of which is movable.
    fn with(area: Area, pages: u64, then: impl FnOnce(&World<'_, Strategy>, &AddressSpace<'_, Strategy>)) {
        let mut ids = [AtomicU64::new(0)];
        let world = World::<Strategy>::with_movable(1 << 13, 1 << 12, &mut ids).unwrap();
        assert_eq!(world.movable_frames(), 1 << 12);
        let space = world.spawn().unwrap();
        space.mmap(range(pages), area).unwrap();
        for nth in 0..pages {
            space.write(page(nth), &nth.to_le_bytes()).unwrap();
        }
        then(&world, &space);
        for nth in 0..pages {
            let mut seen = [0; 8];
            space.read(page(nth), &mut seen).unwrap();
            assert_eq!(u64::from_le_bytes(seen), nth);
        }
        world.audit(&[&space]).unwrap_or_else(|error| panic!("{error}"));
        drop(space);
        assert_eq!(world.free_frames(), world.frames());
    }

    /// How many pages of `pin` are where they must not stay.
    fn movable(world: &World<'_, Strategy>, pin: &Pin<'_, Strategy>) -> usize {
        pin.pfns().filter(|&pfn| world.is_movable(pfn)).count()
    }

    #[test]
    fn what_is_pinned_for_long_moves_first_and_keeps_its_shape() {
        for area in [
            Area::anonymous(Order::ZERO),
            Area::anonymous(Order::new(4).unwrap()),
            Area::anonymous(PMD_ORDER),
            Area::anonymous(PMD_ORDER).by_ptes(),
        ] {
            with(area, 1024, |world, space| {
                let before = space.page(page(17)).unwrap().unwrap();
                assert!(world.is_movable(before.pfn));
                let short = space.pin_range(VA, 1024 * BYTES, Flags::PIN | Flags::WRITE).unwrap();
                assert_eq!(movable(world, &short), 1024, "not for long");
                drop(short);
                let pin = space.pin_range(VA, 1024 * BYTES, FOREVER).unwrap();
                assert_eq!((pin.bytes(), movable(world, &pin)), (1024 * BYTES, 0));
                let after = space.page(page(17)).unwrap().unwrap();
                assert_eq!((after.order, after.by_pmd, after.write), (before.order, before.by_pmd, true));
                let mut seen = [0; 8];
                pin.read(1000 * BYTES, &mut seen);
                assert_eq!(u64::from_le_bytes(seen), 1000);
            });
        }
    }

    #[test]
    fn what_others_have_stays_and_nothing_is_pinned() {
        with(Area::anonymous(Order::new(4).unwrap()), 64, |world, space| {
            let reference = space.pin_range(page(20), BYTES, Flags::GET).unwrap();
            let refused = Refusal::Migrate(MigrateError::Busy);
            let error = space.pin_range(VA, 64 * BYTES, FOREVER).unwrap_err();
            assert_eq!(error, Error::Refused(refused));
            drop(reference);
            let pin = space.pin_range(VA, 64 * BYTES, FOREVER).unwrap();
            assert_eq!(movable(world, &pin), 0);
        });
    }

    #[test]
    fn pieces_of_a_folio_move_page_by_page() {
        with(Area::anonymous(PMD_ORDER).by_ptes(), 512, |world, space| {
            space.munmap(VirtRange::new(page(100), 10 * BYTES).unwrap()).unwrap();
            let pin = space.pin_range(page(90), 40 * BYTES, FOREVER).unwrap();
            assert_eq!((pin.bytes(), movable(world, &pin)), (10 * BYTES, 0));
            assert_eq!(pin.stopped(), Some(Refusal::NoArea { va: page(100) }));
            // For the check of the contents.
            space.mmap(VirtRange::new(page(100), 10 * BYTES).unwrap(), Area::anonymous(Order::ZERO)).unwrap();
            for nth in 100..110_u64 {
                space.write(page(nth), &nth.to_le_bytes()).unwrap();
            }
        });
    }

    /// Each allocation of the move fails in turn: all pages are where and what they were.
    #[test]
    fn a_move_that_fails_changes_nothing() {
        for area in [Area::anonymous(PMD_ORDER), Area::anonymous(Order::new(3).unwrap())] {
            with(area, 512, |world, space| {
                let pfn = |nth| space.page(page(nth)).unwrap().unwrap().pfn;
                let before: Vec<_> = (0..8).map(pfn).collect();
                let mut failures = 0;
                loop {
                    world.fail_allocation(failures + 1);
                    let pinned = space.pin_range(VA, 8 * BYTES, FOREVER);
                    if world.fail_allocation(0) > 0 {
                        assert!(pinned.is_ok_and(|pin| movable(world, &pin) == 0));
                        break;
                    }
                    assert_eq!(pinned.unwrap_err(), Error::Refused(Refusal::Migrate(MigrateError::NoMemory)));
                    assert_eq!((0..8).map(pfn).collect::<Vec<_>>(), before);
                    failures += 1;
                }
                assert!(failures > 1, "{failures}");
            });
        }
    }
}
