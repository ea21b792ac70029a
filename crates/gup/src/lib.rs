// SPDX-License-Identifier: MIT OR Apache-2.0
//! Get and pin user pages, by the run.
#![no_std]

mod area;
mod fault;
mod migrate;
mod refusal;
mod request;
mod row;
mod sink;
mod space;
mod span;

pub use area::{Area, AreaFlags, FileKind};
pub use fault::{FaultError, FaultFlags, Faulted, Interruption};
pub use migrate::{Isolated, Migrate, MigrateError};
pub use refusal::{Held, Refusal};
pub use request::{BadFlags, Flags, Request, Rule};
pub use row::{Format, LeafFlags, Row, Rows, Slot};
pub use sink::{
    BioVec, Bytes, Extent, Extents, FolioHolds, Folios, PageRef, Pages, Run, Segment, Sink, Stretch,
};
pub use space::AddressSpace;
pub use span::{BadSpan, Span};
