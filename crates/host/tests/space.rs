// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mapping, unmapping and replacing pages of descriptors, as the processor sees it.
#![cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]

mod common;

use common::*;
use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_frame::{DirectMap, FrameAllocator, Request};
use mmkit_host::{HostError, HostFrames, HostSpace, MappingBudget};
use mmkit_page::{Place, Template};
use mmkit_vmemmap::{Backing, MapError, SpaceUsage, TailRun, Vmemmap, VmemmapSpace};

const PAGES: u64 = 64;

/// Descriptors of a space of [`PAGES`] pages.
fn limit() -> u64 {
    PAGES << (rustix::param::page_size().trailing_zeros() - 6)
}

fn own(first: Pfn) -> Backing {
    Backing::Own { first }
}

/// `count` consecutive frames; every word of frame `n` of them is `base + n`.
fn run_of(frames: &HostFrames, count: u64, base: u64) -> Pfn {
    let taken: Vec<Pfn> = (0..count).map(|n| filled(frames, base + n)).collect();
    assert!(taken.windows(2).all(|pair| pair[1].get() == pair[0].get() + 1), "{taken:?} are not consecutive");
    taken[0]
}

#[test]
fn what_is_mapped_reads_as_its_frames_do_and_is_written_through_both() {
    let Some((frames, space)) = host(limit(), 0) else { return };
    let first = run_of(&frames, 5, 100);
    assert_eq!(first_word(&space, 3), None);
    map(&space, 3..8, own(first)).unwrap();
    let found: Vec<_> = (0..PAGES).map(|page| first_word(&space, page)).collect();
    for page in 0..PAGES {
        assert_eq!(found[page as usize], (3..8).contains(&page).then(|| 97 + page));
    }
    // One call, one mapping.
    assert_eq!(space.mappings(), 3);
    assert_eq!(kernel_view(&space)[1], (3..8, "rw-s".into(), first.get()));

    let page = descriptor(&space, 4 << (space.base_shift() - 6)).unwrap().cast::<u64>();
    // SAFETY: mapped for writing, and this test's own.
    unsafe { page.write_volatile(7) };
    let frame = frames.frame(pfn(first.get() + 1)).unwrap().cast::<u64>();
    // SAFETY: the frame is this test's own.
    assert_eq!(unsafe { frame.read_volatile() }, 7);

    assert_eq!(unmap(&space, 3..8), Ok(vec![(5, own(first))]));
    assert_eq!(first_word(&space, 3), None);
    assert_eq!(kernel_view(&space).len(), 1);
    assert_eq!(space.mappings(), 1);
    assert_eq!(space.usage(), SpaceUsage::default());
}

#[test]
fn descriptors_are_where_arithmetic_says() {
    let Some((frames, space)) = host(limit() - 3, 0) else { return };
    assert_eq!(space.pages(), PAGES);
    let first = run_of(&frames, PAGES, 0);
    map(&space, 0..PAGES, own(first)).unwrap();
    let base = space.addresses().start;
    for frame in [0, 1, 63, 64, limit() - 4] {
        assert_eq!(descriptor(&space, frame).unwrap().as_ptr().addr(), base + frame as usize * 64);
    }
    // Past the limit there are none, even where the last page has room.
    assert_eq!(descriptor(&space, limit() - 3), None);
    assert_eq!(descriptor(&space, Pfn::MAX.get()), None);
}

#[test]
fn tails_read_right_at_every_page_of_every_run() {
    for run_order in 0..5 {
        let Some((frames, space)) = host(limit(), run_order) else { return };
        let compound = compound_order(&frames);
        let run = tails(&frames, order(run_order), compound);
        assert_eq!(space.tail_frames_order(), order(run_order));
        map(&space, 1..PAGES, Backing::Tails(run)).unwrap();
        let tail = Template::tail(compound, Place::default()).words();
        let per_page = 1 << (space.base_shift() - 6);
        for frame in per_page..limit() {
            assert_eq!(words(&space, frame), Some(tail), "frame {frame}, run order {run_order}");
        }
        assert_eq!(words(&space, 0), None);
        // Read-only, and exactly as many mappings as the books say.
        let view = kernel_view(&space);
        assert_eq!(view.len() as u64, space.mappings());
        assert!(view[1..].iter().all(|(_, access, _)| access == "r--s"), "{view:?}");
        // All frames that stand behind tails belong to the run.
        for (pages, _, offset) in &view[1..] {
            let last = offset + (pages.end - pages.start);
            assert!(*offset >= run.first.get() && last <= run.first.get() + run.order.frames(), "{view:?}");
        }
        assert_eq!(unmap(&space, 1..PAGES), Ok(vec![(PAGES - 1, Backing::Tails(run))]));
    }
}

