// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two sides for humans.

use super::kernel::Kernel;
use super::{Report, Side};
use crate::output::table;
use crate::size::short;

pub(super) fn text(report: &Report) -> String {
    let page = short(report.page);
    let mut text = format!("{page} pages on {}: optimised, restored\n\n", report.arch);
    let kernel = report.kernel.as_ref();
    let sides = [kernel.map(|kernel| &kernel.side), report.kit.as_ref().map(|kit| &kit.side)];
    let count = |value: fn(&Side) -> Option<i64>| {
        sides.map(|side| side.and_then(value).map_or("-".to_owned(), |value| value.to_string()))
    };
    let us = |value: fn(&Side) -> Option<f64>| {
        sides.map(|side| side.and_then(value).map_or("-".to_owned(), |value| format!("{value:.2} us")))
    };
    let pages = sides.map(|side| side.map_or("-".to_owned(), |side| side.pages.to_string()));
    let rows = [
        (format!("{page} pages"), pages),
        (format!("pages of descriptors freed per {page} page"), count(|side| side.freed_per_page)),
        (format!("pages of descriptors taken back per {page} page"), count(|side| side.taken_per_page)),
        (format!("optimise a {page} page"), us(|side| side.optimise_us)),
        (format!("restore a {page} page"), us(|side| side.restore_us)),
    ];
    let rows = rows.map(|(what, [kernel, kit])| [what, kernel, kit]);
    text += &table(["", "this kernel", "mmkit"], rows, 1);
    text += &format!("\nby arithmetic {} can be freed of each\n", report.can_be_freed_per_page);
    if let Some(kernel) = kernel {
        text += &details(kernel);
    }
    if let Some(kit) = &report.kit {
        text += &format!(
            "mmkit: {:.3} freed for each, page tables and shared pages counted\n",
            kit.net_freed_per_page
        );
    }
    for why in &report.skipped {
        text += &format!("skipped: {why}\n");
    }
    text
}

/// What only the kernel's side has to say.
fn details(kernel: &Kernel) -> String {
    let us = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
    let mut text = format!(
        "kernel: a page enters the pool in {} us, with HVO {} us; it leaves in {} us, with HVO {} us\n",
        us(kernel.grow_off_us),
        us(kernel.grow_on_us),
        us(kernel.shrink_off_us),
        us(kernel.shrink_on_us),
    );
    if let (Some(boot), Some(later)) = (kernel.first_boot_pages, kernel.first_later_pages) {
        text += &format!(
            "kernel: the first time, pages of descriptors from boot {boot:+}, later ones {later:+}\n"
        );
    }
    if let Some([least, most]) = kernel.freed_between {
        text +=
            &format!("kernel: between {least:.3} and {most:.3} were freed for each: others changed it too\n");
    }
    if kernel.side.pages < kernel.pages_wanted {
        text += &format!("kernel: {} pages were wanted; memory is in pieces\n", kernel.pages_wanted);
    }
    if kernel.left_surplus > 0 {
        text += &format!(
            "kernel: {} pages could not be given back for want of memory, and remain as surplus\n",
            kernel.left_surplus
        );
    }
    text
}
