// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `mmkit demo --json` prints: one object. All sizes are in bytes, all times in seconds or nanoseconds.

use serde::Serialize;

use super::Context;
use super::device::Device;
use super::memory_map::{Range, Source};
use super::optimise::Optimised;
use super::owners::Owners;
use super::pins::Pinned;
use super::removal::Removal;
use crate::failure::Failure;

/// The result of the demo. What was left out or could not be known is `null`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) arch: &'static str,
    pub(super) memory_map_source: Source,
    pub(super) memory_map: Vec<Range>,
    pub(super) runs: Vec<Run>,
    /// Whether a child process that wrote to a shared tail was killed by SIGSEGV.
    pub(super) tail_write_faulted: Option<bool>,
    /// The address that it wrote to.
    pub(super) tail_write_address: Option<u64>,
    /// Huge pages that were optimised and restored.
    pub(super) optimised: Vec<Optimised>,
    /// A device that was added.
    pub(super) devices: Vec<Device>,
    /// A device that was pulled while pages of it were held.
    pub(super) removal: Option<Removal>,
    /// What two trackers know of a folio that three address spaces mapped and two left.
    pub(super) owners: Vec<Owners>,
    /// What pins of 1 GiB take, in three shapes.
    pub(super) pins: Vec<Pinned>,
    /// What the running kernel spends on its own descriptors.
    pub(super) kernel_memmap_bytes: Option<u64>,
    /// What was not done, and why.
    pub(super) skipped: Vec<String>,
    pub(super) seconds: f64,
}

/// One page size.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Run {
    /// `base`, `2M`, ..
    pub(super) page: String,
    pub(super) page_bytes: u64,
    pub(super) memory_bytes: u64,
    /// Frames with a descriptor: those of the memory, and those that share a subsection with some of it.
    pub(super) frames: u64,
    /// What the descriptors take if every frame has its own.
    pub(super) flat_bytes: u64,
    /// Memory behind the descriptors that were built for real, as the operating system counts it.
    pub(super) resident_bytes: u64,
    /// By how much the process's page tables grew for that.
    pub(super) table_bytes: Option<u64>,
    /// By how much the kernel's descriptions of mappings grew meanwhile, of all processes. A cost of doing this in a
    /// process; in a kernel there is none.
    pub(super) mapping_slab_bytes: Option<u64>,
    /// Mappings that the real part took.
    pub(super) mappings: u64,
    /// Frames of memory that each run of identical tails has.
    pub(super) tail_run_frames: u64,
    /// Flat, less everything resident and all tables.
    pub(super) saved_bytes: i64,
    pub(super) build_seconds: f64,
    pub(super) lookup_ns: Option<f64>,
    pub(super) lookups_checked: u64,
    pub(super) lookups_wrong: u64,
    /// Descriptors of which all 64 bytes were compared.
    pub(super) descriptors_checked: u64,
    pub(super) descriptors_wrong: u64,
    /// Absent frames that were looked up.
    pub(super) holes_checked: u64,
    pub(super) holes_wrong: u64,
    /// Blocks that were handed out and given back.
    pub(super) references_checked: u64,
    pub(super) references_wrong: u64,
    /// The first frame at which something was wrong.
    pub(super) first_wrong: Option<u64>,
    /// Memory (of `memory_bytes`) whose descriptors did not fit for real: in software tables, or only counted.
    pub(super) software_bytes: u64,
    /// What its descriptors take in software tables, tables included.
    pub(super) software_resident_bytes: u64,
    /// The part of `software_bytes` that was only counted.
    pub(super) counted_bytes: u64,
    /// What its descriptors would take, last-level tables included.
    pub(super) counted_resident_bytes: u64,
    pub(super) seconds: f64,
}

impl Report {
    /// Before anything was done.
    pub(super) fn new(context: &Context) -> Self {
        Self {
            arch: context.geometry.name(),
            memory_map_source: context.memory.source,
            memory_map: context.memory.ranges.clone(),
            runs: Vec::new(),
            tail_write_faulted: None,
            tail_write_address: None,
            optimised: Vec::new(),
            devices: Vec::new(),
            removal: None,
            owners: Vec::new(),
            pins: Vec::new(),
            kernel_memmap_bytes: None,
            skipped: Vec::new(),
            seconds: 0.0,
        }
    }

