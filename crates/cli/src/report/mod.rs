// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mmkit report`: what this machine spends on descriptors, what it could save, and how.

mod savings;
mod text;

use std::path::PathBuf;

use clap::Args as ClapArgs;
use mmkit_addr::{Geometry, Order, Scheme};
use mmkit_oracle::{DaxDevice, Descriptors, Memmap, Memory, Node, PmemDevice, Pool, ReadError, Root};
use serde::Serialize;

use self::savings::{Saving, savings};
use crate::failure::Failure;
use crate::machine;
use crate::output::{print, print_json};

/// Read what this machine spends on descriptors, and reckon what it could save.
///
/// Reads memory, nodes, pools of huge pages, device-dax and persistent memory; changes nothing and needs no privilege.
/// For each way to keep fewer descriptors it prints what would be saved, and the setting that does it. What the memory
/// is used for, it cannot know: the figures are for memory that is huge pages altogether.
#[derive(Debug, ClapArgs)]
pub(crate) struct ReportArgs {
    /// Print one JSON object; sizes are in bytes.
    #[arg(long)]
    json: bool,

    /// Read the proc and sys of this directory: a copy of those of another machine of this architecture.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

/// All that is known of a machine. Sizes are in bytes; what could not be read is `None` or left out.
#[derive(Debug, Serialize)]
struct Report {
    arch: &'static str,
    base_page: u64,
    /// What the kernel manages.
    memory_bytes: Option<u64>,
    memmap: Option<MemmapReport>,
    nodes: Vec<NodeReport>,
    /// `vm.hugetlb_optimize_vmemmap`; `None` where the kernel has no HVO.
    hvo: Option<bool>,
    pools: Vec<PoolReport>,
    dax: Vec<DeviceReport>,
    pmem: Vec<DeviceReport>,
    savings: Vec<Saving>,
    /// What is there and could not be read, with the reason.
    unreadable: Vec<String>,
}

/// What descriptors take now.
#[derive(Debug, Serialize)]
struct MemmapReport {
    bytes: u64,
    /// The kernel says so. Otherwise it is what descriptors without sharing would take.
    counted: bool,
    percent_of_memory: Option<f64>,
}

#[derive(Debug, Serialize)]
struct NodeReport {
    node: u32,
    memory_bytes: u64,
    free_bytes: u64,
}

#[derive(Debug, Serialize)]
struct PoolReport {
    node: Option<u32>,
    page: u64,
    pages: u64,
    free: u64,
    surplus: u64,
    /// Whether the descriptors of such a page fill more than one page.
    optimisable: bool,
    /// Whether pages that enter the pool are optimised.
    optimised_on_entry: bool,
}

/// Memory that is a device.
#[derive(Debug, Serialize)]
struct DeviceReport {
    name: String,
    bytes: u64,
    /// What it is used as pages of; `None` for a block device.
    align: Option<u64>,
    node: Option<u32>,
    namespace: Option<String>,
    /// `memory` or `device`: where its descriptors are.
    descriptors: Option<&'static str>,
}

/// `mmkit report`.
pub(crate) fn run(args: &ReportArgs) -> Result<(), Failure> {
    let geometry = machine::geometry().ok_or_else(|| {
        let (arch, page) = (std::env::consts::ARCH, machine::page_bytes());
        Failure::run(format_args!(
            "{arch} with base pages of {page} bytes is no machine that is known here; `mmkit plan` works anywhere"
        ))
    })?;
    let root = args.root.as_ref().map_or_else(Root::system, Root::at);
    let report = Report::read(geometry, &root);
    if args.json { print_json(&report) } else { print(&text::text(&report)) }
}

impl Report {
    fn read(geometry: &'static Geometry, root: &Root) -> Self {
        let mut unreadable = Unreadable::default();
        let memory = unreadable.value(Memory::read(root));
        let memory_bytes = memory.map(|memory| memory.total_bytes);
        let hvo = unreadable.value(Pool::optimises(root)).flatten();
        let nodes = unreadable.value(Node::read_all(root)).unwrap_or_default();
        let pools = unreadable.list(Pool::read_all(root));
        let dax = unreadable.list(DaxDevice::read_all(root));
        let pmem = unreadable.list(PmemDevice::read_all(root));
        Self {
            arch: geometry.name(),
            base_page: geometry.base_bytes(),
            memory_bytes,
            memmap: memmap(geometry, root, memory_bytes, &mut unreadable),
            nodes: nodes.iter().map(NodeReport::new).collect(),
            hvo,
            savings: savings(geometry, memory_bytes, hvo, &pools, &dax, &pmem),
            pools: pools.iter().map(|pool| PoolReport::new(geometry, hvo, pool)).collect(),
            dax: dax.into_iter().map(DeviceReport::dax).collect(),
            pmem: pmem.into_iter().map(DeviceReport::pmem).collect(),
            unreadable: unreadable.0,
        }
    }
}

/// What the kernel counts; where it does not, what flat descriptors of all memory take.
fn memmap(
    geometry: &Geometry,
    root: &Root,
    memory_bytes: Option<u64>,
    unreadable: &mut Unreadable,
) -> Option<MemmapReport> {
    let counted = unreadable.value(Memmap::read(root)).flatten();
    let (bytes, counted) = match counted {
        Some(memmap) => (memmap.pages().checked_mul(geometry.base_bytes())?, true),
        None => {
            let described = Memory::described_bytes(root).ok().or(memory_bytes)?;
            let base = geometry.compound(Order::ZERO)?;
            (base.resident(Scheme::Flat, described >> geometry.base_shift())?.total(), false)
        }
    };
    let percent_of_memory = memory_bytes.filter(|&all| all > 0).map(|all| bytes as f64 * 100.0 / all as f64);
    Some(MemmapReport { bytes, counted, percent_of_memory })
}

/// The names of what could not be read.
#[derive(Default)]
struct Unreadable(Vec<String>);

impl Unreadable {
    fn value<T>(&mut self, read: Result<T, ReadError>) -> Option<T> {
        read.map_err(|error| self.0.push(error.to_string())).ok()
    }

    fn list<T>(&mut self, found: mmkit_oracle::Found<T>) -> Vec<T> {
        self.0.extend(found.unreadable.iter().map(ToString::to_string));
        found.items
    }
}

impl NodeReport {
    fn new(node: &Node) -> Self {
        Self { node: node.number, memory_bytes: node.total_bytes, free_bytes: node.free_bytes }
    }
}

impl PoolReport {
    fn new(geometry: &Geometry, hvo: Option<bool>, pool: &Pool) -> Self {
        let optimisable = savings::is_optimisable(geometry, pool.page_bytes);
        Self {
            node: pool.node,
            page: pool.page_bytes,
            pages: pool.pages,
            free: pool.free,
            surplus: pool.surplus,
            optimisable,
            optimised_on_entry: optimisable && hvo == Some(true),
        }
    }
}

impl DeviceReport {
    fn dax(device: DaxDevice) -> Self {
        Self {
            name: device.name,
            bytes: device.bytes,
            align: Some(device.align_bytes),
            node: device.node,
            namespace: device.namespace,
            descriptors: device.descriptors.map(place),
        }
    }

    fn pmem(device: PmemDevice) -> Self {
        Self {
            name: device.name,
            bytes: device.bytes,
            align: None,
            node: None,
            namespace: device.namespace,
            descriptors: device.descriptors.map(place),
        }
    }
}

fn place(descriptors: Descriptors) -> &'static str {
    match descriptors {
        Descriptors::Memory => "memory",
        Descriptors::Device => "device",
    }
}
