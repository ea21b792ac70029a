// SPDX-License-Identifier: MIT OR Apache-2.0
//! Both sides for humans.

use super::Report;
use crate::output::table;
use crate::size::exact;

pub(super) fn text(report: &Report) -> String {
    let mut text = format!("{} of memory, {}, ns for each base page\n\n", exact(report.size), report.flags);
    let ns = |ns: Option<f64>| ns.map_or("-".to_owned(), |ns| format!("{ns:.2}"));
    let count = |count: Option<u64>| count.map_or("-".to_owned(), |count| count.to_string());
    let rows = report.shapes.iter().map(|one| {
        let (kernel, kit) = (one.kernel.as_ref(), one.kit.as_ref());
        [
            one.shape.to_string(),
            ns(kernel.map(|kernel| kernel.ns)),
            ns(kernel.and_then(|kernel| kernel.unpin_ns)),
            ns(kit.map(|kit| kit.extents_ns)),
            ns(kit.map(|kit| kit.unpin_extents_ns)),
            ns(kit.map(|kit| kit.pages_ns)),
            ns(kit.map(|kit| kit.unpin_pages_ns)),
            count(kit.map(|kit| kit.extents)),
            count(kit.map(|kit| kit.atomics)),
        ]
    });
    let by = report.shapes.iter().find_map(|one| Some(one.kernel.as_ref()?.by)).unwrap_or("io_uring");
    let head = [
        "",
        &format!("kernel: {by}"),
        "back",
        "mmkit: extents",
        "back",
        "page array",
        "back",
        "extents",
        "atomics",
    ];
    text += &table(head, rows, 1);
    let walks = [("the kernel", report.kernel_walk_ns), ("mmkit", report.kit_walk_ns)];
    let walks: Vec<_> =
        walks.iter().filter_map(|&(who, ns)| ns.map(|ns| format!("{who} {ns:.2} ns"))).collect();
    if !walks.is_empty() {
        text += &format!(
            "\nPTEs less PMDs, into a page array, which is the walk itself: {} for each page\n",
            walks.join(", ")
        );
    }
    if by == "io_uring" && report.shapes.iter().any(|one| one.kernel.is_some()) {
        text +=
            "kernel: pins to write and for long; of huge folios it keeps one pin each, and gives that back\n";
    }
    for why in &report.skipped {
        text += &format!("skipped: {why}\n");
    }
    text
}