    /// An error if anything was not as it must be.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        if let Some(run) = self.runs.iter().find(|run| run.wrong() > 0) {
            let (page, wrong, first) = (&run.page, run.wrong(), run.first_wrong.unwrap_or(0));
            return Err(Failure::run(format_args!(
                "{wrong} checks of {page} pages failed, the first at pfn {first:#x}; that is a bug of mmkit, please \
                 report it"
            )));
        }
        if let Some(one) = self.optimised.iter().find(|one| one.wrong() > 0) {
            let (page, place, wrong, first) =
                (&one.page, one.place, one.wrong(), one.first_wrong.unwrap_or(0));
            return Err(Failure::run(format_args!(
                "{wrong} checks of {page} pages optimised in {place} failed, the first at pfn {first:#x}; that is a bug of \
                 mmkit, please report it"
            )));
        }
        if let Some(one) = self.devices.iter().find(|one| one.lookups_wrong > 0) {
            let (page, place, wrong, first) =
                (&one.page, one.place, one.lookups_wrong, one.first_wrong.unwrap_or(0));
            return Err(Failure::run(format_args!(
                "{wrong} lookups of a device of {page} pages in {place} failed, the first at pfn {first:#x}; that is a bug \
                 of mmkit, please report it"
            )));
        }
        if let Some(removal) = self.removal.filter(|removal| !removal.is_right()) {
            return Err(Failure::run(format_args!(
                "a device that was pulled did not go as it must ({removal:?}); that is a bug of mmkit, please report it"
            )));
        }
        match self.tail_write_faulted {
            Some(false) => Err(Failure::run(
                "a write to a shared tail was not stopped by SIGSEGV; that is a bug of mmkit, please report it",
            )),
            _ => Ok(()),
        }
    }
}

impl Run {
    /// Things that were not as planned.
    pub(super) fn wrong(&self) -> u64 {
        self.lookups_wrong + self.descriptors_wrong + self.holes_wrong + self.references_wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(run: Run, tail_write_faulted: Option<bool>) -> Report {
        Report {
            arch: "x86-64",
            memory_map_source: Source::Given,
            memory_map: Vec::new(),
            runs: vec![Run { page: "base".to_owned(), ..Run::default() }, run],
            tail_write_faulted,
            tail_write_address: None,
            optimised: Vec::new(),
            devices: Vec::new(),
            removal: None,
            owners: Vec::new(),
            pins: Vec::new(),
            kernel_memmap_bytes: None,
            skipped: Vec::new(),
            seconds: 0.0,
        }
    }

    #[test]
    fn anything_wrong_is_a_failure() {
        let right = Run { page: "2M".to_owned(), lookups_checked: 1, ..Run::default() };
        assert!(report(right.clone(), None).verdict().is_ok());
        assert!(report(right.clone(), Some(true)).verdict().is_ok());
        assert!(report(right.clone(), Some(false)).verdict().is_err());
        for wrong in [
            Run { lookups_wrong: 1, ..right.clone() },
            Run { descriptors_wrong: 1, ..right.clone() },
            Run { holes_wrong: 1, ..right.clone() },
            Run { references_wrong: 1, first_wrong: Some(0x200), ..right.clone() },
        ] {
            let Err(Failure::Run(message)) = report(wrong, Some(true)).verdict() else {
                panic!("it was wrong")
            };
            assert!(message.contains("1 checks of 2M pages failed"), "{message}");
        }
        let optimised = Optimised { place: "tables", page: "2M".to_owned(), ..Optimised::default() };
        let with = |one| Report { optimised: vec![one], ..report(right.clone(), None) }.verdict();
        assert!(with(optimised.clone()).is_ok());
        for wrong in [
            Optimised { descriptors_wrong: 1, ..optimised.clone() },
            Optimised { heads_wrong: 1, ..optimised.clone() },
            Optimised { bytes_wrong: 1, ..optimised.clone() },
        ] {
            let Err(Failure::Run(message)) = with(wrong) else { panic!("it was wrong") };
            assert!(message.contains("1 checks of 2M pages optimised in tables failed"), "{message}");
        }
        let device = |lookups_wrong| Device {
            place: "tables",
            page: "2M".to_owned(),
            lookups_wrong,
            ..Device::default()
        };
        let with = |one| Report { devices: vec![one], ..report(right.clone(), None) }.verdict();
        assert!(with(device(0)).is_ok());
        let Err(Failure::Run(message)) = with(device(1)) else { panic!("it was wrong") };
        assert!(message.contains("a device of 2M pages in tables"), "{message}");
        let with = |wrong| Report {
            removal: Some(Removal { wrong, ..Removal::default() }),
            ..report(right.clone(), None)
        };
        assert!(with(0).verdict().is_ok() && with(1).verdict().is_err());
    }
}
