// SPDX-License-Identifier: MIT OR Apache-2.0
//! The figures of map counts and owners.

mod batches;
mod contended;
pub(crate) mod svg;
pub(crate) mod table;

use crate::figure::Figure;
use crate::pair::Effort;

/// Measures all of them but the [`table`].
pub(crate) fn run(effort: Effort, figures: &mut Vec<Figure>) {
    figures.extend(batches::against_locks(effort));
    figures.extend(batches::base_against_bare(effort).into_iter().flatten());
    figures.push(batches::power_sums_against_two_slots(effort));
    figures.extend(contended::two_threads(effort));
}