#[test]
fn part_of_what_was_mapped_can_be_unmapped() {
    let Some((frames, space)) = host(limit(), 1) else { return };
    let first = run_of(&frames, 8, 50);
    let run = tails(&frames, order(1), compound_order(&frames));
    map(&space, 0..8, own(first)).unwrap();
    map(&space, 8..16, Backing::Tails(run)).unwrap();
    let middle = vec![(2, own(pfn(first.get() + 6))), (3, Backing::Tails(run))];
    assert_eq!(unmap(&space, 6..11), Ok(middle));
    for page in 0..16 {
        let tail = Template::tail(compound_order(&frames), Place::default()).words()[0];
        let expected = match page {
            0..6 => Some(50 + page),
            6..11 => None,
            _ => Some(tail),
        };
        assert_eq!(first_word(&space, page), expected, "page {page}");
    }
    assert_eq!(space.mappings(), kernel_view(&space).len() as u64);
    // What is left comes out with the frames that are behind it.
    map(&space, 6..11, Backing::Tails(run)).unwrap();
    assert_eq!(unmap(&space, 5..12), Ok(vec![(1, own(pfn(first.get() + 5))), (6, Backing::Tails(run))]));
}

#[test]
fn what_a_caller_gets_wrong_is_an_error_and_changes_nothing() {
    let Some((frames, space)) = host(limit(), 0) else { return };
    let first = run_of(&frames, 4, 1);
    map(&space, 10..14, own(first)).unwrap();
    let before = kernel_view(&space);
    let capacity = frames.capacity();
    let run = TailRun { first: pfn(capacity - 1), order: order(1) };

    assert_eq!(map(&space, 13..15, own(first)), Err(MapError::Occupied { page: 13 }));
    assert_eq!(
        map(&space, 0..PAGES, Backing::Tails(run)),
        Err(MapError::OutOfSpace { page: capacity, pages: capacity })
    );
    assert_eq!(map(&space, 62..66, own(first)), Err(MapError::OutOfSpace { page: PAGES, pages: PAGES }));
    assert_eq!(map(&space, 80..81, own(first)), Err(MapError::OutOfSpace { page: 80, pages: PAGES }));
    assert_eq!(
        map(&space, 0..2, own(pfn(capacity - 1))),
        Err(MapError::OutOfSpace { page: capacity, pages: capacity })
    );
    assert_eq!(
        map(&space, 0..1, own(Pfn::MAX)),
        Err(MapError::OutOfSpace { page: Pfn::MAX.get(), pages: capacity })
    );
    assert_eq!(unmap(&space, 9..12), Err(MapError::Missing { page: 9 }));
    assert_eq!(unmap(&space, 12..16), Err(MapError::Missing { page: 14 }));
    assert_eq!(unmap(&space, 12..u64::MAX), Err(MapError::OutOfSpace { page: PAGES, pages: PAGES }));
    // SAFETY: refused.
    let refused = unsafe { space.put_over(12..16, own(first)) };
    assert_eq!(refused.err(), Some(MapError::Missing { page: 14 }));
    // Nothing to do is done.
    assert_eq!(map(&space, 7..7, own(first)), Ok(()));
    assert_eq!(unmap(&space, 7..7), Ok(vec![]));
    #[expect(clippy::reversed_empty_ranges, reason = "the point")]
    let inverted = 9..3;
    assert_eq!(map(&space, inverted.clone(), own(first)), Ok(()));
    assert_eq!(unmap(&space, inverted), Ok(vec![]));

    assert_eq!(kernel_view(&space), before);
    assert_eq!(space.mappings(), 3);
}

