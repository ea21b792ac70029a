// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbered scenarios that are arithmetic alone.

use mmkit_addr::{Compound, Geometry, Keep, Order, Pfn, Scheme};

fn compound(geometry: Geometry, bytes: u64) -> Compound {
    let order = geometry.order_of_bytes(bytes).expect("whole pages");
    geometry.compound(order).expect("fits")
}

/// 2M compounds in one 128M section: keep-1 leaves 64 private pages (and one shared), keep-2 would leave 128.
#[test]
fn scenario_08_keep_two() {
    let geometry = Geometry::X86_64;
    let huge = compound(geometry, 2 << 20);
    let compounds = geometry.section_bytes() / huge.bytes();
    assert_eq!(compounds, 64);
    let pages =
        |scheme| huge.resident(scheme, compounds).expect("applies").data_bytes / geometry.base_bytes();
    assert_eq!(pages(Scheme::KeepOne), 64);
    assert_eq!(pages(Scheme::KeepTwo), 128);
    assert_eq!(huge.shared_once(Scheme::KeepOne).expect("applies").data_bytes, geometry.base_bytes());
    assert_eq!(huge.shared_once(Scheme::KeepTwo).expect("applies").data_bytes, 0);

    // Of each compound's eight pages, which are its own: by the frames whose descriptors they hold.
    let first = Pfn::new(7 * geometry.frames_per_section()).expect("in range");
    for index in 0..512 {
        let pfn = first.checked_add(index).expect("in range");
        let page = huge.vmemmap_page(pfn).expect("whole pages");
        assert_eq!(page, index / 64);
        assert_eq!(huge.is_kept(pfn, Keep::One), Some(page == 0));
        assert_eq!(huge.is_kept(pfn, Keep::Two), Some(page <= 1));
        assert_eq!(huge.head(pfn), first);
        assert_eq!(huge.is_head(pfn), index == 0);
    }
}

/// Exactly the smallest order: two pages, keep-1 saves one; the rule v > 2, which keep-2 needs, saves nothing.
#[test]
fn scenario_18() {
    for (geometry, order, bytes) in [
        (Geometry::X86_64, 7, 512 << 10),
        (Geometry::ARM64_16K, 9, 8 << 20),
        (Geometry::ARM64_64K, 11, 128 << 20),
        (Geometry::S390X, 7, 512 << 10),
    ] {
        let min = geometry.min_dedup_order();
        assert_eq!(Some(min), Order::new(order), "{geometry}");
        let at = geometry.compound(min).expect("fits");
        assert_eq!(at.bytes(), bytes, "{geometry}");
        assert_eq!(at.vmemmap_pages(), Some(2), "{geometry}");
        assert!(at.is_optimisable(), "{geometry}");
        assert_eq!(at.saved_pages(Keep::One), Some(1), "{geometry}");
        assert_eq!(at.saved_pages(Keep::Two), None, "{geometry}");
        assert_eq!(at.resident(Scheme::KeepTwo, 1), None, "{geometry}");

        let below = geometry.compound(min.checked_sub(1).expect("above 0")).expect("fits");
        assert_eq!(below.vmemmap_pages(), Some(1), "{geometry}");
        assert_eq!(below.per_vmemmap_page(), Some(1), "{geometry}");
        assert!(!below.is_optimisable(), "{geometry}");

        let above = geometry.compound(min.checked_add(1).expect("in range")).expect("fits");
        assert_eq!(above.saved_pages(Keep::One), Some(3), "{geometry}");
        assert_eq!(above.saved_pages(Keep::Two), Some(2), "{geometry}");
    }
}

/// 16K and 64K base pages: run sizes below a vmemmap page save nothing, the others do.
#[test]
fn scenario_19() {
    let small = compound(Geometry::ARM64_16K, 2 << 20);
    assert_eq!(Some(small.order()), Order::new(7));
    assert_eq!((small.vmemmap_pages(), small.per_vmemmap_page()), (None, Some(2)));
    assert!(!small.is_optimisable());
    for scheme in Scheme::ALL {
        assert_eq!(small.resident(*scheme, 2).is_some(), scheme.keep().is_none(), "{scheme}");
    }
    let pfn = Pfn::new(127).expect("in range");
    assert_eq!(small.is_kept(pfn, Keep::One), None);
    assert_eq!(small.vmemmap_page(pfn), None);

    assert_eq!(compound(Geometry::ARM64_16K, 32 << 20).saved_pages(Keep::One), Some(7));
    assert_eq!(compound(Geometry::ARM64_64K, 512 << 20).saved_pages(Keep::One), Some(7));
    assert_eq!(compound(Geometry::ARM64_64K, 16 << 30).saved_pages(Keep::One), Some(255));
}
