// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine that the tests run on, whatever it has: what it tells is consistent.
#![cfg(target_os = "linux")]

use mmkit_oracle::{DaxDevice, Memmap, Memory, Node, PmemDevice, Pool, Root};

#[test]
fn this_machine_is_consistent() {
    let root = Root::system();
    match Memory::read(&root) {
        Ok(memory) => {
            assert!(memory.free_bytes <= memory.total_bytes && memory.total_bytes > 0, "{memory:?}")
        }
        Err(error) => eprintln!("skipped: {error}"),
    }
    match Memmap::read(&root) {
        Ok(Some(memmap)) => assert!(memmap.pages() > 0),
        Ok(None) => eprintln!("skipped: this kernel does not count pages of descriptors"),
        Err(error) => eprintln!("skipped: {error}"),
    }
    for node in Node::read_all(&root).unwrap_or_default() {
        assert!(node.free_bytes <= node.total_bytes, "{node:?}");
    }
    for pool in Pool::read_all(&root).items {
        assert!(pool.page_bytes.is_power_of_two(), "{pool:?}");
    }
    for dax in DaxDevice::read_all(&root).items {
        assert!(dax.name.starts_with("dax") && dax.align_bytes.is_power_of_two(), "{dax:?}");
    }
    for pmem in PmemDevice::read_all(&root).items {
        assert!(pmem.name.starts_with("pmem"), "{pmem:?}");
    }
}