#[test]
fn spaces_that_cannot_be_are_refused() {
    let Some((frames, _)) = host(1, 0) else { return };
    let make = |limit| HostSpace::new(&frames, limit, Order::ZERO, unlimited()).map(drop);
    assert_eq!(make(0), Err(HostError::Size { frames: 0 }));
    assert!(matches!(make(u64::MAX), Err(HostError::Size { .. })));
    // However often: nothing is used up.
    for _ in 0..64 {
        assert!(matches!(make(1 << 54), Err(HostError::Os { call: "mmap", .. })));
    }
    assert_eq!(make(1), Ok(()));
    assert!(matches!(HostFrames::new(0), Err(HostError::Size { frames: 0 })));
    assert!(matches!(HostFrames::new(u64::MAX / 2), Err(HostError::Size { .. })));
}

#[test]
fn more_mappings_than_the_budget_are_refused_before_any_is_made() {
    let Some((frames, _)) = host(1, 0) else { return };
    let budget = MappingBudget { limit: 110, others: 100 };
    let space = HostSpace::new(&frames, limit(), Order::ZERO, budget).unwrap();
    let run = tails(&frames, order(2), compound_order(&frames));
    let first = run_of(&frames, 8, 1);
    // Runs of 4: 1 page before, pages 1..32 are 8 mappings, then the rest: 10 in all.
    map(&space, 1..32, Backing::Tails(run)).unwrap();
    assert_eq!(space.mappings(), 10);
    let before = kernel_view(&space);
    assert_eq!(map(&space, 40..41, own(first)), Err(MapError::TooManyMappings { needed: 112, limit: 110 }));
    assert_eq!(
        map(&space, 32..48, Backing::Tails(run)),
        Err(MapError::TooManyMappings { needed: 114, limit: 110 })
    );
    assert_eq!(unmap(&space, 17..18), Err(MapError::TooManyMappings { needed: 112, limit: 110 }));
    // SAFETY: refused.
    let refused = unsafe { space.put_over(17..18, own(first)) };
    assert_eq!(refused.err(), Some(MapError::TooManyMappings { needed: 112, limit: 110 }));
    assert_eq!(kernel_view(&space), before);
    let message = MapError::TooManyMappings { needed: 112, limit: 110 }.to_string();
    assert!(message.contains("112") && message.contains("vm.max_map_count") && message.contains("110"));

    // What joins costs nothing; what is given back can be used again.
    map(&space, 0..1, Backing::Tails(run)).unwrap();
    assert_eq!(space.mappings(), 9);
    assert_eq!(map(&space, 62..PAGES, own(first)), Ok(()));
    unmap(&space, 0..32).unwrap();
    assert_eq!(space.mappings(), 2);
}

#[test]
fn replacing_gives_out_what_was_there_and_readers_never_notice() {
    let Some((frames, space)) = host(limit(), 3) else { return };
    let compound = compound_order(&frames);
    let run = tails(&frames, order(3), compound);
    let private = run_of(&frames, 8, 0);
    let tail = Template::tail(compound, Place::default());
    for page in 0..8 {
        let to = frames.frame(pfn(private.get() + page)).unwrap();
        // SAFETY: the test's own frame.
        unsafe { tail.fill(to, 1 << (space.base_shift() - 6)) };
    }
    map(&space, 0..8, own(private)).unwrap();
    let rest = pfn(private.get() + 1);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let reads = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) || reads == 0 {
                for frame in 0..8 << (space.base_shift() - 6) {
                    assert_eq!(words(&space, frame), Some(tail.words()));
                }
                reads += 1;
            }
            reads
        });
        for _ in 0..500 {
            // SAFETY: the tails read the same, and nobody writes.
            let was = unsafe { space.put_over(1..8, Backing::Tails(run)) }.unwrap();
            assert_eq!(flushed(was), [(7, own(rest))]);
            // SAFETY: as before.
            let was = unsafe { space.put_over(1..8, own(rest)) }.unwrap();
            assert_eq!(flushed(was), [(7, Backing::Tails(run))]);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(reads > 0);
    assert_eq!(space.mappings(), 2);
    assert_eq!(kernel_view(&space).len(), 2);
    assert_eq!(unmap(&space, 0..8), Ok(vec![(8, own(private))]));
}

