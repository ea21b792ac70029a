// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who owns a folio that three address spaces mapped and two left: what two trackers know, and what a writer pays.

use mmkit_addr::{Order, Pfn};
use mmkit_folio::{Cow, Mapcounts, Mapping, MmId, NoPageMapcount, PowerSums, Rmap, TwoSlots, map_new_anon};
use mmkit_page::{MemMap, Page, Place, SliceMap};
use serde::Serialize;

use super::Context;
use super::report::Report;
use crate::failure::Failure;

/// Pages of the folio: 64K of 4K pages.
const ORDER: u8 = 4;

/// What a tracker says after each step.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Step {
    what: &'static str,
    mappings: u32,
    /// The answer of the tracker without its lock: whether several address spaces may map the folio.
    maybe_shared: bool,
    /// The only owner, where the tracker is sure.
    owner: Option<char>,
}

/// What one tracker made of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Owners {
    tracker: &'static str,
    steps: Vec<Step>,
    /// `reused`, or why the page was copied.
    write: String,
    copied: bool,
}

/// The part `owners`.
pub(super) fn run(context: &Context, report: &mut Report) -> Result<(), Failure> {
    let failed = |_| Failure::run("the counts of a folio of 16 pages do not add up");
    let of_two_slots = story::<NoPageMapcount<TwoSlots>>("TwoSlots").map_err(failed)?;
    let of_power_sums = story::<NoPageMapcount<PowerSums>>("PowerSums").map_err(failed)?;
    context.say(&table(&of_two_slots, &of_power_sums))?;
    report.owners = vec![of_two_slots, of_power_sums];
    Ok(())
}

/// Something that cannot happen to a folio that was just made.
#[derive(Debug)]
struct Impossible;

fn story<C: Mapcounts>(tracker: &'static str) -> Result<Owners, Impossible> {
    let order = Order::new(ORDER).ok_or(Impossible)?;
    let mut pages: Vec<Page> = (0..order.frames()).map(|_| Page::new()).collect();
    let map = SliceMap::<C>::counted(&mut pages, Pfn::ZERO).ok_or(Impossible)?;
    map.initialise(map.range(), Place::default()).or(Err(Impossible))?;
    let frozen =
        map.claim_joined(Pfn::ZERO, order).or(Err(Impossible))?.allocate().prep().or(Err(Impossible))?;

    let [a, b, c] = [1, 2, 3].map(MmId::new);
    let (a, b, c) = (a.ok_or(Impossible)?, b.ok_or(Impossible)?, c.ok_or(Impossible)?);
    let all = Mapping::Ptes { first: 0, count: order.frames() };
    let account = map_new_anon(frozen, a, all).or(Err(Impossible))?;
    let folio = map.try_get(Pfn::ZERO).or(Err(Impossible))?;
    let step = |what: &'static str| Step {
        what,
        mappings: folio.mappings(),
        maybe_shared: folio.maybe_mapped_shared(),
        owner: folio
            .sole_owner()
            .and_then(|mm| char::from_digit(9 + mm.get(), 36))
            .map(|name| name.to_ascii_uppercase()),
    };
    debug_assert_eq!(account.mappings, 16);
    let mut steps = vec![step("A touches 16 pages")];
    let _ = folio.fork(b, all).or(Err(Impossible))?;
    steps.push(step("A forks B"));
    let _ = folio.fork(c, all).or(Err(Impossible))?;
    steps.push(step("A forks C"));
    drop(folio.remove_mappings(a, all).or(Err(Impossible))?);
    steps.push(step("A exits"));
    drop(folio.remove_mappings(b, all).or(Err(Impossible))?);
    steps.push(step("B exits"));
    // One reference is the handle of this function.
    let cow = folio.write_fault(0, 1).or(Err(Impossible))?;
    let (copied, write) = match cow {
        Cow::Copy(why) => (true, format!("copied: {why:?}")),
        Cow::Exclusive => (false, "exclusive already".to_owned()),
        Cow::Reused => (false, "reused".to_owned()),
    };
    drop(folio.remove_mappings(c, all).or(Err(Impossible))?);
    Ok(Owners { tracker, steps, write, copied })
}

fn table(two_slots: &Owners, power_sums: &Owners) -> String {
    let cell = |step: &Step| match (step.maybe_shared, step.owner) {
        (true, _) => "perhaps shared".to_owned(),
        (false, Some(owner)) => format!("{owner} alone"),
        (false, None) => "nobody".to_owned(),
    };
    let mut text = String::from("\nowners: a folio of 16 pages, and who has it, says the tracker\n");
    text += &format!("  {:<20} {:>8}  {:<18} {}\n", "", "mappings", two_slots.tracker, power_sums.tracker);
    for (left, right) in two_slots.steps.iter().zip(&power_sums.steps) {
        text += &format!("  {:<20} {:>8}  {:<18} {}\n", left.what, left.mappings, cell(left), cell(right));
    }
    text + &format!("  {:<20} {:>8}  {:<18} {}\n", "C writes a page", "", two_slots.write, power_sums.write)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_copy_what_sums_reuse() {
        let slots = story::<NoPageMapcount<TwoSlots>>("TwoSlots").unwrap();
        let sums = story::<NoPageMapcount<PowerSums>>("PowerSums").unwrap();
        assert!(slots.copied && !sums.copied, "{slots:?} {sums:?}");
        let last =
            |owners: &Owners| owners.steps.last().map(|step| (step.mappings, step.maybe_shared, step.owner));
        assert_eq!(last(&slots), Some((16, true, None)));
        assert_eq!(last(&sums), Some((16, false, Some('C'))));
        // While two or three map it, neither says that one does.
        for step in slots.steps[1..4].iter().chain(&sums.steps[1..4]) {
            assert!(step.maybe_shared && step.owner.is_none(), "{step:?}");
        }
    }
}
