// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many pages a span owns, computed and counted.

use crate::common::{InSoftware, SoftMap, TestEnv, frames, map, order, place, range};
use mmkit_addr::Geometry;
use mmkit_sync::Readers;
use mmkit_vmemmap::{SpanTails, own_pages};

/// Every order and every geometry: what is computed is what a populate takes and a removal gives back.
#[test]
fn what_is_computed_is_what_is_counted() {
    for geometry in Geometry::ALL {
        let frames = frames(geometry);
        let env = TestEnv::<Readers>::new(&frames);
        let map: SoftMap<'_> = map::<InSoftware, _>(*geometry, &frames, &env);
        let (section, subsection) = (geometry.frames_per_section(), geometry.frames_per_subsection());
        let min = geometry.min_dedup_order().get();
        let mut orders = vec![0, min - 1, min, min + 1];
        orders.extend(geometry.huge_pages().iter().map(|huge| huge.order().get()));
        for o in orders.into_iter().filter(|&o| o <= geometry.max_huge_order().get()) {
            let size = 1u64 << o;
            let unit = size.max(subsection).min(section.max(geometry.descriptors_per_page()));
            let base = 4 * size.max(section);
            for span in [range(base, unit), range(base + unit, unit), range(base + unit, 3 * unit)] {
                let tails = if o == 0 { SpanTails::Own } else { SpanTails::Shared(order(o)) };
                // By the rule: a page for each head, or as many as the descriptors fill, in part or whole.
                let per_page = geometry.base_bytes() / 64;
                let pages = span.iter().step_by(per_page.min(size).max(1) as usize);
                let expected = if 64 * size / geometry.base_bytes() >= 2 {
                    pages.filter(|pfn| pfn.get() % size == 0).count() as u64
                } else {
                    let mut pages: Vec<u64> = pages.map(|pfn| pfn.get() / per_page).collect();
                    pages.dedup();
                    pages.len() as u64
                };
                assert_eq!(own_pages(geometry, span, tails), expected, "{geometry}, {o}, {span:?}");
                map.populate(span, order(o), place(0, 0)).unwrap();
                assert_eq!(map.usage().own, expected, "{geometry}, {o}, {span:?}");
                crate::common::balance(&map, &frames);
                map.remove(span).unwrap();
                assert_eq!(map.usage().own, 0, "{geometry}, {o}, {span:?}");
                crate::common::balance(&map, &frames);
            }
        }
    }
}

/// The numbers of the table of sizes: vmemmap pages that a compound keeps, of how many.
#[test]
fn known_numbers() {
    let shared = |o| SpanTails::Shared(order(o));
    for (geometry, o, pages) in [
        (Geometry::X86_64, 9, 8),
        (Geometry::X86_64, 18, 4096),
        (Geometry::ARM64_16K, 11, 8),
        (Geometry::ARM64_16K, 16, 256),
        (Geometry::ARM64_64K, 13, 8),
        (Geometry::ARM64_64K, 18, 256),
        (Geometry::PPC64_RADIX_64K, 14, 16),
        (Geometry::S390X, 8, 4),
        (Geometry::S390X, 19, 8192),
    ] {
        let compound = range(3 << o, 1 << o);
        assert_eq!(own_pages(&geometry, compound, SpanTails::Own), pages, "{geometry}");
        assert_eq!(own_pages(&geometry, compound, shared(o)), 1, "{geometry}");
        assert_eq!(own_pages(&geometry, range((3 << o) + (1 << (o - 1)), 1 << (o - 1)), shared(o)), 0);
    }
    assert_eq!(own_pages(&Geometry::X86_64, range(5, 0), SpanTails::Own), 0);
}
