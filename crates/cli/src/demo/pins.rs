// SPDX-License-Identifier: MIT OR Apache-2.0
//! 1 GiB pinned in three shapes: what that takes, and what comes out.

use mmkit_gup::{Flags, Request};
use mmkit_oracle::pin::Shape;
use serde::Serialize;

use super::Context;
use super::report::Report;
use crate::failure::Failure;
use crate::output::table;
use crate::pin::{Kit, measure_kit};
use crate::progress::Progress;
use crate::size::exact;

/// What is pinned, and how often.
const BYTES: u64 = 1 << 30;
const REPEATS: usize = 5;

/// One shape.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Pinned {
    shape: Shape,
    #[serde(flatten)]
    kit: Kit,
}

/// The part `pins`.
pub(super) fn run(context: &Context, report: &mut Report) -> Result<(), Failure> {
    let request = Request::new(Flags::PIN | Flags::WRITE).map_err(Failure::run)?;
    let mut progress = Progress::new("pinning".to_owned(), (Shape::ALL.len() * (REPEATS + 1)) as u64);
    for shape in Shape::ALL {
        match measure_kit(BYTES, shape, request, None, REPEATS, &mut progress)? {
            Ok(kit) => report.pins.push(Pinned { shape, kit }),
            Err(why) => report.skipped.push(format!("pins of {shape}: {why}")),
        }
    }
    drop(progress);
    context.say(&text(&report.pins))
}

fn text(pins: &[Pinned]) -> String {
    if pins.is_empty() {
        return String::new();
    }
    let rows = pins.iter().map(|Pinned { shape, kit }| {
        let us = |ns: f64| format!("{:.0} us", ns * kit.pages as f64 / 1e3);
        [
            shape.to_string(),
            kit.pages.to_string(),
            kit.extents.to_string(),
            kit.atomics.to_string(),
            format!("{:.2}", kit.extents_ns),
            us(kit.unpin_extents_ns),
            format!("{:.2}", kit.pages_ns),
            us(kit.unpin_pages_ns),
        ]
    });
    let head =
        ["", "pages", "extents", "atomics", "ns per page", "unpin", "ns per page, array", "unpin, array"];
    format!("\npins: {} in an address space, to write\n{}", exact(BYTES), table(head, rows, 1))
}
