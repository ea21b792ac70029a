// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mmkit report`, over copies of the files of a machine that nobody has, and over this machine's.
#![cfg(all(target_os = "linux", target_pointer_width = "64"))]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{json, stdout};
use serde_json::{Value, json};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A directory with `proc` and `sys`, that is removed again.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let tree = Self(std::env::temp_dir().join(format!("mmkit-report-{name}-{}", std::process::id())));
        for (file, text) in files {
            tree.write(file, text);
        }
        fs::create_dir_all(&tree.0).unwrap();
        tree
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.0.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn pool(&self, directory: &str, pages: u64, free: u64) {
        for (name, value) in [("nr", pages), ("free", free), ("surplus", 0)] {
            self.write(&format!("{directory}/{name}_hugepages"), &format!("{value}\n"));
        }
    }

    fn report(&self) -> Value {
        json(&["report", "--json", "--root", self.0.to_str().unwrap()])
    }

    fn text(&self) -> String {
        stdout(&["report", "--root", self.0.to_str().unwrap()])
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const MEMINFO: &str = "MemTotal: 67108864 kB\nMemFree: 41943040 kB\nBuffers: 0 kB\nCached: 0 kB\n\
    SwapCached: 0 kB\nActive: 0 kB\nInactive: 0 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\nDirty: 0 kB\nWriteback: 0 kB\n\
    Mapped: 0 kB\nSlab: 0 kB\nCommitted_AS: 0 kB\nVmallocTotal: 0 kB\nVmallocUsed: 0 kB\nVmallocChunk: 0 kB\n";

/// Two nodes of 32 GiB, pools of 2M and 1G pages, HVO off, 128 GiB of device-dax and 16 GiB of persistent memory.
fn two_nodes(name: &str) -> Tree {
    let tree = Tree::new(
        name,
        &[
            ("proc/meminfo", MEMINFO),
            ("proc/vmstat", "nr_memmap_pages 4096\nnr_memmap_boot_pages 258048\n"),
            ("proc/sys/vm/hugetlb_optimize_vmemmap", "0\n"),
            (
                "sys/devices/system/node/node0/meminfo",
                "Node 0 MemTotal: 33554432 kB\nNode 0 MemFree: 16777216 kB\n",
            ),
            (
                "sys/devices/system/node/node1/meminfo",
                "Node 1 MemTotal: 33554432 kB\nNode 1 MemFree: 25165824 kB\n",
            ),
            ("sys/bus/dax/devices/dax0.0/size", "137438953472\n"),
            ("sys/bus/dax/devices/dax0.0/align", "2097152\n"),
            ("sys/bus/dax/devices/dax0.0/target_node", "2\n"),
            ("sys/bus/dax/devices/dax5.0/size", "1073741824\n"),
            ("sys/bus/dax/devices/dax5.0/align", "4096\n"),
            ("sys/bus/nd/devices/namespace0.0/size", "137438953472\n"),
            ("sys/bus/nd/devices/dax0.0/namespace", "namespace0.0\n"),
            ("sys/bus/nd/devices/dax0.0/mode", "ram\n"),
            ("sys/bus/nd/devices/namespace2.0/size", "17179869184\n"),
            ("sys/bus/nd/devices/pfn2.0/namespace", "namespace2.0\n"),
            ("sys/bus/nd/devices/pfn2.0/mode", "pmem\n"),
            ("sys/block/pmem2/size", "33554432\n"),
        ],
    );
    for (node, small, large) in [(0, 512, 4), (1, 0, 0)] {
        let pools = format!("sys/devices/system/node/node{node}/hugepages");
        tree.pool(&format!("{pools}/hugepages-2048kB"), small, small);
        tree.pool(&format!("{pools}/hugepages-1048576kB"), large, large);
    }
    tree
}

/// Flat, what Linux keeps, what the kit keeps: the savings with `what` in their name.
#[track_caller]
fn saving(report: &Value, what: &str) -> (u64, u64, u64) {
    let all = report["savings"].as_array().unwrap();
    let saving = all.iter().find(|saving| saving["what"].as_str().unwrap().contains(what));
    let saving = saving.unwrap_or_else(|| panic!("no {what} in {report:#}"));
    let number = |key: &str| saving[key].as_u64().unwrap();
    let (flat, linux) = (number("flat_bytes"), number("linux_bytes"));
    assert_eq!(number("saved_bytes"), flat - linux);
    let percent = (flat - linux) as f64 * 100.0 / flat as f64;
    assert!((saving["saved_percent_of_flat"].as_f64().unwrap() - percent).abs() < 1e-9);
    assert!(!saving["setting"].as_str().unwrap().is_empty());
    (flat, linux, number("mmkit_bytes"))
}

#[track_caller]
fn setting<'a>(report: &'a Value, what: &str) -> &'a str {
    let all = report["savings"].as_array().unwrap();
    let saving = all.iter().find(|saving| saving["what"].as_str().unwrap().contains(what)).unwrap();
    saving["setting"].as_str().unwrap()
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_machine_of_two_nodes() {
    let tree = two_nodes("nodes");
    let report = tree.report();
    assert_eq!(report["memory_bytes"], 64 * GIB);
    assert_eq!(report["memmap"]["bytes"], GIB);
    assert_eq!((&report["memmap"]["counted"], &report["hvo"]), (&json!(true), &json!(false)));
    assert_eq!(report["nodes"][1], json!({ "node": 1, "memory_bytes": 32 * GIB, "free_bytes": 24 * GIB }));
    let pool = json!({
        "node": 0, "page": 2 * MIB, "pages": 512, "free": 512, "surplus": 0, "optimisable": true,
        "optimised_on_entry": false,
    });
    assert_eq!((&report["pools"][0], report["pools"].as_array().unwrap().len()), (&pool, 4));
    let dax = json!({
        "name": "dax0.0", "bytes": 128 * GIB, "align": 2 * MIB, "node": 2, "namespace": "namespace0.0",
        "descriptors": "memory",
    });
    assert_eq!(report["dax"][0], dax);
    assert_eq!(report["pmem"][0]["descriptors"], "device");
    assert_eq!(report["unreadable"], json!([]));

    // Of a TiB of 2M pages HVO keeps 2080 MiB, of 1G pages 36 MiB, and mmkit 8 MiB; device-dax 4128 MiB and 40 MiB.
    assert_eq!(saving(&report, "all memory as 2M"), (GIB, 130 * MIB, 130 * MIB));
    assert_eq!(saving(&report, "all memory as 1G"), (GIB, 2304 * KIB, 512 * KIB));
    assert_eq!(saving(&report, "the 512 2M pages of node 0"), (16 * MIB, 2080 * KIB, 2080 * KIB));
    assert_eq!(saving(&report, "the 4 1G pages of node 0"), (64 * MIB, 144 * KIB, 32 * KIB));
    assert_eq!(saving(&report, "dax0.0 (128 GiB) as 2M"), (2 * GIB, 516 * MIB, 260 * MIB));
    assert_eq!(saving(&report, "dax0.0 (128 GiB) as 1G"), (2 * GIB, 5 * MIB, MIB));
    assert_eq!(saving(&report, "dax5.0 (1 GiB) as 2M"), (16 * MIB, 4128 * KIB, 2080 * KIB));
    assert_eq!(saving(&report, "pmem2 (16 GiB) as device-dax of 2M"), (256 * MIB, 66048 * KIB, 33280 * KIB));
    assert_eq!(report["savings"].as_array().unwrap().len(), 10);
    for (what, words) in [
        ("all memory as 2M", "sysctl vm.hugetlb_optimize_vmemmap=1, then"),
        ("all memory as 1G", "boot with hugetlb_free_vmemmap=on hugepagesz=1G hugepages=N"),
        ("the 512 2M pages", "empty and refill the pool"),
        ("dax0.0 (128 GiB) as 2M", "none needed"),
        ("dax0.0 (128 GiB) as 1G", "--reconfig=namespace0.0 --mode=devdax --map=mem --align=1G"),
        ("dax5.0 (1 GiB) as 2M", "daxctl create-device --region=5 --align=2M"),
        ("pmem2", "--reconfig=namespace2.0 --mode=devdax"),
    ] {
        assert!(setting(&report, what).contains(words), "{what}: {}", setting(&report, what));
    }

    let text = tree.text();
    for word in
        ["64 GiB on x86-64", "descriptors now: 1 GiB", "HVO: off", "namespace0.0", "894 MiB", "87.3 %"]
    {
        assert!(text.contains(word), "{word} is not in\n{text}");
    }
}

