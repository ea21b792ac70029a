// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that is a device: device-dax and persistent memory.

use crate::root::{Found, ReadError, Root, decimal};

/// A device whose memory programs map directly (`/sys/bus/dax/devices`). All of its pages have descriptors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaxDevice {
    /// Its name, such as `dax0.0`.
    pub name: String,
    /// Bytes of memory.
    pub bytes: u64,
    /// The alignment of mappings: what its memory is used as pages of, in bytes.
    pub align_bytes: u64,
    /// The node that the memory would be of, if it were ordinary memory.
    pub node: Option<u32>,
    /// The namespace of persistent memory that it is made of; `None` for other memory.
    pub namespace: Option<String>,
    /// Where its descriptors are; `None` where the kernel does not tell.
    pub descriptors: Option<Descriptors>,
}

/// A block device of persistent memory (`/sys/block/pmem*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PmemDevice {
    /// Its name, such as `pmem0`.
    pub name: String,
    /// Bytes that it stores.
    pub bytes: u64,
    /// The namespace that it is made of, if there is one.
    pub namespace: Option<String>,
    /// Where its descriptors are; `None` where it has none, or the kernel does not tell.
    pub descriptors: Option<Descriptors>,
}

/// Where the descriptors of a device's memory are (`ndctl create-namespace --map`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptors {
    /// In ordinary memory (`--map=mem`).
    Memory,
    /// In the device itself (`--map=dev`; Linux: altmap). They cost no ordinary memory, and are never shared.
    Device,
}

const DAX: &str = "sys/bus/dax/devices";
const ND: &str = "sys/bus/nd/devices";

impl DaxDevice {
    /// All devices, by name. A kernel without such devices has none.
    #[must_use]
    pub fn read_all(root: &Root) -> Found<Self> {
        list(root, DAX, "dax", Self::read)
    }

    fn read(root: &Root, name: &str) -> Result<Self, ReadError> {
        let file = |attribute| format!("{DAX}/{name}/{attribute}");
        let align_bytes = root.number(&file("align"))?;
        if !align_bytes.is_power_of_two() {
            return Err(ReadError::format(
                &root.path(&file("align")),
                &align_bytes.to_string(),
                "a power of two",
            ));
        }
        // -1 where there is no node.
        let node = root.word(&file("target_node")).ok().as_deref().and_then(decimal);
        let namespace = namespace(root, name.strip_prefix("dax").unwrap_or(name))?;
        Ok(Self {
            name: name.to_owned(),
            bytes: root.number(&file("size"))?,
            align_bytes,
            node: node.and_then(|node| node.try_into().ok()),
            descriptors: descriptors(root, namespace.as_deref())?,
            namespace,
        })
    }
}

impl PmemDevice {
    /// All devices, by name. A machine without such memory has none.
    #[must_use]
    pub fn read_all(root: &Root) -> Found<Self> {
        list(root, "sys/block", "pmem", Self::read)
    }

    fn read(root: &Root, name: &str) -> Result<Self, ReadError> {
        let sectors = root.number(&format!("sys/block/{name}/size"))?;
        // `pmem1` and `pmem1.2`; with an `s` behind where sectors are written as a whole.
        let id = name.trim_start_matches("pmem").trim_end_matches('s');
        let id = if id.contains('.') { id.to_owned() } else { format!("{id}.0") };
        let namespace = namespace(root, &id)?;
        Ok(Self {
            name: name.to_owned(),
            bytes: sectors.saturating_mul(512),
            descriptors: descriptors(root, namespace.as_deref())?,
            namespace,
        })
    }
}

/// Reads each device of `directory` whose name begins with `prefix` and goes on with a digit.
fn list<T>(
    root: &Root,
    directory: &str,
    prefix: &str,
    read: impl Fn(&Root, &str) -> Result<T, ReadError>,
) -> Found<T> {
    let mut found = Found::default();
    let names = match root.names(directory) {
        Ok(names) => names,
        Err(error) if error.is_missing() => Vec::new(),
        Err(error) => {
            found.unreadable.push(error);
            Vec::new()
        }
    };
    let device = |name: &&String| {
        name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    for name in names.iter().filter(device) {
        found.add(read(root, name));
    }
    found
}

/// The namespace with the id `0.1`, if there is one.
fn namespace(root: &Root, id: &str) -> Result<Option<String>, ReadError> {
    let wanted = format!("namespace{id}");
    let names = match root.names(ND) {
        Ok(names) => names,
        Err(error) if error.is_missing() => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(names.into_iter().find(|name| *name == wanted))
}

/// Where the descriptors of a namespace's memory are: the mode of the `pfn` or `dax` device that has claimed it.
fn descriptors(root: &Root, namespace: Option<&str>) -> Result<Option<Descriptors>, ReadError> {
    let Some(namespace) = namespace else { return Ok(None) };
    for name in root.names(ND)? {
        if !name.starts_with("pfn") && !name.starts_with("dax") {
            continue;
        }
        // A seed, which nothing has claimed yet, names no namespace.
        let claimed = root.word(&format!("{ND}/{name}/namespace"));
        if claimed.ok().as_deref() == Some(namespace) {
            return Ok(match root.word(&format!("{ND}/{name}/mode"))?.as_str() {
                "ram" => Some(Descriptors::Memory),
                "pmem" => Some(Descriptors::Device),
                _ => None,
            });
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;

    #[test]
    fn devices_of_several_kinds() {
        let tree = Fixture::two_nodes("dax");
        let found = DaxDevice::read_all(tree.root());
        assert!(found.unreadable.is_empty());
        let dax = |name: &str, gib: u64, align_bytes, node, namespace: Option<&str>, descriptors| DaxDevice {
            name: name.to_owned(),
            bytes: gib << 30,
            align_bytes,
            node,
            namespace: namespace.map(str::to_owned),
            descriptors,
        };
        assert_eq!(
            found.items,
            [
                dax("dax0.0", 128, 2 << 20, Some(2), Some("namespace0.0"), Some(Descriptors::Memory)),
                dax("dax1.0", 64, 4096, None, None, None),
            ]
        );
        let found = PmemDevice::read_all(tree.root());
        assert!(found.unreadable.is_empty());
        let pmem = |name: &str, gib: u64, namespace: &str, descriptors| PmemDevice {
            name: name.to_owned(),
            bytes: gib << 30,
            namespace: Some(namespace.to_owned()),
            descriptors,
        };
        assert_eq!(
            found.items,
            [
                pmem("pmem2", 16, "namespace2.0", Some(Descriptors::Device)),
                pmem("pmem2.1s", 8, "namespace2.1", None),
            ]
        );
    }

    #[test]
    fn no_devices_and_broken_ones() {
        let tree = Fixture::empty("no-dax");
        assert_eq!(DaxDevice::read_all(tree.root()).items, []);
        assert_eq!(PmemDevice::read_all(tree.root()).items, []);
        tree.write("sys/bus/dax/devices/dax0.0/align", "3\n");
        tree.write("sys/bus/dax/devices/dax_region/align", "3\n");
        let found = DaxDevice::read_all(tree.root());
        assert_eq!((found.items.len(), found.unreadable.len()), (0, 1));
        assert!(found.unreadable[0].to_string().ends_with("dax0.0/align: \"3\" is not a power of two"));
    }
}
