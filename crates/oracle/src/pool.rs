// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pools of huge pages: one for each size, and on each node.

use std::fmt;

use crate::node;
use crate::root::{Found, ReadError, ReadFault, Root, decimal};

/// A pool of huge pages of one size (Linux: `hstate`), on one node where the kernel has nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Bytes of one huge page.
    pub page_bytes: u64,
    /// The node whose pages these are; `None` is the whole machine.
    pub node: Option<u32>,
    /// Pages in the pool, used or not (`nr_hugepages`).
    pub pages: u64,
    /// Of these, not used (`free_hugepages`).
    pub free: u64,
    /// Of these, more than the pool should have: they leave it as soon as they can (`surplus_hugepages`).
    pub surplus: u64,
}

/// Which pool: what its directory is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PoolName {
    pub(crate) page_bytes: u64,
    pub(crate) node: Option<u32>,
}

impl PoolName {
    /// The path of one of its files, such as `"nr_hugepages"`, from the root.
    pub(crate) fn file(self, name: &str) -> String {
        let directory = directory(self.node);
        format!("{directory}/hugepages-{}kB/{name}", self.page_bytes / 1024)
    }

    pub(crate) fn read(self, root: &Root) -> Result<Pool, ReadError> {
        let number = |name| root.number(&self.file(name));
        Ok(Pool {
            page_bytes: self.page_bytes,
            node: self.node,
            pages: number("nr_hugepages")?,
            free: number("free_hugepages")?,
            surplus: number("surplus_hugepages")?,
        })
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the pool of {} kB pages", self.page_bytes / 1024)?;
        self.node.map_or(Ok(()), |node| write!(f, " on node {node}"))
    }
}

/// Where the pools of a node are, or those of the whole machine.
fn directory(node: Option<u32>) -> String {
    match node {
        Some(node) => format!("{}/node{node}/hugepages", node::DIRECTORY),
        None => "sys/kernel/mm/hugepages".to_owned(),
    }
}

/// The sizes of the pools of a node, or of the whole machine, in bytes, smallest first.
pub(crate) fn sizes(root: &Root, node: Option<u32>) -> Result<Vec<u64>, ReadError> {
    let names = root.names(&directory(node))?;
    let mut sizes: Vec<_> = names.iter().filter_map(|name| page_bytes(name)).collect();
    sizes.sort_unstable();
    Ok(sizes)
}

/// The bytes of a page in the directory `hugepages-2048kB`.
fn page_bytes(name: &str) -> Option<u64> {
    let kib = decimal(name.strip_prefix("hugepages-")?.strip_suffix("kB")?)?;
    kib.checked_mul(1024).filter(|bytes| bytes.is_power_of_two())
}

impl Pool {
    /// The pools of every node, smallest pages first; where the kernel does not know nodes, those of the machine. A
    /// kernel without huge pages has none.
    #[must_use]
    pub fn read_all(root: &Root) -> Found<Self> {
        let mut found = Found::default();
        let places: Vec<_> = match node::numbers(root) {
            Ok(nodes) if !nodes.is_empty() => nodes.into_iter().map(Some).collect(),
            _ => vec![None],
        };
        for node in places {
            match sizes(root, node) {
                Ok(sizes) => {
                    for page_bytes in sizes {
                        found.add((PoolName { page_bytes, node }).read(root));
                    }
                }
                Err(error) if error.is_missing() => {}
                Err(error) => found.unreadable.push(error),
            }
        }
        found
    }

    /// Whether pages that enter a pool from now on are optimised (`vm.hugetlb_optimize_vmemmap`). `None` where this
    /// kernel has no such setting.
    ///
    /// # Errors
    ///
    /// The setting exists and cannot be read, or is neither 0 nor 1.
    pub fn optimises(root: &Root) -> Result<Option<bool>, ReadError> {
        match root.number(OPTIMISE) {
            Ok(0) => Ok(Some(false)),
            Ok(1) => Ok(Some(true)),
            Ok(other) => Err(ReadError::format(&root.path(OPTIMISE), &other.to_string(), "0 or 1")),
            Err(ReadError { fault: ReadFault::Io(error), .. })
                if error.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// The switch of HVO.
pub(crate) const OPTIMISE: &str = "proc/sys/vm/hugetlb_optimize_vmemmap";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;

    #[test]
    fn pools_of_two_nodes() {
        let tree = Fixture::two_nodes("pools");
        let found = Pool::read_all(tree.root());
        assert!(found.unreadable.is_empty());
        let pool = |node, page_bytes, pages, free, surplus| Pool {
            page_bytes,
            node: Some(node),
            pages,
            free,
            surplus,
        };
        assert_eq!(
            found.items,
            [
                pool(0, 2 << 20, 512, 500, 24),
                pool(0, 1 << 30, 4, 4, 0),
                pool(1, 2 << 20, 1024, 0, 0),
                pool(1, 1 << 30, 0, 0, 0),
            ]
        );
        assert_eq!(sizes(tree.root(), None).unwrap(), [2 << 20, 1 << 30]);
        assert_eq!(Pool::optimises(tree.root()).unwrap(), Some(true));
    }

    #[test]
    fn a_machine_without_nodes_has_pools_of_its_own() {
        let tree = Fixture::empty("flat");
        tree.pool(None, 2048, 7, 3, 1);
        tree.write("sys/kernel/mm/hugepages/hugepages-oddkB/nr_hugepages", "1\n");
        let found = Pool::read_all(tree.root());
        assert_eq!(found.items, [Pool { page_bytes: 2 << 20, node: None, pages: 7, free: 3, surplus: 1 }]);
        assert_eq!(Pool::optimises(tree.root()).unwrap(), None);
    }

    #[test]
    fn what_is_broken_is_named_and_the_rest_is_read() {
        let tree = Fixture::two_nodes("broken");
        tree.write("sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages", "?\n");
        let found = Pool::read_all(tree.root());
        assert_eq!((found.items.len(), found.unreadable.len()), (3, 1));
        assert!(found.unreadable[0].path.ends_with("node0/hugepages/hugepages-2048kB/free_hugepages"));
        tree.write(OPTIMISE, "2\n");
        assert!(Pool::optimises(tree.root()).unwrap_err().to_string().contains("\"2\" is not 0 or 1"));
        assert_eq!(Pool::read_all(Fixture::empty("none").root()).items, []);
    }
}
