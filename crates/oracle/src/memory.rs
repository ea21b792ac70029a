// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much memory there is, and what its descriptors take.

use procfs::{FromBufRead, Meminfo, VmStat};

use crate::root::{ReadError, Root};

/// The memory of a machine, in bytes (`/proc/meminfo`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What the kernel manages: without what firmware and the kernel itself took at boot, descriptors among it.
    pub total_bytes: u64,
    /// Free and unused.
    pub free_bytes: u64,
}

impl Memory {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is not a `meminfo`.
    pub fn read(root: &Root) -> Result<Self, ReadError> {
        let info = meminfo(root)?;
        Ok(Self { total_bytes: info.mem_total, free_bytes: info.mem_free })
    }

    /// Bytes that programs can have without anything being swapped (`MemAvailable`): more than is free. What is free, where
    /// the kernel does not reckon it.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn available_bytes(root: &Root) -> Result<u64, ReadError> {
        let info = meminfo(root)?;
        Ok(info.mem_available.unwrap_or(info.mem_free))
    }

    /// Bytes that have descriptors: all memory blocks that are online (`/sys/devices/system/memory`), holes in them
    /// included.
    ///
    /// # Errors
    ///
    /// The directory cannot be read; a kernel without memory hotplug has none.
    pub fn described_bytes(root: &Root) -> Result<u64, ReadError> {
        let directory = "sys/devices/system/memory";
        let file = format!("{directory}/block_size_bytes");
        let text = root.word(&file)?;
        let size = u64::from_str_radix(&text, 16).ok().filter(|_| !text.starts_with('+'));
        let size = size.ok_or_else(|| ReadError::format(&root.path(&file), &text, "a hexadecimal number"))?;
        let mut bytes = 0_u64;
        for name in root.names(directory)? {
            if crate::root::numbered(&name, "memory").is_none() {
                continue;
            }
            if root.word(&format!("{directory}/{name}/state"))? == "online" {
                bytes = bytes.saturating_add(size);
            }
        }
        Ok(bytes)
    }
}

/// Pages of memory that hold descriptors (`/proc/vmstat`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memmap {
    /// Taken at boot and not given back (`nr_memmap_boot_pages`).
    pub boot_pages: u64,
    /// Taken from the page allocator later (`nr_memmap_pages`).
    pub later_pages: u64,
}

impl Memmap {
    /// Reads both counters. `None` where the kernel does not have them (before Linux 6.11).
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is not a `vmstat`.
    pub fn read(root: &Root) -> Result<Option<Self>, ReadError> {
        let both = counters(root, ["nr_memmap_boot_pages", "nr_memmap_pages"])?;
        Ok(both.map(|[boot_pages, later_pages]| Self { boot_pages, later_pages }))
    }

    /// Both kinds of pages together.
    #[must_use]
    pub fn pages(self) -> u64 {
        self.boot_pages.saturating_add(self.later_pages)
    }
}

/// Pages that were pinned and unpinned since the machine was started (`/proc/vmstat`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PinCounters {
    /// `nr_foll_pin_acquired`.
    pub(crate) acquired: u64,
    /// `nr_foll_pin_released`.
    pub(crate) released: u64,
}

impl PinCounters {
    /// Reads both. `None` where the kernel does not have them (before Linux 5.7).
    ///
    /// Each processor keeps some for itself. The kernel can be asked to collect them first, which takes root; elsewhere they
    /// are a little late.
    pub(crate) fn read(root: &Root) -> Result<Option<Self>, ReadError> {
        // Reading this file is what collects them; it changes no setting.
        let _ = root.text("proc/sys/vm/stat_refresh");
        let both = counters(root, ["nr_foll_pin_acquired", "nr_foll_pin_released"])?;
        Ok(both.map(|[acquired, released]| Self { acquired, released }))
    }
}

fn meminfo(root: &Root) -> Result<Meminfo, ReadError> {
    let file = "proc/meminfo";
    let text = root.text(file)?;
    Meminfo::from_buf_read(text.as_bytes())
        .map_err(|_| ReadError::format(&root.path(file), &text, "a list of sizes in kB"))
}

/// Two counters of `/proc/vmstat`; `None` where one is missing.
fn counters(root: &Root, names: [&str; 2]) -> Result<Option<[u64; 2]>, ReadError> {
    let file = "proc/vmstat";
    let text = root.text(file)?;
    let VmStat(counters) = VmStat::from_buf_read(text.as_bytes())
        .map_err(|_| ReadError::format(&root.path(file), &text, "a list of counters"))?;
    let [first, second] = names.map(|name| counters.get(name).and_then(|&count| u64::try_from(count).ok()));
    Ok(first.zip(second).map(|(first, second)| [first, second]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;

    #[test]
    fn a_machine_of_two_nodes() {
        let tree = Fixture::two_nodes("memory");
        let memory = Memory::read(tree.root()).unwrap();
        assert_eq!(memory, Memory { total_bytes: 64 << 30, free_bytes: 40 << 30 });
        assert_eq!(Memory::available_bytes(tree.root()).unwrap(), 40 << 30, "it does not say");
        let memmap = Memmap::read(tree.root()).unwrap().unwrap();
        assert_eq!(memmap, Memmap { boot_pages: 258_048, later_pages: 512 });
        assert_eq!(memmap.pages(), 258_560);
        assert_eq!(
            Memory::described_bytes(tree.root()).unwrap(),
            4 << 30,
            "two of three blocks of 2 GiB are online"
        );
    }

    #[test]
    fn what_is_missing_or_broken_is_named() {
        let tree = Fixture::empty("no-memory");
        assert!(Memory::read(tree.root()).unwrap_err().is_missing());
        assert!(Memmap::read(tree.root()).unwrap_err().is_missing());
        assert!(Memory::described_bytes(tree.root()).unwrap_err().is_missing());
        tree.write("proc/meminfo", "MemTotal: lots\n");
        assert!(Memory::read(tree.root()).unwrap_err().to_string().contains("is not a list of sizes"));
        tree.write("proc/vmstat", "nr_memmap_pages many\n");
        assert!(Memmap::read(tree.root()).unwrap_err().to_string().contains("is not a list of counters"));
        tree.write("proc/vmstat", "nr_memmap_pages 4\n");
        assert_eq!(Memmap::read(tree.root()).unwrap(), None, "one counter is none");
        tree.write("proc/vmstat", "nr_memmap_pages -4\nnr_memmap_boot_pages 4\n");
        assert_eq!(Memmap::read(tree.root()).unwrap(), None);
        tree.write("sys/devices/system/memory/block_size_bytes", "2G\n");
        assert!(Memory::described_bytes(tree.root()).unwrap_err().to_string().contains("hexadecimal"));
    }
}
