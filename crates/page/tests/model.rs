// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random programs against a plain model: after every step each frame's head, order and state are the model's.
#![cfg(not(mmkit_loom))]

mod common;

use core::sync::atomic::Ordering::Relaxed;
use std::collections::BTreeMap;

use common::{order, pages, pfn, place};
use mmkit_addr::PfnRange;
use mmkit_page::{ClaimError, Folio, Free, Frozen, GetError, MemMap, PageFlags, Reason, SliceMap, State};
use proptest::prelude::*;

type Map<'a> = SliceMap<'a>;

/// What a block is, as the model knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Uninitialised,
    /// At rest.
    Parked,
    /// In a handle, or kept as a number.
    Free,
    Frozen,
    /// With so many references.
    Held(u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    order: u8,
    compound: bool,
    kind: Kind,
    /// Zone of its frames.
    zone: u8,
    words: [u64; 4],
    flags: PageFlags,
}

impl Block {
    fn end(&self, start: u64) -> u64 {
        start + (1 << self.order)
    }
}

/// One handle, or the number that remained of one.
enum Handle<'m, 'a> {
    Free(Free<'m, Map<'a>>),
    Frozen(Frozen<'m, Map<'a>>),
    Folio(Folio<'m, Map<'a>>),
    RawFree(u64),
    RawFolio(u64),
}

impl Handle<'_, '_> {
    fn pfn(&self) -> u64 {
        match self {
            Self::Free(free) => free.pfn().get(),
            Self::Frozen(frozen) => frozen.pfn().get(),
            Self::Folio(folio) => folio.pfn().get(),
            Self::RawFree(n) | Self::RawFolio(n) => *n,
        }
    }
}

/// One step: what, and two numbers that choose on what.
#[derive(Clone, Copy, Debug)]
struct Step(u8, u16, u16);

struct World<'m, 'a> {
    map: &'m Map<'a>,
    blocks: BTreeMap<u64, Block>,
    handles: Vec<Handle<'m, 'a>>,
}

impl<'m, 'a> World<'m, 'a> {
    fn new(map: &'m Map<'a>) -> Self {
        let raw = Block {
            order: 0,
            compound: false,
            kind: Kind::Uninitialised,
            zone: 0,
            words: [0; 4],
            flags: PageFlags::empty(),
        };
        let range = map.range();
        let blocks = (range.start().get()..range.end()).map(|n| (n, raw.clone())).collect();
        Self { map, blocks, handles: Vec::new() }
    }

    /// The block that frame `n` lies in, by its first frame.
    fn block_of(&self, n: u64) -> (u64, &Block) {
        let (start, block) = self.blocks.range(..=n).next_back().unwrap();
        assert!(n < block.end(*start), "the model has a hole");
        (*start, block)
    }

    fn at(&mut self, n: u64) -> &mut Block {
        self.blocks.get_mut(&n).unwrap()
    }

    fn frame(&self, choice: u16) -> u64 {
        let range = self.map.range();
        range.start().get() + u64::from(choice) % range.frames()
    }

    /// Every frame, as anyone sees it.
    fn check(&self) {
        let reader = self.map.enter();
        for (&start, block) in &self.blocks {
            for n in start..block.end(start) {
                let view = reader.page(pfn(n)).unwrap();
                let k = order(block.order);
                let state = match block.kind {
                    _ if n > start && block.compound => State::Tail { order: k },
                    _ if n > start => State::Inside,
                    Kind::Uninitialised => State::Uninitialised,
                    Kind::Parked => State::Free { order: k, parked: true },
                    Kind::Free => State::Free { order: k, parked: false },
                    Kind::Frozen => State::Frozen { order: k },
                    Kind::Held(count) => State::Held { order: k, count },
                };
                assert_eq!(view.state(), state, "frame {n:#x}");
                assert_eq!(view.head(), pfn(if block.compound { start } else { n }), "frame {n:#x}");
                assert_eq!(view.place(), place(block.zone.into(), block.zone), "frame {n:#x}");
                if n == start {
                    assert_eq!(view.words()[4..], block.words, "frame {n:#x}");
                    assert_eq!(view.flags(), block.flags, "frame {n:#x}");
                }
            }
        }
    }

