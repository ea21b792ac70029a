// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device whose memory gets descriptors: when its first byte can be used, and when its last.

use std::fmt;
use std::time::Instant;

use mmkit_addr::{Geometry, NodeId, Order, Pfn, PfnRange};
use mmkit_frame::Bare;
use mmkit_host::{HostFrames, HostSpace, Threads, mapping_budget, memory_budget, tail_frames_order};
use mmkit_page::MemMap;
use mmkit_pgtable::Software;
use mmkit_vmemmap::{
    Executor, Populate, Serial, SpanTails, Staged, TableSpace, Vmemmap, VmemmapSpace, own_pages,
};
use serde::Serialize;

use super::Context;
use super::check::Tally;
use super::env::{DemoEnv, bundle, env};
use super::page::{Page, pages};
use super::removal;
use super::report::Report;
use crate::failure::Failure;
use crate::output::table;
use crate::size::{Size, exact, rough};

/// The device that is built where nothing else is said.
const BYTES: u64 = 1 << 40;
/// Frames between those whose heads are looked up: no multiple of anything.
const STRIDE: usize = 4099;

/// A device in one place, used as pages of one size.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Device {
    /// `mappings` for real ones of this process, `tables` for software tables.
    pub(super) place: &'static str,
    /// `2M`, ..
    pub(super) page: String,
    pub(super) device_bytes: u64,
    /// In so many parts.
    pub(super) parts: u64,
    /// Until a block of the first part had been handed out.
    pub(super) first_use_seconds: f64,
    /// Until all of it could be used: on one thread, from the first part on.
    pub(super) one_thread_seconds: f64,
    /// And on all.
    pub(super) all_threads_seconds: f64,
    pub(super) threads: usize,
    /// Of that, to take frames and map them, under the lock for a part at a time.
    pub(super) reserve_seconds: f64,
    /// What was taken for it: descriptors, tables and the table of sections.
    pub(super) metadata_bytes: u64,
    /// Memory behind that, as the operating system counts it.
    pub(super) resident_bytes: u64,
    pub(super) lookups_checked: u64,
    pub(super) lookups_wrong: u64,
    /// The first frame that was not found as it must be.
    pub(super) first_wrong: Option<u64>,
}

/// The part `device`.
pub(super) fn run(context: &Context, report: &mut Report) -> Result<(), Failure> {
    let geometry = context.geometry;
    let sizes = pages(geometry, &[])?;
    let huge = || sizes.iter().filter(|page| page.order >= geometry.min_dedup_order());
    let (Some(small), Some(large)) =
        (huge().min_by_key(|page| page.order), huge().max_by_key(|page| page.order))
    else {
        report.skipped.push(format!("device: {geometry} has no huge pages that share descriptors"));
        return Ok(());
    };
    let asked = context.device.map_or(BYTES, |size| size.0);
    for (page, place) in [(small, Place::Tables), (large, Place::Mappings)] {
        match Work::new(geometry, page, place, asked)? {
            Ok(work) => {
                if work.bytes() < asked {
                    report.skipped.push(format!(
                        "device: {} as {} pages needs more memory than may be used (half of what is available); {} \
                         instead",
                        rough(asked),
                        page.name,
                        exact(work.bytes()),
                    ));
                }
                report.devices.push(work.run()?);
            }
            Err(why) => report.skipped.push(format!("device: {why}")),
        }
    }
    context.say(&shown(&report.devices))?;
    let removal = removal::run(geometry, small)?;
    report.removal = Some(removal);
    context.say(&removal.shown(&small.name))
}

/// Where the descriptors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Tables,
    Mappings,
}

/// What is to be done.
struct Work<'a> {
    geometry: &'a Geometry,
    page: &'a Page,
    place: Place,
    range: PfnRange,
    /// Frames for descriptors and tables, at most.
    room: u64,
}

