// SPDX-License-Identifier: MIT OR Apache-2.0
//! Geometries: widths per level, sections, names, and what `Geometry::new` refuses.

use mmkit_addr::{
    DESCRIPTOR_BYTES, Geometry, GeometryError, GeometrySpec, HugeKind, Level, Order, Pfn, PhysAddr, VirtAddr,
};

const GOOD: GeometrySpec = GeometrySpec {
    name: "test",
    aliases: &[],
    base_shift: 12,
    index_bits: &[9, 9, 9],
    huge_pages: &[],
    section_shift: 27,
    physical_bits: 46,
};
const LEVEL_1: Level = Level::new(1).unwrap();
const LEVEL_3: Level = Level::new(3).unwrap();

#[test]
fn widths_per_level() {
    // (entries, table bytes, log2 of the span of an entry), from the leaf up
    let shapes = |geometry: Geometry| -> Vec<_> {
        geometry
            .levels()
            .iter()
            .map(|table| (table.entries(), table.table_bytes(), table.entry_span().ilog2()))
            .collect()
    };
    let nine = |shift| (512, 4096, shift);
    assert_eq!(shapes(Geometry::X86_64), [nine(12), nine(21), nine(30), nine(39)]);
    assert_eq!(shapes(Geometry::X86_64_LA57), [nine(12), nine(21), nine(30), nine(39), nine(48)]);
    assert_eq!(shapes(Geometry::ARM64_4K), [nine(12), nine(21), nine(30), nine(39)]);
    let eleven = |shift| (2048, 16_384, shift);
    assert_eq!(shapes(Geometry::ARM64_16K), [eleven(14), eleven(25), eleven(36), (2, 16, 47)]);
    let thirteen = |shift| (8192, 65_536, shift);
    assert_eq!(shapes(Geometry::ARM64_64K), [thirteen(16), thirteen(29), (64, 512, 42)]);
    assert_eq!(shapes(Geometry::RISCV64_SV39), [nine(12), nine(21), nine(30)]);
    assert_eq!(shapes(Geometry::RISCV64_SV48), [nine(12), nine(21), nine(30), nine(39)]);
    assert_eq!(shapes(Geometry::PPC64_RADIX_4K), [nine(12), nine(21), nine(30), thirteen(39)]);
    assert_eq!(shapes(Geometry::PPC64_RADIX_64K), [(32, 256, 16), nine(21), nine(30), thirteen(39)]);
    assert_eq!(shapes(Geometry::PPC64_HASH_64K), []);
    assert_eq!(shapes(Geometry::LOONGARCH64_4K), [nine(12), nine(21), nine(30), nine(39)]);
    assert_eq!(shapes(Geometry::LOONGARCH64_16K), [eleven(14), eleven(25), eleven(36)]);
    assert_eq!(shapes(Geometry::LOONGARCH64_64K), [thirteen(16), thirteen(29), thirteen(42)]);
    assert_eq!(shapes(Geometry::S390X), [(256, 2048, 12), eleven(20), eleven(31), eleven(42)]);
}

#[test]
fn virtual_bits_are_the_sum_of_the_levels() {
    let bits: Vec<_> = Geometry::ALL.iter().map(Geometry::virtual_bits).collect();
    let expected = [48, 57, 48, 48, 48, 39, 48, 52, 52, 0, 48, 47, 55, 53];
    assert_eq!(bits, expected.map(|bits| if bits == 0 { None } else { Some(bits) }));
}

#[test]
fn sections() {
    // (log2 bytes of a section, frames in it, subsections in it, frames in a subsection)
    let expected = [
        (27, 32_768, 64, 512),
        (27, 32_768, 64, 512),
        (27, 32_768, 64, 512),
        (27, 8192, 64, 128),
        (29, 8192, 256, 32),
        (27, 32_768, 64, 512),
        (27, 32_768, 64, 512),
        (24, 4096, 8, 512),
        (24, 256, 8, 32),
        (24, 256, 8, 32),
        (29, 131_072, 256, 512),
        (29, 32_768, 256, 128),
        (29, 8192, 256, 32),
        (28, 65_536, 128, 512),
    ];
    assert_eq!(expected.len(), Geometry::ALL.len());
    for (geometry, (shift, frames, subsections, subsection_frames)) in Geometry::ALL.iter().zip(expected) {
        assert_eq!(geometry.section_shift(), shift, "{geometry}");
        assert_eq!(geometry.frames_per_section(), frames, "{geometry}");
        assert_eq!(geometry.subsections_per_section(), subsections, "{geometry}");
        assert_eq!(geometry.frames_per_subsection(), subsection_frames, "{geometry}");
        assert_eq!(
            geometry.frames_per_section() * geometry.base_bytes(),
            geometry.section_bytes(),
            "{geometry}"
        );
        assert_eq!(geometry.max_sections() * frames, geometry.max_frames(), "{geometry}");
    }
}

