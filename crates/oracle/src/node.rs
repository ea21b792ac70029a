// SPDX-License-Identifier: MIT OR Apache-2.0
//! NUMA nodes.

use crate::root::{ReadError, Root, decimal, numbered};

/// Where the kernel lists its nodes.
pub(crate) const DIRECTORY: &str = "sys/devices/system/node";

/// A node and its memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub number: u32,
    /// Memory that the kernel manages there. 0 for a node of processors only.
    pub total_bytes: u64,
    /// Of that, free.
    pub free_bytes: u64,
}

impl Node {
    /// All nodes, by number. None where the kernel does not know nodes.
    ///
    /// # Errors
    ///
    /// The list, or the memory of a node, cannot be read.
    pub fn read_all(root: &Root) -> Result<Vec<Self>, ReadError> {
        numbers(root)?.into_iter().map(|number| Self::read(root, number)).collect()
    }

    /// The node `number`.
    pub(crate) fn read(root: &Root, number: u32) -> Result<Self, ReadError> {
        let file = format!("{DIRECTORY}/node{number}/meminfo");
        let text = root.text(&file)?;
        let field = |name| {
            bytes(&text, name).ok_or_else(|| {
                ReadError::format(&root.path(&file), &text, "a list of sizes in kB with MemTotal and MemFree")
            })
        };
        Ok(Self { number, total_bytes: field("MemTotal:")?, free_bytes: field("MemFree:")? })
    }
}

/// The numbers of all nodes; empty where the kernel does not know nodes.
pub(crate) fn numbers(root: &Root) -> Result<Vec<u32>, ReadError> {
    match root.names(DIRECTORY) {
        Ok(names) => Ok(names.iter().filter_map(|name| numbered(name, "node")).collect()),
        Err(error) if error.is_missing() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The bytes in the line `Node 0 MemFree:  1234 kB`.
fn bytes(text: &str, field: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(2);
        if words.next()? != field {
            return None;
        }
        let kib = decimal(words.next()?)?;
        if words.next()? == "kB" { kib.checked_mul(1024) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;

    #[test]
    fn nodes_and_their_memory() {
        let tree = Fixture::two_nodes("nodes");
        let node =
            |number, total: u64, free: u64| Node { number, total_bytes: total << 30, free_bytes: free << 30 };
        assert_eq!(Node::read_all(tree.root()).unwrap(), [node(0, 32, 16), node(1, 32, 24)]);
        assert_eq!(Node::read_all(Fixture::empty("no-nodes").root()).unwrap(), []);
        tree.write("sys/devices/system/node/node1/meminfo", "Node 1 MemTotal: 4 MB\n");
        assert!(Node::read_all(tree.root()).unwrap_err().to_string().contains("is not a list of sizes"));
    }
}