    fn initialise(&mut self, n: u64, frames: u64, zone: u8) {
        let frames = frames.min(self.map.range().end() - n);
        let result = self.map.initialise(PfnRange::new(pfn(n), frames).unwrap(), place(zone.into(), zone));
        let mut expected = Ok(());
        for n in n..n + frames {
            let (start, block) = self.block_of(n);
            if start != n || block.kind != Kind::Uninitialised {
                expected = Err(ClaimError::Initialised { pfn: pfn(n) });
                break;
            }
            *self.at(n) = Block { kind: Kind::Parked, zone, ..self.at(n).clone() };
        }
        assert_eq!(result, expected);
    }

    /// Claims `n`; the place of the new handle.
    fn claim(&mut self, n: u64) -> Option<usize> {
        let (start, block) = self.block_of(n);
        let expected = match block.kind {
            Kind::Parked if start == n => Ok(order(block.order)),
            Kind::Uninitialised => Err(ClaimError::Uninitialised { pfn: pfn(n) }),
            _ => Err(ClaimError::Taken { pfn: pfn(n) }),
        };
        match self.map.claim(pfn(n)) {
            Ok(free) => {
                assert_eq!(Ok(free.order()), expected);
                assert_eq!(free.pfn(), pfn(n));
                self.at(n).kind = Kind::Free;
                self.handles.push(Handle::Free(free));
                Some(self.handles.len() - 1)
            }
            Err(error) => {
                assert_eq!(Err(error), expected);
                None
            }
        }
    }

    fn try_get(&mut self, n: u64) {
        let (start, block) = self.block_of(n);
        let head = if block.compound { start } else { n };
        let expected = match block.kind {
            Kind::Uninitialised => Err(GetError::Uninitialised { pfn: pfn(n) }),
            Kind::Held(count) if head == start => Ok((start, count + 1)),
            _ => Err(GetError::Unreferenced { pfn: pfn(head) }),
        };
        match self.map.try_get(pfn(n)) {
            Ok(folio) => {
                assert_eq!(Ok((folio.pfn().get(), folio.count())), expected);
                let Kind::Held(count) = &mut self.at(start).kind else { unreachable!() };
                *count += 1;
                self.handles.push(Handle::Folio(folio));
            }
            Err(error) => assert_eq!(Err(error), expected),
        }
    }

    fn split(&mut self, free: Free<'m, Map<'a>>) {
        let n = free.pfn().get();
        let block = self.at(n).clone();
        match free.split() {
            Ok((low, high)) => {
                assert!(block.order > 0 && !block.compound);
                let half = Block { order: block.order - 1, ..block };
                assert_eq!((low.pfn().get(), high.pfn().get()), (n, half.end(n)));
                self.blocks.insert(half.end(n), Block { words: [0; 4], ..half.clone() });
                self.blocks.insert(n, half);
                self.handles.extend([Handle::Free(low), Handle::Free(high)]);
            }
            Err(refused) => {
                let compound = Reason::Compound { order: order(block.order) };
                assert_eq!(refused.reason, if block.compound { compound } else { Reason::SingleFrame });
                self.handles.push(Handle::Free(refused.handle));
            }
        }
    }

    /// Joins two; the place of the new handle.
    fn merge(&mut self, one: Free<'m, Map<'a>>, two: Free<'m, Map<'a>>) -> Option<usize> {
        let (n, m) = (one.pfn().get(), two.pfn().get());
        let (a, b) = (self.blocks[&n].clone(), self.blocks[&m].clone());
        let low = n.min(m);
        let halves =
            a.order == b.order && low % (2 << a.order) == 0 && self.blocks[&low].end(low) == n.max(m);
        let expected = match () {
            () if a.compound => Err(Reason::Compound { order: order(a.order) }),
            () if b.compound => Err(Reason::Compound { order: order(b.order) }),
            () if !halves => Err(Reason::NotBuddies { pfn: pfn(n), other: pfn(m) }),
            () if a.zone != b.zone => Err(Reason::OtherPlace { pfn: pfn(n), other: pfn(m) }),
            () => Ok(()),
        };
        match one.merge(two) {
            Ok(free) => {
                assert_eq!(expected, Ok(()));
                assert_eq!((free.pfn().get(), free.order().get()), (low, a.order + 1));
                self.blocks.remove(&n.max(m));
                self.at(low).order += 1;
                self.handles.push(Handle::Free(free));
                Some(self.handles.len() - 1)
            }
            Err(refused) => {
                assert_eq!(expected, Err(refused.reason));
                let (one, two) = refused.handle;
                assert_eq!((one.pfn().get(), two.pfn().get()), (n, m));
                self.handles.extend([Handle::Free(one), Handle::Free(two)]);
                None
            }
        }
    }