#[test]
fn an_x86_64_section_is_one_last_level_table_of_vmemmap() {
    let geometry = Geometry::X86_64;
    assert_eq!(geometry.section_vmemmap_bytes(), 2 << 20);
    assert_eq!(
        Some(geometry.section_vmemmap_bytes()),
        geometry.last_table().and_then(|table| table.table_span())
    );
    assert_eq!(geometry.subsection_vmemmap_bytes(), 8 * geometry.base_bytes());
    // Less than a page with larger base pages: half and 1/32 of one.
    assert_eq!(Geometry::ARM64_16K.subsection_vmemmap_bytes() * 2, Geometry::ARM64_16K.base_bytes());
    assert_eq!(Geometry::ARM64_64K.subsection_vmemmap_bytes() * 32, Geometry::ARM64_64K.base_bytes());
}

#[test]
fn descriptors_in_a_page() {
    for (geometry, descriptors) in
        [(Geometry::X86_64, 64), (Geometry::ARM64_16K, 256), (Geometry::ARM64_64K, 1024)]
    {
        assert_eq!(geometry.descriptors_per_page(), descriptors);
        assert_eq!(geometry.vmemmap_page_order().frames(), descriptors);
        let pfn = Pfn::new(3 * descriptors + 5).expect("in range");
        assert_eq!(geometry.vmemmap_page(pfn), 3);
        assert_eq!(geometry.vmemmap_offset(pfn), (3 * descriptors + 5) * DESCRIPTOR_BYTES);
    }
    assert_eq!(Geometry::X86_64.vmemmap_offset(Pfn::MAX), ((1 << 52) - 1) * 64);
}

#[test]
fn section_and_subsection_of_a_frame() {
    let pfn = Pfn::new(5 * 32_768 + 3 * 512 + 511).expect("in range");
    assert_eq!(Geometry::X86_64.section_of(pfn), 5);
    assert_eq!(Geometry::X86_64.subsection_of(pfn), 3);
}

#[test]
fn names_find_their_geometry() {
    for geometry in Geometry::ALL {
        assert_eq!(Geometry::by_name(geometry.name()), Some(geometry));
        assert_eq!(Geometry::by_name(&geometry.name().to_uppercase()), Some(geometry));
        for alias in geometry.aliases() {
            assert_eq!(Geometry::by_name(alias), Some(geometry), "{alias}");
        }
    }
    assert_eq!(Geometry::by_name("x86_64"), Some(&Geometry::X86_64));
    assert_eq!(Geometry::by_name("aarch64"), Some(&Geometry::ARM64_4K));
    assert_eq!(Geometry::by_name("x86"), None);
    assert_eq!(Geometry::by_name(""), None);
}

#[test]
fn leaf_levels() {
    let leaf = |geometry: Geometry, order| geometry.leaf_level(Order::new(order).expect("in range"));
    assert_eq!(leaf(Geometry::X86_64, 0), Some(Level::LAST));
    assert_eq!(leaf(Geometry::X86_64, 9), Some(LEVEL_1));
    assert_eq!(leaf(Geometry::X86_64, 18), LEVEL_1.up());
    assert_eq!(leaf(Geometry::X86_64, 27), None);
    assert_eq!(leaf(Geometry::X86_64, 10), None);
    // A run of entries is not a leaf.
    assert_eq!(leaf(Geometry::ARM64_4K, 4), None);
    assert_eq!(leaf(Geometry::PPC64_HASH_64K, 0), None);
    assert_eq!(leaf(Geometry::S390X, 8), Some(LEVEL_1));
}

#[test]
fn entry_numbers() {
    let addr = VirtAddr::new(0xffff_ea00_1234_5678);
    let indices: Vec<_> = Geometry::X86_64.levels().iter().map(|table| table.index_of(addr)).collect();
    assert_eq!(indices, [0x145, 0x91, 0, 0x1d4]);
    assert_eq!(Geometry::S390X.last_table().map(|table| table.index_of(addr)), Some(0x45));
}

