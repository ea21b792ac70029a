// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who owns a folio, asked after every operation of sixty-four address spaces that share a few; and when a name is free for
//! the next one.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::{Random, at, order, pages};
use mmkit_addr::{Order, VirtAddr};
use mmkit_folio::{Checked, Mapcounts, NoPageMapcount, PageMapcount, PowerSums, TwoSlots};
use mmkit_sim::{AddressSpace, Area, Error, World};
use mmkit_sync::atomic::AtomicU64;

const SPACES: usize = 64;
/// One folio of each of these orders.
const ORDERS: [u8; 4] = [1, 2, 3, 4];
const PAGES: usize = 30;
const STEPS: usize = 1000;

/// What the tracker says of each folio, and whether that is what the page tables say.
struct Answers {
    /// Head, whether it may be shared, and who is the only owner: in the order of the steps.
    said: Vec<(u64, bool, Option<u32>)>,
    /// The most owners that a folio had.
    most: usize,
    /// Folios that were said to be shared, and were not.
    cautious: u32,
}

fn area(nth: usize) -> Area {
    Area::anonymous(order(ORDERS[nth]))
}

/// Pages of the `nth` area, each of which is one folio: naturally aligned, so a folio fits.
fn first(nth: usize) -> usize {
    16 * nth
}

fn judge<C: Mapcounts>(world: &World<'_, C>, spaces: &[Option<AddressSpace<'_, C>>], answers: &mut Answers) {
    let spaces: Vec<_> = spaces.iter().flatten().collect();
    let audit = world.audit(&spaces).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(audit.missing, 0);
    for folio in audit.folios.values().filter(|folio| folio.order > Order::ZERO) {
        let shared = folio.owners.len() > 1;
        // (That several owners are never taken for one, and that the only owner is right, the audit has seen.)
        answers.cautious += u32::from(folio.maybe_shared && !shared);
        answers.most = answers.most.max(folio.owners.len());
        answers.said.push((folio.head.get(), folio.maybe_shared, folio.sole_owner.map(|mm| mm.get())));
    }
}

fn run<C: Mapcounts>(seed: u64) -> Answers {
    let mut ids = [AtomicU64::new(0)];
    let world = World::<C>::new(1 << 13, &mut ids).unwrap();
    let mut random = Random(seed);
    let mut spaces: Vec<Option<AddressSpace<'_, C>>> = (0..SPACES).map(|_| None).collect();
    let mut answers = Answers { said: Vec::new(), most: 0, cautious: 0 };
    for step in 0..STEPS {
        let alive: Vec<usize> = (0..SPACES).filter(|&who| spaces[who].is_some()).collect();
        let who = *alive.get(random.below(alive.len().max(1))).unwrap_or(&0);
        let folio = random.below(ORDERS.len());
        let page = first(folio) + random.below(1 << ORDERS[folio]);
        // All come, and most go again, in turns.
        let growing = step / 250 % 2 == 0;
        match (random.below(12), &spaces[who]) {
            (_, None) => {
                let space = world.spawn().unwrap();
                (0..ORDERS.len())
                    .for_each(|nth| space.mmap(pages(first(nth), 1 << ORDERS[nth]), area(nth)).unwrap());
                (0..ORDERS.len()).for_each(|nth| space.write(at(first(nth)), b"x").unwrap());
                spaces[who] = Some(space);
            }
            (0..6, Some(space)) if growing => match spaces.iter().position(Option::is_none) {
                Some(free) => spaces[free] = Some(space.fork().unwrap()),
                None => {
                    assert_eq!(space.fork().err().map(|error| matches!(error, Error::Ids(_))), Some(true))
                }
            },
            (0..6, Some(_)) => spaces[who] = None,
            (6..8, Some(space)) => space.dont_need(pages(page, 1)).unwrap(),
            (8, Some(space)) => {
                let from = VirtAddr::new(at(page).get());
                let away = VirtAddr::new(at(1000 + page).get());
                space.mremap(pages(page, 1), away).unwrap();
                space.mremap(pages(1000 + page, 1), from).unwrap();
            }
            (9 | 10, Some(space)) => space.write(at(page), b"y").unwrap(),
            (_, Some(space)) => space.read(at(page), &mut [0]).unwrap(),
        }
        judge(&world, &spaces, &mut answers);
    }
    spaces.clear();
    assert_eq!(world.free_frames(), world.frames());
    assert!(PAGES < answers.said.len());
    answers
}

#[test]
fn power_sums_answers_as_the_page_tables_do_and_as_checked_does() {
    let exact = run::<NoPageMapcount<Checked>>(3);
    assert_eq!(exact.most, SPACES, "a folio in all address spaces");
    assert_eq!(exact.cautious, 0);
    let sums = run::<PageMapcount<PowerSums>>(3);
    assert_eq!(sums.cautious, 0);
    assert!(sums.said == exact.said);
}

/// The program is one in which caution shows.
#[test]
fn two_slots_are_cautious() {
    assert!(run::<NoPageMapcount<TwoSlots>>(3).cautious > 0);
}

/// Exit: pages, then the name. Whoever gets the name finds nothing counted under it.
#[test]
fn a_name_is_free_when_nothing_is_mapped_under_it() {
    let mut ids = [AtomicU64::new(0)];
    let world = World::<PageMapcount<Checked>>::new(1 << 13, &mut ids).unwrap();
    let idle: Vec<_> = (1..SPACES).map(|_| world.spawn().unwrap()).collect();
    for round in 0..8 {
        let space = world.spawn().unwrap();
        space.mmap(pages(0, 2000), Area::anonymous(order(round % 3))).unwrap();
        space.populate(pages(0, 2000)).unwrap();
        assert_eq!(world.statistics().anon, 2000);
        let (name, waiting) = (space.id(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let next = scope.spawn(|| {
                loop {
                    match world.spawn() {
                        // At this moment.
                        Ok(next) => return (next.id(), world.statistics().anon),
                        Err(error) => assert!(matches!(error, Error::Ids(_)), "{error}"),
                    }
                    waiting.store(true, Ordering::Relaxed);
                    std::hint::spin_loop();
                }
            });
            while !waiting.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            drop(space);
            assert_eq!(next.join().unwrap(), (name, 0), "the name came back before the pages went");
        });
    }
    drop(idle);
    assert_eq!(world.free_frames(), world.frames());
}