    /// Claims what rests in the aligned block of `k` around `n`, and joins it as far as it goes.
    fn grow(&mut self, n: u64, k: u8) -> Option<usize> {
        if let Some(at) = self.claim(n) {
            if self.blocks[&n].order >= k {
                return Some(at);
            }
            let free = self.handles.swap_remove(at);
            let Handle::Free(free) = free else { unreachable!() };
            drop(free);
            self.at(n).kind = Kind::Parked;
        }
        let half = k.checked_sub(1)?;
        let low = self.grow(n, half)?;
        let other = n + (1 << half);
        if other >= self.map.range().end() {
            return None;
        }
        let high = self.grow(other, half)?;
        let Handle::Free(high) = self.handles.swap_remove(high) else { unreachable!() };
        let Handle::Free(low) = self.handles.swap_remove(low) else { unreachable!() };
        self.merge(low, high)
    }

    /// The reference `folio` is gone: the count, or `None` if it was the last.
    fn put(&mut self, n: u64) -> bool {
        match &mut self.at(n).kind {
            Kind::Held(1) => true,
            Kind::Held(count) => {
                *count -= 1;
                false
            }
            other => panic!("a reference on {other:?}"),
        }
    }

    /// The block becomes free, which it says; or frozen, if the hardware reported it.
    fn freed(&mut self, n: u64, kind: Kind) -> bool {
        if self.at(n).flags.contains(PageFlags::HWPOISON) {
            self.at(n).kind = Kind::Frozen;
            return false;
        }
        *self.at(n) = Block { kind, words: [0; 4], flags: PageFlags::empty(), ..self.at(n).clone() };
        true
    }

