// SPDX-License-Identifier: MIT OR Apache-2.0
//! Get and pin user pages, by the run.
#![no_std]

mod area;
mod batch;
mod fault;
mod file;
mod hold;
mod longterm;
mod migrate;
mod pinned;
mod populate;
mod refusal;
mod release;
mod request;
mod row;
mod sink;
mod slow;
mod space;
mod span;
mod walk;

pub use area::{Area, AreaFlags, FileKind};
pub use fault::{FaultError, FaultFlags, Faulted, Interruption};
pub use file::{AllocateError, FilePins, FileRefusal, MemoryFile, pin_file};
pub use hold::hold;
pub use migrate::{Isolated, Migrate, MigrateError};
pub use pinned::Pinned;
pub use populate::populate;
pub use refusal::{Held, Refusal};
pub use release::{Dirty, Release, Released};
pub use request::{BadFlags, Flags, Request, Rule};
pub use row::{Format, LeafFlags, Row, Rows, Slot};
pub use sink::{
    BioVec, Bytes, Extent, Extents, FolioHolds, Folios, PageRef, Pages, Run, Segment, Sink, Stretch,
};
pub use space::AddressSpace;
pub use span::{BadSpan, Span};
