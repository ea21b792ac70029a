// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this process may use, and what its mappings cost the kernel.

use std::fs;
use std::path::{Path, PathBuf};

use procfs::process::Process;
use procfs::{Current, Meminfo};

use crate::HostError;

/// Half of the memory that this process could use now, in bytes: what a guest that means to stay should fill.
///
/// The smaller of `MemAvailable` of `/proc/meminfo` (`MemFree` where that is missing) and, for the process's control
/// group and every group around it, the room below the limit: `memory.max` less `memory.current`, or
/// `memory.limit_in_bytes` less `memory.usage_in_bytes` under version 1. Groups without a limit, and those that cannot
/// be seen from here, do not count. Halved, because the kernel needs memory of its own for what is mapped.
///
/// # Errors
///
/// [`HostError::Unreadable`] where `/proc/meminfo` cannot be read.
pub fn memory_budget() -> Result<u64, HostError> {
    let meminfo = Meminfo::current().map_err(|_| HostError::Unreadable { path: "/proc/meminfo" })?;
    let available = meminfo.mem_available.unwrap_or(meminfo.mem_free);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let room = group_room(Path::new("/sys/fs/cgroup"), &groups);
    Ok(room.map_or(available, |room| room.min(available)) / 2)
}

/// The least room that any of the process's control groups has below its limit, in bytes; `None` where none limits it.
fn group_room(root: &Path, groups: &str) -> Option<u64> {
    let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let mut least = None;
    // Each line is `hierarchy:controllers:path`; version 2 is hierarchy 0.
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(hierarchy), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (mounts, limit, usage): (&[&str], _, _) = if hierarchy == "0" {
            (&["", "unified"], "memory.max", "memory.current")
        } else if controllers.split(',').any(|name| name == "memory") {
            (&["memory"], "memory.limit_in_bytes", "memory.usage_in_bytes")
        } else {
            continue;
        };
        for mount in mounts {
            for group in Path::new(path.trim_start_matches('/')).ancestors() {
                let group = root.join(mount).join(group);
                if let Some(limit) = number(group.join(limit)) {
                    let room = limit.saturating_sub(number(group.join(usage)).unwrap_or(0));
                    least = Some(least.map_or(room, |least: u64| least.min(room)));
                }
            }
        }
    }
    least
}

/// How many mappings a process may have, and how many of them are spoken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappingBudget {
    /// Mappings that the process may have: the sysctl `vm.max_map_count`.
    pub limit: u64,
    /// Those of them that others have, or should be left.
    pub others: u64,
}

impl MappingBudget {
    /// Mappings that [`mapping_budget`] leaves to the rest of the process: stacks of new threads, arenas of its heap.
    pub const SPARE: u64 = 256;

    /// Mappings that may be used.
    #[must_use]
    pub const fn mappings(self) -> u64 {
        self.limit.saturating_sub(self.others)
    }
}

/// The mappings of this process at this moment: `limit` from `/proc/sys/vm/max_map_count`, `others` the lines of
/// `/proc/self/maps` plus [`MappingBudget::SPARE`].
///
/// # Errors
///
/// [`HostError::Unreadable`] where one of the two cannot be read.
pub fn mapping_budget() -> Result<MappingBudget, HostError> {
    let path = "/proc/sys/vm/max_map_count";
    let limit = procfs::sys::vm::max_map_count().map_err(|_| HostError::Unreadable { path })?;
    let path = "/proc/self/maps";
    let maps = fs::read(path).map_err(|_| HostError::Unreadable { path })?;
    let lines = maps.iter().filter(|&&byte| byte == b'\n').count() as u64;
    Ok(MappingBudget { limit, others: lines + MappingBudget::SPARE })
}

/// Bytes of page tables that the kernel keeps for this process: `VmPTE` of `/proc/self/status`. `None` where that
/// cannot be read. The direct map of [`HostFrames`](crate::HostFrames) has its share in it.
#[must_use]
pub fn page_table_bytes() -> Option<u64> {
    let status = Process::myself().ok()?.status().ok()?;
    status.vmpte.map(|kib| kib * 1024)
}

