// SPDX-License-Identifier: MIT OR Apache-2.0
//! The report for humans.

use super::{DeviceReport, PoolReport, Report};
use crate::output::table;
use crate::size::{rough, short};

pub(super) fn text(report: &Report) -> String {
    let mut text = machine(report);
    if !report.nodes.is_empty() {
        let rows = report
            .nodes
            .iter()
            .map(|node| [node.node.to_string(), rough(node.memory_bytes), rough(node.free_bytes)]);
        text += &format!("\n{}", table(["node", "memory", "free"], rows, 1));
    }
    text += &match report.hvo {
        None => "\nHVO: this kernel does not have it\n".to_owned(),
        Some(on) => format!("\nHVO: {} (vm.hugetlb_optimize_vmemmap = {})\n", on_off(on), u8::from(on)),
    };
    if !report.pools.is_empty() {
        let head = ["pool", "node", "pages", "free", "surplus", "optimised on entry"];
        text += &table(head, report.pools.iter().map(pool), 2);
    }
    let devices = report.dax.iter().chain(&report.pmem);
    let rows: Vec<_> = devices.map(device).collect();
    if rows.is_empty() {
        text += "\nno device-dax and no persistent memory\n";
    } else {
        text += &format!("\n{}", table(["device", "namespace", "descriptors in", "align", "size"], rows, 3));
    }
    text += &savings(report);
    for what in &report.unreadable {
        text += &format!("not readable: {what}\n");
    }
    text
}

fn machine(report: &Report) -> String {
    let memory = report.memory_bytes.map_or("an unknown amount of memory".to_owned(), rough);
    let mut text = format!("{memory} on {}, base pages of {}\n", report.arch, short(report.base_page));
    if let Some(memmap) = &report.memmap {
        let share =
            memmap.percent_of_memory.map(|percent| format!(", {percent:.2} % of it")).unwrap_or_default();
        let how =
            if memmap.counted { "counted by the kernel" } else { "reckoned: this kernel does not count" };
        text += &format!("descriptors now: {}{share} ({how})\n", rough(memmap.bytes));
    }
    text
}

fn savings(report: &Report) -> String {
    if report.savings.is_empty() {
        return "\nnothing to save: no huge pages whose descriptors could be shared\n".to_owned();
    }
    let numbered = report.savings.iter().zip(1..);
    let rows = numbered.clone().map(|(saving, number)| {
        let [what, rest @ ..] = saving.row();
        [vec![number.to_string(), what], rest.to_vec()].concat()
    });
    let head = ["", "what could be", "flat", "Linux keeps", "mmkit keeps", "Linux saves", "of flat"];
    let mut text = format!("\n{}\n", table(head, rows, 2));
    for (saving, number) in numbered {
        text += &format!("{number:2}: {}\n", saving.setting);
    }
    text
}

fn pool(pool: &PoolReport) -> [String; 6] {
    let optimised = match (pool.optimisable, pool.optimised_on_entry) {
        (false, _) => "too small",
        (true, true) => "yes",
        (true, false) => "no",
    };
    [
        short(pool.page),
        pool.node.map_or("-".to_owned(), |node| node.to_string()),
        pool.pages.to_string(),
        pool.free.to_string(),
        pool.surplus.to_string(),
        optimised.to_owned(),
    ]
}

fn device(device: &DeviceReport) -> [String; 5] {
    [
        device.name.clone(),
        device.namespace.clone().unwrap_or_else(|| "-".to_owned()),
        device.descriptors.unwrap_or("-").to_owned(),
        device.align.map_or("-".to_owned(), short),
        rough(device.bytes),
    ]
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}
