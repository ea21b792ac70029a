// SPDX-License-Identifier: MIT OR Apache-2.0
//! The running kernel's pins of the same shapes, in the same run.

use std::error::Error;

use mmkit_oracle::Root;
use mmkit_oracle::pin::{Options, Outcome, Shape, measure};

use super::shapes::ArrayNs;
use crate::figure::Figure;

/// Bytes that are pinned, as on the kit's side.
const BYTES: u64 = 1 << 30;

/// `kernel_pin_*_ns_per_page`, and what the walk itself takes on both sides.
pub(super) fn run(
    quick: bool,
    kit: ArrayNs,
    figures: &mut Vec<Figure>,
    skipped: &mut Vec<String>,
) -> Result<(), Box<dyn Error>> {
    let mut kernel = [None; 3];
    for (nth, (shape, key, what)) in [
        (
            Shape::Pmd,
            "kernel_pin_2m_ns_per_page",
            "the running kernel registers 1 GiB of 2M folios behind PMDs, ns for each page",
        ),
        (Shape::Ptes, "kernel_pin_pte_ns_per_page", "the same of 2M folios behind PTEs"),
        (Shape::Base, "kernel_pin_4k_ns_per_page", "the same of base pages"),
    ]
    .into_iter()
    .enumerate()
    {
        let options = Options { repeats: if quick { 3 } else { 15 }, ..Options::new(BYTES, shape) };
        match measure(&Root::system(), &options, || true)? {
            Outcome::Measured(result) => {
                kernel[nth] = result.pin_ns();
                figures.extend(kernel[nth].map(|ns| Figure::counted(key, what, None, ns)));
            }
            Outcome::Skipped(why) => skipped.push(format!("{key}: {why}")),
        }
    }
    for (key, what, ns) in [
        (
            "kit_pin_2m_array_ns_per_page",
            "the kit pins 1 GiB of 2M folios behind PMDs into a page array, ns for each page",
            kit.pmd,
        ),
        ("kit_pin_pte_array_ns_per_page", "the same of 2M folios behind PTEs", kit.ptes),
        ("kit_pin_4k_array_ns_per_page", "the same of base pages", kit.base),
    ] {
        figures.push(Figure::counted(key, what, None, ns));
    }
    if let [Some(pmd), Some(ptes), _] = kernel {
        let what = "the kernel's walk itself: PTEs less PMDs, ns for each page";
        figures.push(Figure::counted("kernel_pte_walk_ns_per_page", what, None, ptes - pmd));
    }
    let what = "the kit's walk itself: the same difference";
    figures.push(Figure::counted("kit_pte_walk_ns_per_page", what, None, kit.ptes - kit.pmd));
    Ok(())
}
