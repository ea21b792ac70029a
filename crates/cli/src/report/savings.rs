// SPDX-License-Identifier: MIT OR Apache-2.0
//! What could be saved, by the arithmetic of `mmkit plan`, and the setting that does it.

use mmkit_addr::{Geometry, HugeKind, Keep, Scheme};
use mmkit_oracle::{DaxDevice, Descriptors, PmemDevice, Pool};
use serde::Serialize;

use crate::size::{exact, rough, short};

/// One way to keep fewer descriptors. Sizes are in bytes, tables included, pages that all share left out.
#[derive(Debug, Serialize)]
pub(super) struct Saving {
    pub(super) what: String,
    /// Bytes of a page that the memory is used as.
    pub(super) page: u64,
    /// The memory whose descriptors these are.
    pub(super) memory_bytes: u64,
    /// One by one.
    pub(super) flat_bytes: u64,
    /// What Linux keeps with the setting.
    pub(super) linux_bytes: u64,
    /// What this kit keeps: one page each, and shared tables.
    pub(super) mmkit_bytes: Option<u64>,
    /// By Linux, with the setting.
    pub(super) saved_bytes: u64,
    pub(super) saved_percent_of_flat: f64,
    pub(super) saved_percent_of_memory: f64,
    pub(super) setting: String,
}

/// What Linux does to device-dax (until 2026): each huge page keeps two pages of descriptors.
const DAX: Scheme = Scheme::KeepTwo;

/// HVO keeps one.
const HVO: Scheme = Scheme::KeepOne;

/// Whether the descriptors of such a page fill more than one page.
pub(super) fn is_optimisable(geometry: &Geometry, page: u64) -> bool {
    let compound = geometry.order_of_bytes(page).and_then(|order| geometry.compound(order));
    compound.is_some_and(|compound| compound.saved_pages(Keep::One).is_some())
}