impl<'a> Work<'a> {
    /// As much of `asked` bytes as there is memory for, by halves; or why not even a page.
    fn new(
        geometry: &'a Geometry,
        page: &'a Page,
        place: Place,
        asked: u64,
    ) -> Result<Result<Self, String>, Failure> {
        let budget = match memory_budget() {
            Ok(budget) => budget,
            Err(error) => return Ok(Err(error.to_string())),
        };
        // Whole pages, and whole sections.
        let unit = page.order.max(geometry.section_order()).frames();
        let mut frames = (asked >> geometry.base_shift()) / unit * unit;
        while frames > 0 {
            let range = PfnRange::new(Pfn::ZERO, frames).ok_or_else(|| failed("too many frames"))?;
            let room = Self::room(geometry, page.order, range);
            if room << geometry.base_shift() <= budget {
                return Ok(Ok(Self { geometry, page, place, range, room }));
            }
            frames = frames / 2 / unit * unit;
        }
        Ok(Err(format!(
            "{} as {} pages is less than one section, or needs more memory than may be used",
            rough(asked),
            page.name
        )))
    }

    /// One page for each compound, an entry for each page of descriptors, a run of tails, and some.
    fn room(geometry: &Geometry, order: Order, range: PfnRange) -> u64 {
        let entries = own_pages(geometry, range, SpanTails::Own) * 8;
        own_pages(geometry, range, SpanTails::Shared(order)) + (entries >> geometry.base_shift()) + 8192
    }

    fn bytes(&self) -> u64 {
        self.range.frames() << self.geometry.base_shift()
    }

    fn run(&self) -> Result<Device, Failure> {
        let mut device = Device {
            page: self.page.name.clone(),
            device_bytes: self.bytes(),
            threads: Threads::all().count(),
            ..Device::default()
        };
        for threads in [Threads::new(1), Threads::all()] {
            let frames = HostFrames::new(self.room).map_err(failed)?;
            match self.place {
                Place::Tables => {
                    let tables = Bare::new(bundle(&frames));
                    let space = TableSpace::<Software, _>::new(tables, *self.geometry, NodeId::ZERO);
                    self.add(space.map_err(failed)?, &frames, threads, &mut device)?;
                }
                Place::Mappings => {
                    let budget = mapping_budget().map_err(failed)?;
                    let compound =
                        self.geometry.compound(self.page.order).ok_or_else(|| failed("no compound"))?;
                    let compounds = self.range.frames() >> self.page.order.get();
                    let Some(tails) = tail_frames_order(compound, compounds, budget.mappings()) else {
                        return Err(Failure::run(format_args!(
                            "a device of {} as {} pages needs more mappings than vm.max_map_count = {} allows; give less \
                             --device",
                            exact(self.bytes()),
                            self.page.name,
                            budget.limit
                        )));
                    };
                    let space =
                        HostSpace::new(&frames, self.range.frames(), tails, budget).map_err(failed)?;
                    self.add(space, &frames, threads, &mut device)?;
                }
            }
            if frames.allocated() > 0 || frames.bad_frees() > 0 {
                return Err(failed("frames are out when the device is gone"));
            }
        }
        device.place = if self.place == Place::Tables { "tables" } else { "mappings" };
        Ok(device)
    }

    /// Adds the device to an empty memory map, looks at it, and takes it away.
    fn add<S: VmemmapSpace + Sync>(
        &self,
        space: S,
        frames: &HostFrames,
        threads: Threads,
        device: &mut Device,
    ) -> Result<(), Failure> {
        let map = Vmemmap::new(*self.geometry, space, env(frames)).map_err(failed)?;
        let begun = Instant::now();
        let staged = map.stage(Populate::new(self.range).compounds(self.page.order)).map_err(failed)?;
        let reserved = begun.elapsed();
        if threads.count() == 1 {
            let staged = staged.deferred();
            first_use(&map, &staged)?;
            device.first_use_seconds = begun.elapsed().as_secs_f64();
            device.parts = staged.progress().parts;
            finish(staged, &Serial);
            device.one_thread_seconds = begun.elapsed().as_secs_f64();
        } else {
            finish(staged, &threads);
        }
        if threads == Threads::all() {
            device.all_threads_seconds = begun.elapsed().as_secs_f64();
            device.reserve_seconds = reserved.as_secs_f64();
            device.metadata_bytes = map.usage().total() << self.geometry.base_shift();
            device.resident_bytes = frames.resident_bytes();
        }
        let mut tally = Tally::default();
        for pfn in self.range.iter().step_by(STRIDE).chain(self.range.last()) {
            tally.note(pfn, map.head(pfn) == Some(pfn.align_down(self.page.order)));
        }
        device.lookups_checked += tally.checked;
        device.lookups_wrong += tally.wrong;
        device.first_wrong = device.first_wrong.or(tally.first.map(Pfn::get));
        Ok(())
    }
}

