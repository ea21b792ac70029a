// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device that is pulled while somebody holds pages of it.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use mmkit_addr::{Geometry, NodeId, Pfn, PfnRange};
use mmkit_devmap::{DevPagemap, Devmap, DevmapError, Kind};
use mmkit_frame::Bare;
use mmkit_host::{HostFrames, Threads};
use mmkit_page::MemMap;
use mmkit_pgtable::Software;
use mmkit_sync::Readers;
use mmkit_vmemmap::{TableSpace, Vmemmap, WithTailSlots};
use serde::Serialize;

use super::env::bundle;
use super::page::Page;
use crate::failure::Failure;

/// Huge pages of the device, and of those somebody holds.
const PAGES: u64 = 256;
const HELD: u64 = 64;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Removal {
    /// Huge pages that a thread held when the device was pulled.
    pub(super) pages_held: u64,
    /// References on the device that were counted then: it could not go.
    pub(super) references: u64,
    /// Of those pages, the ones whose descriptors the thread could still read, to the last.
    pub(super) pages_read: u64,
    /// From when it was pulled until a page of it was refused.
    pub(super) refused_us: f64,
    /// From when the last page was given back until nothing was left.
    pub(super) gone_us: f64,
    /// Frames of the device that could be looked up afterwards, and frames of memory that did not come back.
    pub(super) wrong: u64,
}

/// Adds a device, has a thread hold pages of it, and pulls it.
pub(super) fn run(geometry: &Geometry, page: &Page) -> Result<Removal, Failure> {
    let per_page = page.order.frames();
    let frames = (PAGES * per_page).next_multiple_of(geometry.frames_per_section());
    let range = PfnRange::new(Pfn::ZERO, frames).ok_or_else(|| failed("too many frames"))?;
    let memory = HostFrames::new(((frames * 64) >> geometry.base_shift()) + 4096).map_err(failed)?;
    let env = || Bare::new(bundle(&memory));
    let space = TableSpace::<Software, _>::new(env(), *geometry, NodeId::ZERO).map_err(failed)?;
    let before = memory.allocated();
    let map = Vmemmap::new(*geometry, space, WithTailSlots::<_, 1>::new(env())).map_err(failed)?;
    let devmap = Devmap::new(map, Readers::new()).map_err(failed)?;
    let pagemap = DevPagemap::builder(Kind::Generic).range(range).order(page.order).build(geometry);
    let registration = devmap.register(pagemap.map_err(failed)?, &Threads::all()).map_err(failed)?;

    let (holds, told) = (AtomicBool::new(false), AtomicBool::new(false));
    let nth = |number: u64| Pfn::new(number * per_page).unwrap_or(Pfn::MAX);
    let mut result = Removal { pages_held: HELD, ..Removal::default() };
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let folios: Vec<_> = (0..HELD).map_while(|n| devmap.take(nth(n), page.order).ok()).collect();
            // Release: pairs with the Acquire of the loop that waits for it.
            holds.store(true, Ordering::Release);
            // Acquire: pairs with the Release of who tells.
            while !told.load(Ordering::Acquire) {
                thread::yield_now();
            }
            let head = |pfn: Pfn| pfn.checked_add(per_page - 1).and_then(|last| devmap.head(last));
            folios.iter().filter(|folio| head(folio.pfn()) == Some(folio.pfn())).count() as u64
        });
        // Acquire: pairs with the Release of the reader.
        while !holds.load(Ordering::Acquire) && !reader.is_finished() {
            thread::yield_now();
        }
        let pulled = Instant::now();
        registration.kill();
        let refused = devmap.take(nth(HELD), page.order).is_err();
        result.refused_us = pulled.elapsed().as_secs_f64() * 1e6;
        let error = registration.unregister(&(), |_| ControlFlow::Break(())).err();
        // Release: pairs with the Acquire of the reader.
        told.store(true, Ordering::Release);
        result.pages_read = reader.join().map_err(|_| failed("the thread that held pages failed"))?;
        let given_back = Instant::now();
        let Some(error) = error else { return Err(failed("it went while pages of it were held")) };
        if let DevmapError::Held { held, .. } = error.error {
            result.references = held;
        }
        let again = error.registration.unregister(&(), |_| {
            thread::yield_now();
            ControlFlow::Continue(())
        });
        drop(again.map_err(|error| failed(error.error))?);
        result.gone_us = given_back.elapsed().as_secs_f64() * 1e6;
        if refused { Ok(()) } else { Err(failed("a page was handed out when it was pulled")) }
    })?;
    let found = range.iter().filter(|&pfn| devmap.head(pfn).is_some()).count() as u64;
    result.wrong = found + memory.allocated().abs_diff(before);
    Ok(result)
}

impl Removal {
    /// For humans.
    pub(super) fn shown(&self, page: &str) -> String {
        format!(
            "\npulled while a thread held {} pages of {page}: new ones refused after {:.1} us; {} references counted, {} pages read \
             to the last;\n  gone {:.0} us after the last was given back, {} wrong\n",
            self.pages_held, self.refused_us, self.references, self.pages_read, self.gone_us, self.wrong
        )
    }

    /// Whether all was as it must be.
    pub(super) fn is_right(&self) -> bool {
        self.wrong == 0 && self.pages_read == self.pages_held && self.references >= self.pages_held
    }
}

fn failed(what: impl fmt::Display) -> Failure {
    Failure::run(format_args!("device: {what}; that is a bug of mmkit, please report it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::page::pages;
    use crate::machine;

    #[test]
    fn a_device_goes_when_its_last_page_comes_back() {
        let Some(geometry) = machine::geometry() else { return };
        let sizes = pages(geometry, &[]).unwrap();
        let Some(page) = sizes.iter().find(|page| page.order >= geometry.min_dedup_order()) else { return };
        let removal = run(geometry, page).unwrap();
        assert!(removal.is_right(), "{removal:?}");
        assert!(removal.refused_us > 0.0 && removal.gone_us > 0.0, "{removal:?}");
        assert_eq!((removal.pages_held, removal.pages_read, removal.references), (HELD, HELD, HELD));
    }
}
