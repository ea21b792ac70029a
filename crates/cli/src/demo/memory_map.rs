// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where this machine has memory.

use std::fs;

use mmkit_addr::{Geometry, Pfn, PfnRange};
use procfs::{Current, FromBufRead, Iomem, Meminfo};
use serde::Serialize;

use crate::failure::Failure;
use crate::size::Size;

/// Memory at physical addresses `start..end`, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Range {
    pub(super) start: u64,
    /// One past the last byte.
    pub(super) end: u64,
}

/// Where a memory map was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Source {
    /// The machine's own.
    #[serde(rename = "/proc/iomem")]
    Iomem,
    /// Its size only: one range from 0 on.
    #[serde(rename = "/proc/meminfo")]
    MemTotal,
    /// The command line: one range from 0 on.
    #[serde(rename = "--memory")]
    Given,
}

/// Which physical addresses are memory, lowest first. Ranges neither overlap nor touch.
#[derive(Clone, Debug)]
pub(super) struct MemoryMap {
    pub(super) source: Source,
    pub(super) ranges: Vec<Range>,
}

impl MemoryMap {
    /// One range, as large as the command line says.
    pub(super) fn given(memory: Size) -> Self {
        Self { source: Source::Given, ranges: vec![Range { start: 0, end: memory.0 }] }
    }

    /// That of this machine: `/proc/iomem`, or where that tells nothing, `MemTotal` of `/proc/meminfo`.
    pub(super) fn of_this_machine() -> Result<Self, Failure> {
        if let Some(ranges) = fs::read_to_string("/proc/iomem").ok().and_then(|text| system_ram(&text)) {
            return Ok(Self { source: Source::Iomem, ranges });
        }
        let total = Meminfo::current().map_err(|error| {
            Failure::run(format_args!(
                "neither /proc/iomem nor /proc/meminfo tells how much memory this machine has ({error}); give --memory"
            ))
        })?;
        Ok(Self { source: Source::MemTotal, ranges: vec![Range { start: 0, end: total.mem_total }] })
    }

    /// The whole frames of each range.
    pub(super) fn frames(&self, geometry: &Geometry) -> Vec<PfnRange> {
        let shift = geometry.base_shift();
        let whole = |range: &Range| {
            let end = (range.end >> shift).min(geometry.max_frames());
            let start = range.start.div_ceil(1 << shift);
            PfnRange::new(Pfn::new(start)?, end.checked_sub(start)?).filter(|frames| !frames.is_empty())
        };
        self.ranges.iter().filter_map(whole).collect()
    }

    /// Bytes of all ranges.
    pub(super) fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }
}

/// The ranges that a text like `/proc/iomem` calls "System RAM", at whatever depth they stand.
///
/// `None` where it does not tell: to those who may not know, the kernel shows every range as `0-0`.
fn system_ram(text: &str) -> Option<Vec<Range>> {
    let Iomem(lines) = Iomem::from_buf_read(text.as_bytes()).ok()?;
    let ram = lines.iter().filter(|(_, line)| line.name.starts_with("System RAM"));
    let known = ram.map(|(_, line)| line.address).filter(|&(start, last)| start < last);
    let mut ranges: Vec<_> =
        known.map(|(start, last)| Range { start, end: last.saturating_add(1) }).collect();
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut().filter(|last| range.start <= last.end) {
            Some(last) => last.end = last.end.max(range.end),
            None => merged.push(range),
        }
    }
    (!merged.is_empty()).then_some(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IOMEM: &str = "\
00000000-00000fff : Reserved
00001000-0009fbff : System RAM
0009fc00-000fffff : Reserved
  000f0000-000fffff : System ROM
00100000-bfffffff : System RAM
  01000000-022090c7 : Kernel code
c0001000-eebfffff : PCI Bus 0000:00
  c0002000-c0002fff : 0000:00:01.0
100000000-63fffffff : System RAM
";

    fn ranges(text: &str) -> Option<Vec<(u64, u64)>> {
        Some(system_ram(text)?.iter().map(|range| (range.start, range.end)).collect())
    }

    #[test]
    fn system_ram_with_its_holes() {
        let expected = vec![(0x1000, 0x9fc00), (0x10_0000, 0xc000_0000), (0x1_0000_0000, 0x6_4000_0000)];
        assert_eq!(ranges(IOMEM), Some(expected));
    }

    #[test]
    fn zeroed_addresses_tell_nothing_whoever_reads_them() {
        let hidden: String = IOMEM
            .lines()
            .map(|line| {
                let (indent, name) =
                    (line.len() - line.trim_start().len(), line.split(" : ").nth(1).unwrap());
                format!("{:indent$}00000000-00000000 : {name}\n", "")
            })
            .collect();
        assert_eq!(ranges(&hidden), None);
        assert_eq!(ranges(""), None);
        assert_eq!(ranges("00100000-bfffffff : Reserved\n"), None);
        assert_eq!(ranges("not like that at all\n"), None);
    }

    #[test]
    fn nested_and_touching_ranges_are_one_each() {
        let text = "\
200000000-27fffffff : Persistent Memory
  200000000-23fffffff : dax0.0
    200000000-23fffffff : System RAM (kmem)
100000000-1ffffffff : System RAM
00100000-001fffff : System RAM
  00180000-0018ffff : System RAM
ffffffffffff0000-ffffffffffffffff : System RAM
";
        let expected =
            vec![(0x10_0000, 0x20_0000), (0x1_0000_0000, 0x2_4000_0000), (0xffff_ffff_ffff_0000, u64::MAX)];
        assert_eq!(ranges(text), Some(expected));
    }

    #[test]
    fn frames_are_whole() {
        let map = MemoryMap { source: Source::Iomem, ranges: system_ram(IOMEM).unwrap() };
        let frames: Vec<_> =
            map.frames(&Geometry::X86_64).iter().map(|range| (range.start().get(), range.end())).collect();
        assert_eq!(frames, [(1, 0x9f), (0x100, 0xc0000), (0x10_0000, 0x64_0000)]);
        let sliver = MemoryMap { source: Source::Given, ranges: vec![Range { start: 0x1001, end: 0x2fff }] };
        assert_eq!(sliver.frames(&Geometry::X86_64), []);
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(MemoryMap::of_this_machine().unwrap().bytes() > 0);
    }
}
