// SPDX-License-Identifier: MIT OR Apache-2.0
//! A stray write to a shared tail is a fault: shown in a child process, which dies of it.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_host::{HostFrames, HostSpace, MappingBudget, mapping_budget};
use mmkit_page::{MemMap, PageFlags, Place};
use mmkit_vmemmap::Vmemmap;
use rustix::process::{Resource, Rlimit, Signal, setrlimit};

use super::Context;
use super::args::TAIL_WRITE;
use super::env::env;
use super::report::Report;
use crate::failure::Failure;
use crate::machine;
use crate::output::print;

/// The part `tail-write`.
pub(super) fn run(context: &Context, report: &mut Report) -> Result<(), Failure> {
    // Without /proc the program does not know its file, but how it was called.
    let this = std::env::current_exe().ok().or_else(|| std::env::args_os().next().map(PathBuf::from));
    let child = Command::new(this.unwrap_or_default()).arg(TAIL_WRITE).stdin(Stdio::null()).output();
    let child = match child {
        Ok(child) => child,
        Err(error) => {
            report
                .skipped
                .push(format!("a child process cannot be started ({error}): nobody writes to a tail"));
            return Ok(());
        }
    };
    let said = String::from_utf8_lossy(&child.stdout);
    let address = said.trim().strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let faulted = address.is_some() && child.status.signal() == Some(Signal::SEGV.as_raw());
    report.tail_write_faulted = Some(faulted);
    report.tail_write_address = address;
    context.say(&match address {
        Some(address) if faulted => format!(
            "\ntail write: a child read a shared tail at {address:#x}, wrote to it, and was killed by SIGSEGV\n"
        ),
        _ => format!(
            "\ntail write: NOT KILLED BY SIGSEGV: {}; it said {:?} and {:?}\n",
            child.status,
            said.trim(),
            String::from_utf8_lossy(&child.stderr).trim(),
        ),
    })
}

/// The child: says the address of a shared tail, and writes there.
///
/// Before, it writes to the head of the same compound, in the way that is meant, and reads the tail: what kills it is
/// not that nothing is mapped.
pub(crate) fn child() -> Result<(), Failure> {
    // The death is wanted; nobody wants the core. Where the limit cannot be set, there may be one.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });

    let geometry = machine::geometry_or_default();
    let order = geometry
        .huge_pages()
        .iter()
        .map(|huge| huge.order())
        .find(|&order| order >= geometry.min_dedup_order());
    let order = order.ok_or_else(|| Failure::run("no huge page of this machine shares its tails"))?;
    let range = PfnRange::block(Pfn::ZERO, order.max(geometry.subsection_order()));
    let budget = mapping_budget().unwrap_or(MappingBudget { limit: 1024, others: 0 });
    let frames = HostFrames::new(1024).map_err(Failure::run)?;
    let space = HostSpace::new(&frames, range.end(), Order::ZERO, budget).map_err(Failure::run)?;
    let map = Vmemmap::new(*geometry, space, env(&frames)).map_err(Failure::run)?;
    map.populate(range, order, Place::default()).map_err(Failure::run)?;

    let folio = map.claim(Pfn::ZERO).map_err(Failure::run)?.allocate().into_folio();
    folio.insert(PageFlags::DIRTY);
    let tail = Pfn::new(order.frames() - 1).unwrap_or(Pfn::ZERO);
    let reader = map.enter();
    let words = reader.page(tail).map(|page| page.words());
    // SAFETY: inside the reader.
    let address = unsafe { map.descriptor(tail) };
    let (Some([word, ..]), Some(address)) = (words, address) else {
        return Err(Failure::run(format_args!("{tail:?} has no descriptor")));
    };
    print(&format!("{:#x}\n", address.as_ptr().addr()))?;
    // SAFETY: the descriptor is mapped and aligned, and no other thread is there. It is read-only, so the process ends
    // here; were it not, the same bits that are there would be written, and the parent would report it.
    unsafe { address.cast::<u64>().write_volatile(word) };
    Err(Failure::run("the write went through"))
}
