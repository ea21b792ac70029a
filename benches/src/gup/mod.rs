// SPDX-License-Identifier: MIT OR Apache-2.0
//! The figures of pins: by the run, by the page, and by the running kernel.

mod by_page;
mod device;
mod kernel;
mod shapes;
mod sim;

use std::error::Error;

use crate::figure::Figure;
use crate::pair::Effort;

/// Measures all of them.
pub(crate) fn run(
    quick: bool,
    figures: &mut Vec<Figure>,
    skipped: &mut Vec<String>,
    notes: &mut Vec<String>,
) -> Result<(), Box<dyn Error>> {
    let effort = if quick { Effort::QUICK } else { Effort::FULL };
    let kit = shapes::run(effort, if quick { 1 } else { 3 }, figures, notes)?;
    by_page::arrays(quick, figures, skipped)?;
    by_page::registrations(quick, figures)?;
    kernel::run(quick, kit, figures, skipped)
}
