// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page tables that no processor walks.

use mmkit_addr::{Geometry, NodeId};
use mmkit_frame::Bare;
use mmkit_frame::test_util::TestFrames;
use mmkit_pgtable::X86_64;
use mmkit_vmemmap::TableSpace;

use super::Fixture;

/// Pages in tables of x86-64's entry format.
pub struct InTables;

impl Fixture for InTables {
    type Space<'a> = TableSpace<X86_64, Bare<&'a TestFrames, &'a TestFrames>>;
    const TABLES: bool = true;

    fn space(frames: &TestFrames, geometry: Geometry) -> Self::Space<'_> {
        TableSpace::new(Bare::new(frames.frames()), geometry, NodeId::ZERO).unwrap()
    }
}