#[test]
fn resident_bytes_are_the_frames_behind_the_descriptors() {
    let Some((frames, space)) = host(limit(), 3) else { return };
    let page = 1_u64 << frames.base_shift();
    assert_eq!(frames.resident_bytes(), 0);
    let run = tails(&frames, order(3), compound_order(&frames));
    let mut heads = vec![];
    for compound in 0..8 {
        let first = filled(&frames, compound);
        map(&space, compound * 8..compound * 8 + 1, own(first)).unwrap();
        map(&space, compound * 8 + 1..compound * 8 + 8, Backing::Tails(run)).unwrap();
        heads.push(first);
    }
    let per_page = 1_u64 << (space.base_shift() - 6);
    assert!((0..limit()).step_by(per_page as usize).all(|frame| words(&space, frame).is_some()));
    assert_eq!(frames.resident_bytes(), (8 + 8) * page, "reading tails brings nothing in");
    let out = unmap(&space, 0..PAGES).unwrap();
    assert_eq!(out.len(), 16);
    assert_eq!(out.iter().map(|(pages, _)| pages).sum::<u64>(), PAGES);
    assert_eq!(frames.resident_bytes(), (8 + 8) * page, "unmapping frees nothing");
    for head in heads {
        // SAFETY: allocated above, not mapped any more.
        unsafe { frames.deallocate(head, Order::ZERO) };
    }
    assert_eq!(frames.resident_bytes(), 8 * page);
    // SAFETY: as above.
    unsafe { frames.deallocate(run.first, run.order) };
    assert_eq!(frames.resident_bytes(), 0);
}

#[test]
fn a_dropped_space_leaves_no_mapping_behind() {
    let Some((frames, space)) = host(limit(), 0) else { return };
    let first = run_of(&frames, 2, 0);
    map(&space, 37..39, own(first)).unwrap();
    let address = space.addresses();
    drop(space);
    let request = Request::new(Order::ZERO);
    assert!(frames.allocate(request).is_ok(), "the frames outlive the space");
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    // Other tests may have been given the addresses since, but no mapping starts where the own pages did.
    let own = format!("{:x}-", address.start + (37 << frames.base_shift()));
    assert!(!maps.lines().any(|line| line.starts_with(&own)), "{maps}");
}

#[test]
fn frames_live_as_long_as_a_space_over_them() {
    let Some((frames, space)) = host(limit(), 0) else { return };
    let first = run_of(&frames, 1, 77);
    map(&space, 0..1, own(first)).unwrap();
    drop(frames);
    assert_eq!(first_word(&space, 0), Some(77));
}

#[test]
fn a_memory_map_that_needs_too_many_mappings_is_not_begun_half_way() {
    let Some((frames, _)) = host(1, 0) else { return };
    let (size, geometry) = (compound_order(&frames), geometry(&frames));
    let range = PfnRange::new(Pfn::ZERO, geometry.frames_per_section()).unwrap();
    let compounds = range.frames() / size.frames();
    // Two for each compound are needed, and the last one is missing.
    for (limit, fits) in [(2 * compounds, true), (2 * compounds - 1, false), (1, false), (0, false)] {
        let space =
            HostSpace::new(&frames, range.end(), order(3), MappingBudget { limit, others: 0 }).unwrap();
        let vmemmap = Vmemmap::new(geometry, space, HostEnv::new(&frames)).unwrap();
        let built = vmemmap.populate(range, size, Place::default());
        assert_eq!(built.is_ok(), fits, "{limit} mappings for {compounds} compounds: {built:?}");
        if fits {
            assert_eq!(vmemmap.space().mappings(), limit);
            assert_eq!(frames.resident_bytes(), vmemmap.usage().total() << frames.base_shift());
            vmemmap.remove(range).unwrap();
        }
        assert_eq!(vmemmap.space().mappings(), 1);
        assert_eq!(vmemmap.usage().own, 0);
        assert_eq!(frames.resident_bytes(), vmemmap.usage().total() << frames.base_shift());
        drop(vmemmap);
        assert_eq!((frames.allocated(), frames.resident_bytes(), frames.bad_frees()), (0, 0, 0));
    }
}