/// Bytes of kernel memory that describe mappings, of all processes together: the slab `vm_area_struct` of
/// `/proc/slabinfo`. `None` where that cannot be read, as by most who are not root.
#[must_use]
pub fn mapping_slab_bytes() -> Option<u64> {
    slab_bytes(&fs::read_to_string("/proc/slabinfo").ok()?, "vm_area_struct")
}

/// Slabs of `name` times pages of a slab.
fn slab_bytes(slabinfo: &str, name: &str) -> Option<u64> {
    let line = slabinfo.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    let mut parts = line.split(" : ");
    let pages: u64 = parts.next()?.split_whitespace().nth(5)?.parse().ok()?;
    let slabs: u64 = parts.nth(1)?.split_whitespace().nth(2)?.parse().ok()?;
    Some(slabs * pages * rustix::param::page_size() as u64)
}

/// Whether the kernel may back a hole of a file in memory with more than a base page, for mappings that do not forbid
/// it: by the policy for all sizes, or by that of one size.
pub(crate) fn shmem_may_be_huge() -> bool {
    let root = Path::new("/sys/kernel/mm/transparent_hugepage");
    let asks = |path: &Path| {
        fs::read_to_string(path.join("shmem_enabled")).is_ok_and(|policy| {
            ["[always]", "[within_size]", "[force]"].iter().any(|word| policy.contains(word))
        })
    };
    let sizes = fs::read_dir(root).into_iter().flatten().flatten();
    asks(root) || sizes.into_iter().any(|size| asks(&size.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that is removed again.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("mmkit-host-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, file: &str, text: &str) {
            let path = self.0.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_tightest_group_on_the_way_up_counts() {
        let dir = Dir::new("v2");
        dir.write("a/memory.max", "1000\n");
        dir.write("a/memory.current", "400\n");
        dir.write("a/b/memory.max", "max\n");
        dir.write("a/b/memory.current", "300\n");
        dir.write("c/memory.max", "5\n");
        assert_eq!(group_room(&dir.0, "0::/a/b\n"), Some(600));
        assert_eq!(group_room(&dir.0, "0::/a/b/gone\n"), Some(600));
        assert_eq!(group_room(&dir.0, "0::/\n"), None);
        dir.write("a/b/memory.max", "350\n");
        assert_eq!(group_room(&dir.0, "0::/a/b\n"), Some(50));
        dir.write("a/b/memory.max", "250\n");
        assert_eq!(group_room(&dir.0, "0::/a/b\n"), Some(0), "over its limit");
    }

    #[test]
    fn version_1_has_its_own_names_and_mount() {
        let dir = Dir::new("v1");
        dir.write("memory/x/memory.limit_in_bytes", "4096\n");
        dir.write("memory/x/memory.usage_in_bytes", "96\n");
        dir.write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        let groups = "9:name=systemd:/x\n4:cpu,memory:/x\n1:cpu:/x\n0::/\n";
        assert_eq!(group_room(&dir.0, groups), Some(4000));
        assert_eq!(group_room(&dir.0, "1:cpu:/x\nnonsense\n"), None);
    }

    #[test]
    fn slabs_are_counted_in_pages() {
        let page = rustix::param::page_size() as u64;
        let text = "slabinfo - version: 2.1\n\
            # name <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables ..\n\
            vm_area 1 1 1 1 1 : tunables 0 0 0 : slabdata 1 1 0\n\
            vm_area_struct   1726   1953    192   21    2 : tunables    0    0    0 : slabdata     93     94      0\n";
        assert_eq!(slab_bytes(text, "vm_area_struct"), Some(94 * 2 * page));
        assert_eq!(slab_bytes(text, "vm_area_structs"), None);
    }

    #[test]
    fn this_process_has_budgets() {
        let meminfo = Meminfo::current().unwrap();
        let budget = memory_budget().unwrap();
        assert!(budget > 0 && budget <= meminfo.mem_total / 2);
        let mappings = mapping_budget().unwrap();
        assert!(mappings.others > MappingBudget::SPARE && mappings.mappings() < mappings.limit);
        assert!(page_table_bytes().unwrap() > 0);
    }
}