#[test]
fn conversions_stop_at_physical_memory() {
    let geometry = Geometry::ARM64_64K;
    let last = PhysAddr::new((1 << 48) - 1).expect("in range");
    let pfn = geometry.pfn(last).expect("memory");
    assert_eq!(pfn.get(), (1 << 32) - 1);
    assert_eq!(geometry.phys(pfn), Some(last.align_down(16)));
    assert_eq!(geometry.pfn(last.checked_add(1).expect("in range")), None);
    assert_eq!(geometry.phys(pfn.checked_add(1).expect("in range")), None);
    for geometry in Geometry::ALL {
        assert!(geometry.max_frames() <= Pfn::MAX.get() + 1, "{geometry}");
        let largest = geometry.physical_bits() - geometry.base_shift();
        let order = Order::new(largest as u8).expect("in range");
        assert_eq!(
            geometry.compound(order).map(|compound| compound.bytes()),
            1u64.checked_shl(geometry.physical_bits())
        );
        assert_eq!(order.checked_add(1).and_then(|above| geometry.compound(above)), None, "{geometry}");
    }
}

#[test]
fn contradictions_are_refused() {
    let err = |spec| Geometry::new(spec).expect_err("refused");
    assert!(Geometry::new(GOOD).is_ok());
    assert_eq!(err(GeometrySpec { base_shift: 9, ..GOOD }), GeometryError::BaseShift { base_shift: 9 });
    assert_eq!(err(GeometrySpec { base_shift: 21, ..GOOD }), GeometryError::BaseShift { base_shift: 21 });
    assert_eq!(err(GeometrySpec { index_bits: &[1; 7], ..GOOD }), GeometryError::TooManyLevels { levels: 7 });
    assert_eq!(
        err(GeometrySpec { index_bits: &[9, 0], ..GOOD }),
        GeometryError::IndexBits { level: 1, index_bits: 0 }
    );
    assert_eq!(
        err(GeometrySpec { index_bits: &[255], ..GOOD }),
        GeometryError::IndexBits { level: 0, index_bits: 255 }
    );
    assert_eq!(
        err(GeometrySpec { index_bits: &[16, 16, 16, 5], ..GOOD }),
        GeometryError::VirtualBits { bits: 65 }
    );
    for physical_bits in [0, 12, 64, 255] {
        assert_eq!(
            err(GeometrySpec { physical_bits, ..GOOD }),
            GeometryError::PhysicalBits { physical_bits },
            "{physical_bits}"
        );
    }
    // 53 bits of frame number.
    assert_eq!(
        err(GeometrySpec { base_shift: 10, physical_bits: 63, ..GOOD }),
        GeometryError::PhysicalBits { physical_bits: 63 }
    );
    for section_shift in [0, 20, 46, 255] {
        assert_eq!(
            err(GeometrySpec { section_shift, ..GOOD }),
            GeometryError::SectionShift { section_shift },
            "{section_shift}"
        );
    }
    let seven = &[(13, HugeKind::Contiguous(Level::LAST)); 7];
    assert_eq!(
        err(GeometrySpec { huge_pages: seven, ..GOOD }),
        GeometryError::TooManyHugePages { huge_pages: 7 }
    );
    let wrong: [&'static [(u8, HugeKind)]; 9] = [
        &[(20, HugeKind::Leaf(LEVEL_1))],
        &[(12, HugeKind::Leaf(Level::LAST))],
        &[(39, HugeKind::Leaf(LEVEL_3))],
        &[(21, HugeKind::Contiguous(Level::LAST))],
        &[(12, HugeKind::Contiguous(Level::LAST))],
        &[(21, HugeKind::Contiguous(LEVEL_1))],
        &[(24, HugeKind::Hash)],
        &[(46, HugeKind::Leaf(LEVEL_1))],
        &[(255, HugeKind::Hash)],
    ];
    for huge_pages in wrong {
        let shift = huge_pages[0].0;
        assert_eq!(
            err(GeometrySpec { huge_pages, ..GOOD }),
            GeometryError::HugePage { shift },
            "{huge_pages:?}"
        );
    }
    let falling = &[(21, HugeKind::Leaf(LEVEL_1)), (16, HugeKind::Contiguous(Level::LAST))];
    assert_eq!(err(GeometrySpec { huge_pages: falling, ..GOOD }), GeometryError::HugePage { shift: 16 });
}

#[test]
fn errors_name_their_numbers() {
    let text = |spec| Geometry::new(spec).expect_err("refused").to_string();
    assert_eq!(
        text(GeometrySpec { base_shift: 9, ..GOOD }),
        "base pages of 2^9 bytes are not in 2^10..=2^20"
    );
    assert!(text(GeometrySpec { index_bits: &[9, 17], ..GOOD }).contains("level 1 has 17"));
    assert!(text(GeometrySpec { section_shift: 20, ..GOOD }).contains("2^20"));
}
