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

/// `hotplug_lock_held_us_1g` and `hotplug_lock_held_us_1t`.
///
/// A hold may be interrupted, and the more holds there are the likelier. So of the longest holds of some rounds the least
/// counts: that is what the work of the longest hold takes.
pub(super) fn longest(size: Size) -> Result<[Figure; 2], Box<dyn Error>> {
    let (small, large) = (device(1 << 30)?, device(size.hold_bytes)?);
    let order = Order::new((21 - GEOMETRY.base_shift()) as u8).ok_or("no such pages")?;
    let frames = room(large, order);
    super::afford(frames << GEOMETRY.base_shift())?;
    let (arena, kinds) = (Arena::resident(frames)?, Kinds::new(large.frames()));
    let mut longest = [f64::INFINITY; 2];
    for _ in 0..size.rounds {
        for (range, longest) in [small, large].into_iter().zip(&mut longest) {
            *longest = longest.min(add(&arena, &kinds, range, order)?);
        }
    }
    let [small, large] = longest;
    let gib = size.hold_bytes >> 30;
    Ok([
        Figure::counted(
            "hotplug_lock_held_us_1g",
            "microseconds of the longest hold of the lock while 1 GiB of 2M pages is added: the least of some rounds, \
             processor time of the holder",
            None,
            small,
        ),
        Figure::counted(
            "hotplug_lock_held_us_1t",
            format!("the same while {gib} GiB is added; within three times of the other").leak(),
            Some(3.0 * small),
            large,
        )
        .at_least(small / 3.0),
    ])
}

/// The longest hold while `range` is added, from the first step until all of it is visible.
fn add(arena: &Arena, kinds: &Kinds, range: PfnRange, order: Order) -> Result<f64, Box<dyn Error>> {
    let map: DeviceMap<'_, HeldLock> = device_map(arena, kinds)?;
    HeldLock::longest_us();
    let staged = map.stage(Populate::new(range).compounds(order).pageblocks(KIND))?;
    staged.write(&Serial);
    staged.publish();
    let longest = HeldLock::longest_us();
    if map.usage().own != range.frames() >> order.get() {
        return Err("other pages were written than were to be".into());
    }
    Ok(longest)
}