/// Older kernels do not count: then it is reckoned, of the memory that is online.
#[test]
#[cfg(target_arch = "x86_64")]
fn what_the_kernel_does_not_tell_is_reckoned_or_named() {
    let tree = two_nodes("old");
    tree.write("proc/vmstat", "nr_free_pages 1\n");
    tree.write("proc/sys/vm/hugetlb_optimize_vmemmap", "1\n");
    let memmap = |tree: &Tree| tree.report()["memmap"]["bytes"].as_u64();
    assert_eq!(memmap(&tree), Some(GIB), "of MemTotal");
    tree.write("sys/devices/system/memory/block_size_bytes", "80000000\n");
    tree.write("sys/devices/system/memory/memory0/state", "online\n");
    tree.write("sys/devices/system/memory/memory1/state", "offline\n");
    assert_eq!(memmap(&tree), Some(32 * MIB), "of the one block of 2 GiB that is online");
    let report = tree.report();
    assert_eq!(report["memmap"]["counted"], false);
    assert!(setting(&report, "all memory as 2M").starts_with("HVO is on"));

    tree.write("proc/meminfo", "nonsense\n");
    tree.write("sys/bus/dax/devices/dax0.0/align", "big\n");
    fs::remove_file(tree.0.join("proc/sys/vm/hugetlb_optimize_vmemmap")).unwrap();
    let report = tree.report();
    assert!(report["memory_bytes"].is_null() && report["hvo"].is_null());
    let unreadable = report["unreadable"].to_string();
    assert!(unreadable.contains("proc/meminfo") && unreadable.contains("dax0.0/align"), "{unreadable}");
    assert!(setting(&report, "the 512 2M pages").contains("no HVO"));
    let text = tree.text();
    assert!(text.contains("not readable: ") && text.contains("does not have it"), "{text}");
}

#[test]
fn a_machine_of_which_nothing_is_known() {
    let tree = Tree::new("empty", &[]);
    let report = tree.report();
    assert!(report["memmap"].is_null() && report["unreadable"].as_array().unwrap().len() >= 2);
    assert!(tree.text().contains("nothing to save"));
}

/// This machine, whatever it is: no figure contradicts another.
#[test]
fn this_machine_is_consistent() {
    let report = json(&["report", "--json"]);
    let memory = report["memory_bytes"].as_u64().unwrap();
    assert!(memory > 0);
    let memmap = report["memmap"]["bytes"].as_u64().unwrap();
    assert!(memmap > 0 && memmap < memory);
    for saving in report["savings"].as_array().unwrap() {
        let number = |key: &str| saving[key].as_u64().unwrap();
        assert!(number("linux_bytes") < number("flat_bytes"), "{saving}");
        assert!(number("mmkit_bytes") <= number("linux_bytes"), "{saving}");
        assert_eq!(number("saved_bytes"), number("flat_bytes") - number("linux_bytes"));
        assert_eq!(number("flat_bytes"), number("memory_bytes") / report["base_page"].as_u64().unwrap() * 64);
    }
    assert!(stdout(&["report"]).contains("descriptors now"));
}
