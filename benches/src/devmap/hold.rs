// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long the hotplug lock is held while device memory is added.

use std::error::Error;

use mmkit_addr::{Order, PfnRange};
use mmkit_vmemmap::{Populate, Serial};

use super::Size;
use super::env::{DeviceMap, GEOMETRY, HeldLock, Kinds, device, device_map, room};
use crate::arena::Arena;
use crate::figure::Figure;

/// The type of the device's pageblocks.
const KIND: u8 = 3;
/// Bytes that are written before a device is added.
const SCRATCH: usize = 32 << 20;

/// `hotplug_lock_held_us_1g` and `hotplug_lock_held_us_1t`.
///
/// A hold may be interrupted, and the more holds there are the more are. But every round has the same holds in the same
/// order, so each counts as the least that it took in any of them: that is what its work takes.
pub(super) fn longest(size: Size) -> Result<[Figure; 2], Box<dyn Error>> {
    let (small, large) = (device(1 << 30)?, device(size.hold_bytes)?);
    let order = Order::new((21 - GEOMETRY.base_shift()) as u8).ok_or("no such pages")?;
    let frames = room(large, order);
    super::afford(frames << GEOMETRY.base_shift())?;
    let (arena, kinds) = (Arena::resident(frames)?, Kinds::new(large.frames()));
    let mut scratch = vec![0_u64; SCRATCH / 8];
    let mut least = [Vec::new(), Vec::new()];
    for _ in 0..size.rounds {
        for (range, least) in [small, large].into_iter().zip(&mut least) {
            // More than a core's own caches: neither device finds there what was used last.
            scratch.iter_mut().for_each(|word| *word = word.wrapping_add(1));
            let holds = add(&arena, &kinds, range, order)?;
            if least.is_empty() {
                *least = holds;
                continue;
            }
            if least.len() != holds.len() {
                return Err("the lock is not taken equally often every time".into());
            }
            least.iter_mut().zip(holds).for_each(|(least, held)| *least = least.min(held));
        }
    }
    let longest = |holds: &[f64]| holds.iter().copied().fold(0.0, f64::max) / 1e3;
    let [small, large] = least.each_ref().map(|holds| longest(holds));
    let [few, many] = least.each_ref().map(Vec::len);
    let gib = size.hold_bytes >> 30;
    Ok([
        Figure::counted(
            "hotplug_lock_held_us_1g",
            format!(
                "microseconds of the longest of {few} holds of the lock while 1 GiB of 2M pages is added: processor time, of \
                 each hold the least of {} rounds",
                size.rounds
            )
            .leak(),
            None,
            small,
        ),
        Figure::counted(
            "hotplug_lock_held_us_1t",
            format!("the same of {many} holds while {gib} GiB is added; within three times of the other").leak(),
            Some(3.0 * small),
            large,
        )
        .at_least(small / 3.0),
    ])
}

/// How long each hold took while `range` was added, from the first step until all of it was visible.
fn add(arena: &Arena, kinds: &Kinds, range: PfnRange, order: Order) -> Result<Vec<f64>, Box<dyn Error>> {
    let map: DeviceMap<'_, HeldLock> = device_map(arena, 0, kinds)?;
    HeldLock::holds_ns();
    let staged = map.stage(Populate::new(range).compounds(order).pageblocks(KIND))?;
    staged.write(&Serial);
    staged.publish();
    let holds = HeldLock::holds_ns();
    if map.usage().own != range.frames() >> order.get() {
        return Err("other pages were written than were to be".into());
    }
    Ok(holds)
}