/// Writes and shows the first part, and hands a block of it out.
fn first_use<S: VmemmapSpace>(
    map: &Vmemmap<S, DemoEnv>,
    staged: &Staged<'_, S, DemoEnv>,
) -> Result<(), Failure> {
    let part = staged.step().ok_or_else(|| failed("there is no first part"))?;
    let folio = map.claim(part.start()).map_err(failed)?.allocate().into_folio();
    drop(folio);
    Ok(())
}

fn finish<S: VmemmapSpace + Sync>(staged: Staged<'_, S, DemoEnv>, executor: &impl Executor) {
    staged.write(executor);
    staged.publish();
}

fn failed(what: impl fmt::Display) -> Failure {
    Failure::run(format_args!("device: {what}; that is a bug of mmkit, please report it"))
}

fn shown(devices: &[Device]) -> String {
    if devices.is_empty() {
        return String::new();
    }
    let row = |name: &str, show: &dyn Fn(&Device) -> String| {
        std::iter::once(name.to_owned()).chain(devices.iter().map(show)).collect::<Vec<_>>()
    };
    let ms = |seconds: f64| format!("{:.3} ms", seconds * 1e3);
    let threads = devices.first().map_or(1, |device| device.threads);
    let rows = vec![
        row("in", &|device| match device.place {
            "tables" => "software tables".to_owned(),
            _ => "this process's mappings".to_owned(),
        }),
        row("memory of the device", &|device| rough(device.device_bytes)),
        row("first byte usable after", &|device| ms(device.first_use_seconds)),
        row("all of it, on one thread (*)", &|device| ms(device.one_thread_seconds)),
        row(&format!("all of it, on {threads} (*)"), &|device| ms(device.all_threads_seconds)),
        row("  taking and mapping frames", &|device| ms(device.reserve_seconds)),
        row("descriptors and tables", &|device| rough(device.metadata_bytes)),
        row("resident, says the OS", &|device| rough(device.resident_bytes)),
        row("heads looked up", &|device| device.lookups_checked.to_string()),
        row("wrong", &|device| device.lookups_wrong.to_string()),
    ];
    let head = std::iter::once("a device of").chain(devices.iter().map(|device| device.page.as_str()));
    let note =
        "(*) most of which the system takes to give this process memory that it touches for the first time\n";
    format!("\n{}{note}", table(head, rows, 1))
}

/// The device that is asked for, or as much as there is memory elsewhere where only that is given.
pub(super) fn size(asked: Option<Size>, memory: Option<Size>) -> Option<Size> {
    asked.or(memory.map(|memory| Size(memory.0.min(BYTES))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine;

    #[test]
    fn a_device_is_added_and_gone_again() {
        let Some(geometry) = machine::geometry() else { return };
        for page in pages(geometry, &[]).unwrap() {
            if page.order < geometry.min_dedup_order() {
                continue;
            }
            for place in [Place::Tables, Place::Mappings] {
                let asked = 8 * page.bytes.max(geometry.frames_per_section() << geometry.base_shift());
                let work = Work::new(geometry, &page, place, asked).unwrap().unwrap();
                assert_eq!(work.bytes(), asked);
                let device = work.run().unwrap();
                assert_eq!(
                    (device.lookups_wrong, device.first_wrong, device.parts),
                    (0, None, 8),
                    "{device:?}"
                );
                assert!(device.first_use_seconds <= device.one_thread_seconds);
                assert!(device.metadata_bytes > 0 && device.resident_bytes >= device.metadata_bytes / 2);
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_halved_or_refused() {
        let Some(geometry) = machine::geometry() else { return };
        let page = pages(geometry, &[]).unwrap().pop().unwrap();
        let huge = Work::new(geometry, &page, Place::Tables, 1 << 50).unwrap();
        assert!(huge.is_ok_and(|work| work.bytes() <= 1 << 50));
        let tiny = Work::new(geometry, &page, Place::Tables, geometry.base_bytes()).unwrap();
        assert!(tiny.is_err_and(|why| why.contains("less than one section")));
    }
}
