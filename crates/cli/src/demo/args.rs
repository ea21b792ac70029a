// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line of `mmkit demo`.

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser};

use super::PARTS;
use super::page::PageArg;
use crate::size::Size;

/// The command that the demo starts in a child process.
pub(crate) const TAIL_WRITE: &str = "tail-write-child";

/// Build the descriptors of this machine's memory in this process, and check every byte of them.
///
/// For each page size: plans what fits; builds it out of real memory, with tails that the processor finds in one shared
/// place; reads all 64 bytes of every descriptor; looks up the head of every frame; takes and drops a reference on every
/// block; tears all down. Then a child process writes to a shared tail, and is killed by SIGSEGV. Then huge pages are
/// optimised and restored, and every byte of their descriptors is compared. A device of 1 TiB is added: when can its first
/// byte be used, and when its last? Another one is pulled while pages of it are held. 1 GiB of memory is pinned in three
/// shapes. It ends with what the running kernel spends on its own descriptors.
///
/// Resident bytes are those that the operating system reports. It needs no privilege, takes less than a minute, and
/// says what it had to skip.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How much memory to build for, from address 0 on; without it the memory of this machine, holes and all.
    ///
    /// What is asked for is built for real, or it is an error. Without --memory, what does not fit goes to software
    /// tables or is only counted, and the output says so.
    #[arg(long, value_name = "SIZE")]
    pub(super) memory: Option<Size>,

    /// The size of the pages that it is used as: base, 2M or 1G (on x86-64); may be repeated. All of these if not given.
    ///
    /// Edges that such a page does not fit are used as smaller ones.
    #[arg(long = "page", value_name = "SIZE")]
    pub(super) pages: Vec<PageArg>,

    /// How much memory the device has that is added: 1T if not given, or no more than --memory. What does not fit is halved
    /// until it does, and the output says so.
    #[arg(long, value_name = "SIZE")]
    pub(super) device: Option<Size>,

    /// Do this part only; may be repeated.
    #[arg(long, value_name = "PART", value_parser = parts())]
    pub(super) only: Vec<String>,

    /// Print one JSON object; sizes are in bytes.
    #[arg(long)]
    pub(super) json: bool,
}

/// The names of the demo's parts.
fn parts() -> PossibleValuesParser {
    let parts = PARTS.iter().map(|part| PossibleValue::new(part.name).help(part.about));
    PossibleValuesParser::new(parts)
}