/// Every way there is on this machine.
pub(super) fn savings(
    geometry: &Geometry,
    memory: Option<u64>,
    hvo: Option<bool>,
    pools: &[Pool],
    dax: &[DaxDevice],
    pmem: &[PmemDevice],
) -> Vec<Saving> {
    let mut all = Vec::new();
    let mut sizes: Vec<_> = pools.iter().map(|pool| pool.page_bytes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for page in sizes {
        let what = format!("all memory as {} pages, HVO", short(page));
        all.extend(saving(geometry, what, page, memory.unwrap_or(0), HVO, all_memory(page, hvo)));
    }
    for pool in pools.iter().filter(|pool| pool.pages > 0) {
        let node = pool.node.map(|node| format!(" of node {node}")).unwrap_or_default();
        let what = format!("the {} {} pages{node}, HVO", pool.pages, short(pool.page_bytes));
        let memory = pool.pages.saturating_mul(pool.page_bytes);
        all.extend(saving(geometry, what, pool.page_bytes, memory, HVO, pool_setting(hvo)));
    }
    for device in dax {
        for page in device_pages(geometry, device.align_bytes) {
            let what = format!("{} ({}) as {} pages", device.name, rough(device.bytes), short(page));
            all.extend(saving(geometry, what, page, device.bytes, DAX, dax_setting(device, page)));
        }
    }
    for device in pmem {
        for page in device_pages(geometry, geometry.base_bytes()) {
            let what =
                format!("{} ({}) as device-dax of {} pages", device.name, rough(device.bytes), short(page));
            let setting = match &device.namespace {
                Some(namespace) => {
                    format!("{} (erases it, and there is no file system then)", ndctl(namespace, page))
                }
                None => "none: it has no namespace that could be made anew".to_owned(),
            };
            all.extend(saving(geometry, what, page, device.bytes, DAX, setting));
        }
    }
    all
}

/// `None` where there is nothing to save.
fn saving(
    geometry: &Geometry,
    what: String,
    page: u64,
    memory: u64,
    scheme: Scheme,
    setting: String,
) -> Option<Saving> {
    let compound = geometry.compound(geometry.order_of_bytes(page)?)?;
    let pages = memory / page;
    if pages == 0 {
        return None;
    }
    let total = |scheme| Some(compound.resident(scheme, pages)?.total());
    let (flat_bytes, linux_bytes) = (total(Scheme::Flat)?, total(scheme)?);
    let (memory_bytes, saved_bytes) = (pages * page, flat_bytes.saturating_sub(linux_bytes));
    let percent = |of: u64| saved_bytes as f64 * 100.0 / of as f64;
    Some(Saving {
        what,
        page,
        memory_bytes,
        flat_bytes,
        linux_bytes,
        mmkit_bytes: total(Scheme::KeepOneSharedTables).or_else(|| total(Scheme::KeepOne)),
        saved_bytes,
        saved_percent_of_flat: percent(flat_bytes),
        saved_percent_of_memory: percent(memory_bytes),
        setting,
    })
}

fn all_memory(page: u64, hvo: Option<bool>) -> String {
    let boot = format!("boot with hugetlb_free_vmemmap=on hugepagesz={} hugepages=N", short(page));
    match hvo {
        None => "none: this kernel has no HVO (CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP)".to_owned(),
        Some(true) => format!("HVO is on: fill the pool of {} kB pages, or {boot}", page / 1024),
        Some(false) => {
            format!(
                "sysctl vm.hugetlb_optimize_vmemmap=1, then fill the pool of {} kB pages; or {boot}",
                page / 1024
            )
        }
    }
}

fn pool_setting(hvo: Option<bool>) -> String {
    match hvo {
        None => "none: this kernel has no HVO (CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP)",
        Some(true) => "HVO is on: so it is for those that entered since",
        Some(false) => "sysctl vm.hugetlb_optimize_vmemmap=1, then empty and refill the pool",
    }
    .to_owned()
}

fn dax_setting(device: &DaxDevice, page: u64) -> String {
    let on_device = device.descriptors == Some(Descriptors::Device);
    match &device.namespace {
        _ if device.align_bytes == page && !on_device => "none needed: it is so".to_owned(),
        Some(namespace) => format!("{} (erases it)", ndctl(namespace, page)),
        None => {
            let region = device.name.trim_start_matches("dax").split('.').next().unwrap_or_default();
            let name = &device.name;
            let align = short(page);
            format!(
                "daxctl disable-device {name} && daxctl destroy-device {name} && daxctl create-device --region={region} --align={align}"
            )
        }
    }
}

/// Descriptors in the device itself are never shared, so they come to memory.
fn ndctl(namespace: &str, page: u64) -> String {
    format!(
        "ndctl create-namespace --force --reconfig={namespace} --mode=devdax --map=mem --align={}",
        short(page)
    )
}

/// The sizes that a device can be used as pages of, from its own alignment up, as far as that saves anything.
fn device_pages(geometry: &Geometry, align: u64) -> impl Iterator<Item = u64> {
    let leaves = geometry.huge_pages().iter().filter(|huge| matches!(huge.kind(), HugeKind::Leaf(_)));
    leaves.map(|huge| huge.bytes()).filter(move |&page| page >= align && is_optimisable(geometry, page))
}

impl Saving {
    /// The row of the table.
    pub(super) fn row(&self) -> [String; 6] {
        [
            self.what.clone(),
            rough(self.flat_bytes),
            rough(self.linux_bytes),
            self.mmkit_bytes.map_or("-".to_owned(), rough),
            exact_or_rough(self.saved_bytes),
            format!("{:.1} %", self.saved_percent_of_flat),
        ]
    }
}

/// Exact where that is short.
fn exact_or_rough(bytes: u64) -> String {
    let exact = exact(bytes);
    if exact.len() <= 8 { exact } else { rough(bytes) }
}
