// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that could tell that something had happened.

use std::collections::BTreeMap;

use mmkit_addr::PfnRange;
use mmkit_frame::test_util::{Contents, Snapshot, TestFrames};
use mmkit_page::MemMap;
use mmkit_vmemmap::{Behind, SectionState, Usage, Vmemmap, VmemmapEnv, VmemmapSpace};

/// The state of a memory map over a test allocator: two are equal if nothing happened in between that anybody could
/// notice. So what was verified before holds after.
#[derive(Clone, Debug, PartialEq)]
pub struct Digest {
    /// Accounting.
    usage: Usage,
    /// The allocator's balance.
    snapshot: Snapshot,
    /// The bytes of every frame that is out: descriptors, tables, bitmaps.
    contents: Contents,
    /// What stands behind each page, as the space says.
    pages: BTreeMap<u64, Behind>,
    /// Which frames are there, one for each subsection.
    present: BTreeMap<u64, (bool, bool)>,
    /// The words of descriptors as a lookup finds them: of frames around the edges of every page.
    words: BTreeMap<u64, [u64; 8]>,
    sections: BTreeMap<u64, Option<SectionState>>,
}

/// The digest of `map`, looking closely at `ranges` and the sections that they lie in.
pub fn digest<S: VmemmapSpace, E: VmemmapEnv>(
    map: &Vmemmap<S, E>,
    frames: &TestFrames,
    ranges: &[PfnRange],
) -> Digest {
    let geometry = map.geometry();
    let section = geometry.section_order();
    let (subsection, page) = (geometry.frames_per_subsection(), geometry.descriptors_per_page());
    let usage = super::balance(map, frames);
    let mut digest = Digest {
        usage,
        snapshot: frames.snapshot(),
        // SAFETY: no thread but this one has the frames.
        contents: unsafe { frames.contents() },
        pages: BTreeMap::new(),
        present: BTreeMap::new(),
        words: BTreeMap::new(),
        sections: BTreeMap::new(),
    };
    for range in ranges {
        let (first, last) = (range.start().align_down(section), range.last().unwrap_or(range.start()));
        let end = last.align_down(section).get() + section.frames();
        for number in (first.get()..end).step_by(subsection as usize) {
            let pfn = super::pfn(number);
            digest.present.insert(number, (map.is_present(pfn), map.is_covered(pfn)));
        }
        for number in (first.get()..end).step_by(section.frames() as usize) {
            digest.sections.insert(number, map.section(super::pfn(number)));
        }
        let reader = map.enter();
        for index in first.get() / page..end.div_ceil(page) {
            digest.pages.insert(index, map.space().behind(index));
            for number in [index * page, index * page + 1, (index + 1) * page - 1] {
                if let Some(view) = reader.page(super::pfn(number)) {
                    digest.words.insert(number, view.words());
                }
            }
        }
    }
    digest
}
