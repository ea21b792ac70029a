// SPDX-License-Identifier: MIT OR Apache-2.0
//! Copies of `proc` and `sys` for tests.

use std::path::Path;
use std::{env, fs, process};

use crate::root::Root;

/// A directory that is removed again.
pub(crate) struct Fixture(Root);

impl Fixture {
    /// A directory with nothing in it. Each test has its own `name`.
    pub(crate) fn empty(name: &str) -> Self {
        let path = env::temp_dir().join(format!("mmkit-oracle-{name}-{}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(Root::at(path))
    }

    /// A machine with two nodes of 32 GiB, pools of 2M and 1G pages on both, HVO, device-dax and persistent memory.
    pub(crate) fn two_nodes(name: &str) -> Self {
        let tree = Self::empty(name);
        tree.write("proc/meminfo", &meminfo(64 << 20, 40 << 20));
        tree.write(
            "proc/vmstat",
            "nr_free_pages 10485760\nnr_memmap_pages 512\nnr_memmap_boot_pages 258048\n",
        );
        tree.write("proc/sys/vm/hugetlb_optimize_vmemmap", "1\n");
        tree.write("proc/sys/kernel/random/boot_id", "0a8f9d5e-0000-4000-8000-000000000001\n");
        for (node, free) in [(0, 16 << 20), (1, 24 << 20)] {
            let text = format!(
                "Node {node} MemTotal:       {} kB\nNode {node} MemFree:        {free} kB\n",
                32 << 20
            );
            tree.write(&format!("sys/devices/system/node/node{node}/meminfo"), &text);
        }
        tree.write("sys/devices/system/node/possible", "0-1\n");
        tree.pool(Some(0), 2048, 512, 500, 24);
        tree.pool(Some(0), 1_048_576, 4, 4, 0);
        tree.pool(Some(1), 2048, 1024, 0, 0);
        tree.pool(Some(1), 1_048_576, 0, 0, 0);
        tree.pool(None, 2048, 1536, 500, 24);
        tree.pool(None, 1_048_576, 4, 4, 0);
        tree.write("sys/devices/system/memory/block_size_bytes", "80000000\n");
        for (block, state) in [(0, "online"), (1, "offline"), (32, "online")] {
            tree.write(&format!("sys/devices/system/memory/memory{block}/state"), &format!("{state}\n"));
        }
        for (file, text) in [
            ("sys/bus/dax/devices/dax0.0/size", "137438953472\n"),
            ("sys/bus/dax/devices/dax0.0/align", "2097152\n"),
            ("sys/bus/dax/devices/dax0.0/target_node", "2\n"),
            ("sys/bus/dax/devices/dax1.0/size", "68719476736\n"),
            ("sys/bus/dax/devices/dax1.0/align", "4096\n"),
            ("sys/bus/dax/devices/dax1.0/target_node", "-1\n"),
            ("sys/bus/nd/devices/namespace0.0/size", "137438953472\n"),
            ("sys/bus/nd/devices/dax0.0/namespace", "namespace0.0\n"),
            ("sys/bus/nd/devices/dax0.0/mode", "ram\n"),
            ("sys/bus/nd/devices/dax0.1/namespace", "\n"),
            ("sys/bus/nd/devices/namespace2.0/size", "17179869184\n"),
            ("sys/bus/nd/devices/namespace2.1/size", "8589934592\n"),
            ("sys/bus/nd/devices/pfn2.0/namespace", "namespace2.0\n"),
            ("sys/bus/nd/devices/pfn2.0/mode", "pmem\n"),
            ("sys/block/pmem2/size", "33554432\n"),
            ("sys/block/pmem2.1s/size", "16777216\n"),
            ("sys/block/vda/size", "2048\n"),
        ] {
            tree.write(file, text);
        }
        tree
    }

    pub(crate) fn root(&self) -> &Root {
        &self.0
    }

    /// Writes `text` into a file, and makes the directories above it.
    pub(crate) fn write(&self, file: &str, text: &str) {
        let path = self.0.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// What is in a file.
    pub(crate) fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.path(file)).unwrap()
    }

    /// A path beside `proc` and `sys`.
    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path(name)
    }

    pub(crate) fn pool(&self, node: Option<u32>, kib: u64, pages: u64, free: u64, surplus: u64) {
        let directory = match node {
            Some(node) => format!("sys/devices/system/node/node{node}/hugepages/hugepages-{kib}kB"),
            None => format!("sys/kernel/mm/hugepages/hugepages-{kib}kB"),
        };
        for (name, value) in [("nr", pages), ("free", free), ("surplus", surplus)] {
            self.write(&format!("{directory}/{name}_hugepages"), &format!("{value}\n"));
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let path: &Path = &self.0.path("");
        let _ = fs::remove_dir_all(path);
    }
}

/// The lines of `/proc/meminfo` that every kernel has.
fn meminfo(total_kib: u64, free_kib: u64) -> String {
    let names = [
        "Buffers",
        "Cached",
        "SwapCached",
        "Active",
        "Inactive",
        "SwapTotal",
        "SwapFree",
        "Dirty",
        "Writeback",
        "Mapped",
        "Slab",
        "Committed_AS",
        "VmallocTotal",
        "VmallocUsed",
        "VmallocChunk",
    ];
    let mut text = format!("MemTotal:       {total_kib} kB\nMemFree:        {free_kib} kB\n");
    for name in names {
        text += &format!("{name}:            0 kB\n");
    }
    text
}