    fn step(&mut self, Step(what, a, b): Step) {
        match what {
            0 => return self.initialise(self.frame(a), u64::from(b % 64) + 1, (b >> 8) as u8 % 2),
            1 => {
                self.claim(self.frame(a));
                return;
            }
            2 => return self.try_get(self.frame(a)),
            3 => {
                let k = (b % 6) as u8;
                let n = self.frame(a) & !((1 << k) - 1);
                if n >= self.map.range().start().get() {
                    self.grow(n, k);
                }
                return;
            }
            _ if self.handles.is_empty() => return,
            _ => {}
        }
        let handle = self.handles.swap_remove(usize::from(a) % self.handles.len());
        let n = handle.pfn();
        match (what % 8, handle) {
            (0, Handle::Free(free)) => self.split(free),
            (1, Handle::Free(one)) => {
                // Half of the time what ought to be the other half, else any.
                let other = n ^ (1 << self.blocks[&n].order);
                let is_other = |handle: &Handle<'_, '_>| {
                    matches!(handle, Handle::Free(_)) && (b % 2 == 0 || handle.pfn() == other)
                };
                let Some(at) = self.handles.iter().position(is_other) else {
                    return self.handles.push(Handle::Free(one));
                };
                let Handle::Free(two) = self.handles.swap_remove(at) else { unreachable!() };
                self.merge(one, two);
            }
            (2, Handle::Free(free)) => {
                free.words()[usize::from(b) % 4].store(b.into(), Relaxed);
                self.at(n).words[usize::from(b) % 4] = b.into();
                drop(free);
                self.at(n).kind = Kind::Parked;
            }
            (3, Handle::Free(free)) => {
                assert_eq!(free.into_raw().get(), n);
                self.handles.push(Handle::RawFree(n));
            }
            (_, Handle::Free(free)) => {
                *self.at(n) = Block { kind: Kind::Frozen, words: [0; 4], ..self.at(n).clone() };
                self.handles.push(Handle::Frozen(free.allocate()));
            }
            (0, Handle::Frozen(frozen)) => {
                let handle = match frozen.into_free() {
                    Ok(free) => {
                        assert!(self.freed(n, Kind::Free));
                        Handle::Free(free)
                    }
                    Err(refused) => {
                        assert_eq!(refused.reason, Reason::Poisoned { pfn: pfn(n) });
                        let mut frozen = refused.handle;
                        assert!(frozen.remove_at(0..1, PageFlags::HWPOISON));
                        assert!(!self.freed(n, Kind::Free));
                        self.at(n).flags.remove(PageFlags::HWPOISON);
                        Handle::Frozen(frozen)
                    }
                };
                self.handles.push(handle);
            }
            (1..=3, Handle::Frozen(frozen)) => {
                let Block { order: k, compound, .. } = *self.at(n);
                let (frozen, reason) = match frozen.prep() {
                    Ok(frozen) => (frozen, None),
                    Err(refused) => (refused.handle, Some(refused.reason)),
                };
                let expected = match (k, compound) {
                    (0, _) => Some(Reason::SingleFrame),
                    (_, true) => Some(Reason::Compound { order: order(k) }),
                    _ => None,
                };
                assert_eq!(reason, expected);
                self.at(n).compound = k > 0;
                self.handles.push(Handle::Frozen(frozen));
            }
            (4, Handle::Frozen(frozen)) => {
                let compound = self.at(n).compound;
                let (frozen, reason) = match frozen.unprep() {
                    Ok(frozen) => (frozen, None),
                    Err(refused) => (refused.handle, Some(refused.reason)),
                };
                assert_eq!(reason, if compound { None } else { Some(Reason::NotCompound) });
                self.at(n).compound = false;
                self.handles.push(Handle::Frozen(frozen));
            }
            (_, Handle::Frozen(frozen)) => {
                self.at(n).kind = Kind::Held(1);
                self.handles.push(Handle::Folio(frozen.into_folio()));
            }
            (0, Handle::Folio(folio)) => {
                let Kind::Held(count) = &mut self.at(n).kind else { panic!("not held") };
                *count += 1;
                self.handles.push(Handle::Folio(folio.try_clone().unwrap()));
                self.handles.push(Handle::Folio(folio));
            }
            (1, Handle::Folio(folio)) => {
                let last = self.put(n);
                let frozen = folio.put();
                assert_eq!(frozen.is_some(), last);
                if let Some(frozen) = frozen {
                    self.at(n).kind = Kind::Frozen;
                    self.handles.push(Handle::Frozen(frozen));
                }
            }
            (2 | 3, Handle::Folio(folio)) => {
                let last = self.at(n).kind == Kind::Held(1);
                match folio.freeze() {
                    Ok(frozen) => {
                        assert!(last);
                        self.at(n).kind = Kind::Frozen;
                        self.handles.push(Handle::Frozen(frozen));
                    }
                    Err(folio) => {
                        assert!(!last);
                        self.handles.push(Handle::Folio(folio));
                    }
                }
            }
            (4, Handle::Folio(folio)) => {
                assert_eq!(folio.into_raw().get(), n);
                self.handles.push(Handle::RawFolio(n));
            }
            (5, Handle::Folio(folio)) => {
                let flags = PageFlags::from_bits_retain(u64::from(b) << 3 | 1 << 60);
                let known = PageFlags::from_bits_truncate(flags.bits());
                let model = &mut self.at(n).flags;
                let before = *model;
                if b % 2 == 0 {
                    model.insert(known);
                    assert_eq!(folio.insert(flags), before);
                } else {
                    model.remove(known);
                    assert_eq!(folio.remove(flags), before);
                }
                self.handles.push(Handle::Folio(folio));
            }
            (_, Handle::Folio(folio)) => {
                if self.put(n) {
                    self.freed(n, Kind::Parked);
                }
                drop(folio);
            }
            (_, Handle::RawFree(n)) => {
                // SAFETY: `into_raw` of this map returned it, and the number was only kept once.
                let free = unsafe { Free::from_raw(self.map, pfn(n)) }.unwrap();
                self.handles.push(Handle::Free(free));
            }
            (_, Handle::RawFolio(n)) => {
                // SAFETY: `into_raw` of this map returned it, and the number was only kept once.
                let folio = unsafe { Folio::from_raw(self.map, pfn(n)) }.unwrap();
                self.handles.push(Handle::Folio(folio));
            }
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Initialising, claiming, getting, growing; and three quarters of the time something with a handle.
    let what = prop_oneof![1 => 0u8..1, 1 => 1u8..2, 2 => 2u8..3, 2 => 3u8..4, 12 => 8u8..16];
    proptest::collection::vec(
        (what, any::<u16>(), any::<u16>()).prop_map(|(what, a, b)| Step(what, a, b)),
        1..300,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.min(96), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_are_what_the_model_says(
        frames in 64usize..=512,
        first in prop_oneof![Just(0u64), Just(0x1000), 0x1000u64..0x1100],
        initialised in any::<bool>(),
        steps in steps(),
    ) {
        let mut pages = pages(frames);
        let map = SliceMap::new(&mut pages, pfn(first)).unwrap();
        let mut world = World::new(&map);
        if initialised {
            world.initialise(first, frames as u64, 1);
        }
        world.check();
        for step in steps {
            world.step(step);
            world.check();
        }
    }
}
