// SPDX-License-Identifier: MIT OR Apache-2.0
//! The architectures that this crate knows.
//!
//! Sources: huge-page sizes and table widths from the architecture manuals and Linux's configuration of them; section
//! sizes and physical address bits are what we know of Linux (`SECTION_SIZE_BITS`, and the entry formats) as
//! background knowledge. They are defaults: [`Geometry::new`] makes a geometry with other values.

use super::{Geometry, GeometrySpec, HugeKind, Level};

const LEVEL_0: Level = Level::LAST;
const LEVEL_1: Level = level(1);
const LEVEL_2: Level = level(2);

const fn level(number: u8) -> Level {
    match Level::new(number) {
        Some(level) => level,
        None => panic!("no such level"),
    }
}

const KIB_64: u8 = 16;
const MIB_1: u8 = 20;
const MIB_2: u8 = 21;
const MIB_16: u8 = 24;
const MIB_32: u8 = 25;
const MIB_128: u8 = 27;
const MIB_256: u8 = 28;
const MIB_512: u8 = 29;
const GIB_1: u8 = 30;
const GIB_2: u8 = 31;
const GIB_16: u8 = 34;

impl Geometry {
    /// x86-64 with four levels: 48-bit virtual addresses, 4K base, 2M and 1G huge pages, 128M sections.
    pub const X86_64: Self = Self::known(GeometrySpec {
        name: "x86-64",
        aliases: &["x86_64", "amd64"],
        base_shift: 12,
        index_bits: &[9, 9, 9, 9],
        huge_pages: &[(MIB_2, HugeKind::Leaf(LEVEL_1)), (GIB_1, HugeKind::Leaf(LEVEL_2))],
        section_shift: MIB_128,
        physical_bits: 52,
    });

    /// x86-64 with five levels: 57-bit virtual addresses, else as [`Geometry::X86_64`].
    pub const X86_64_LA57: Self = Self::known(GeometrySpec {
        name: "x86-64-la57",
        aliases: &["x86_64-la57", "x86_64_la57"],
        base_shift: 12,
        index_bits: &[9, 9, 9, 9, 9],
        huge_pages: &[(MIB_2, HugeKind::Leaf(LEVEL_1)), (GIB_1, HugeKind::Leaf(LEVEL_2))],
        section_shift: MIB_128,
        physical_bits: 52,
    });

    /// arm64 with 4K pages: 48-bit virtual addresses, 64K (16 pages in a run), 2M, 32M (16 2M leaves in a run) and
    /// 1G huge pages, 128M sections.
    pub const ARM64_4K: Self = Self::known(GeometrySpec {
        name: "arm64-4k",
        aliases: &["arm64", "aarch64", "aarch64-4k"],
        base_shift: 12,
        index_bits: &[9, 9, 9, 9],
        huge_pages: &[
            (KIB_64, HugeKind::Contiguous(LEVEL_0)),
            (MIB_2, HugeKind::Leaf(LEVEL_1)),
            (MIB_32, HugeKind::Contiguous(LEVEL_1)),
            (GIB_1, HugeKind::Leaf(LEVEL_2)),
        ],
        section_shift: MIB_128,
        physical_bits: 48,
    });

    /// arm64 with 16K pages: 48-bit virtual addresses with a root of two entries, 2M (128 pages in a run), 32M and 1G
    /// (32 32M leaves in a run) huge pages, 128M sections.
    pub const ARM64_16K: Self = Self::known(GeometrySpec {
        name: "arm64-16k",
        aliases: &["aarch64-16k"],
        base_shift: 14,
        index_bits: &[11, 11, 11, 1],
        huge_pages: &[
            (MIB_2, HugeKind::Contiguous(LEVEL_0)),
            (MIB_32, HugeKind::Leaf(LEVEL_1)),
            (GIB_1, HugeKind::Contiguous(LEVEL_1)),
        ],
        section_shift: MIB_128,
        physical_bits: 48,
    });

    /// arm64 with 64K pages: 48-bit virtual addresses with a root of 64 entries, 2M (32 pages in a run), 512M and 16G
    /// (32 512M leaves in a run) huge pages, 512M sections.
    pub const ARM64_64K: Self = Self::known(GeometrySpec {
        name: "arm64-64k",
        aliases: &["aarch64-64k"],
        base_shift: 16,
        index_bits: &[13, 13, 6],
        huge_pages: &[
            (MIB_2, HugeKind::Contiguous(LEVEL_0)),
            (MIB_512, HugeKind::Leaf(LEVEL_1)),
            (GIB_16, HugeKind::Contiguous(LEVEL_1)),
        ],
        section_shift: MIB_512,
        physical_bits: 48,
    });

    /// riscv64 Sv39: three levels, 39-bit virtual addresses, 4K base, 64K (NAPOT), 2M and 1G huge pages, 128M
    /// sections.
    pub const RISCV64_SV39: Self = Self::known(GeometrySpec {
        name: "riscv64-sv39",
        aliases: &["sv39"],
        base_shift: 12,
        index_bits: &[9, 9, 9],
        huge_pages: &[
            (KIB_64, HugeKind::Contiguous(LEVEL_0)),
            (MIB_2, HugeKind::Leaf(LEVEL_1)),
            (GIB_1, HugeKind::Leaf(LEVEL_2)),
        ],
        section_shift: MIB_128,
        physical_bits: 56,
    });

    /// riscv64 Sv48: four levels, 48-bit virtual addresses, else as [`Geometry::RISCV64_SV39`].
    pub const RISCV64_SV48: Self = Self::known(GeometrySpec {
        name: "riscv64-sv48",
        aliases: &["sv48", "riscv64", "riscv"],
        base_shift: 12,
        index_bits: &[9, 9, 9, 9],
        huge_pages: &[
            (KIB_64, HugeKind::Contiguous(LEVEL_0)),
            (MIB_2, HugeKind::Leaf(LEVEL_1)),
            (GIB_1, HugeKind::Leaf(LEVEL_2)),
        ],
        section_shift: MIB_128,
        physical_bits: 56,
    });

    /// ppc64 radix with 4K pages: 52-bit virtual addresses in 13, 9, 9, 9 bits from the root down, 2M and 1G huge
    /// pages, 16M sections.
    pub const PPC64_RADIX_4K: Self = Self::known(GeometrySpec {
        name: "ppc64-radix-4k",
        aliases: &["ppc64le-radix-4k"],
        base_shift: 12,
        index_bits: &[9, 9, 9, 13],
        huge_pages: &[(MIB_2, HugeKind::Leaf(LEVEL_1)), (GIB_1, HugeKind::Leaf(LEVEL_2))],
        section_shift: MIB_16,
        physical_bits: 53,
    });

    /// ppc64 radix with 64K pages: 52-bit virtual addresses in 13, 9, 9, 5 bits from the root down, so that a
    /// last-level table has 32 entries in 256 bytes; 2M and 1G huge pages, 16M sections.
    pub const PPC64_RADIX_64K: Self = Self::known(GeometrySpec {
        name: "ppc64-radix-64k",
        aliases: &["ppc64", "ppc64le", "ppc64le-radix-64k"],
        base_shift: 16,
        index_bits: &[5, 9, 9, 13],
        huge_pages: &[(MIB_2, HugeKind::Leaf(LEVEL_1)), (GIB_1, HugeKind::Leaf(LEVEL_2))],
        section_shift: MIB_16,
        physical_bits: 53,
    });

    /// ppc64 with a hashed page table and 64K pages: no levels and so no tables to count, 16M and 16G huge pages, 16M
    /// sections.
    ///
    /// A kernel's own vmemmap is entered ("bolted") into the hash there, in entries whose memory was set aside at
    /// boot: whatever part of it is mapped, the hash has the same size. So table bytes do not apply
    /// ([`Geometry::last_table`] is `None`) and count as 0 in totals.
    pub const PPC64_HASH_64K: Self = Self::known(GeometrySpec {
        name: "ppc64-hash-64k",
        aliases: &["ppc64le-hash-64k"],
        base_shift: 16,
        index_bits: &[],
        huge_pages: &[(MIB_16, HugeKind::Hash), (GIB_16, HugeKind::Hash)],
        section_shift: MIB_16,
        physical_bits: 51,
    });

    /// loongarch64 with 4K pages: 48-bit virtual addresses, 2M huge pages, 512M sections.
    pub const LOONGARCH64_4K: Self = Self::known(GeometrySpec {
        name: "loongarch64-4k",
        aliases: &["loongarch-4k"],
        base_shift: 12,
        index_bits: &[9, 9, 9, 9],
        huge_pages: &[(MIB_2, HugeKind::Leaf(LEVEL_1))],
        section_shift: MIB_512,
        physical_bits: 48,
    });

    /// loongarch64 with 16K pages: 47-bit virtual addresses, 32M huge pages, 512M sections.
    pub const LOONGARCH64_16K: Self = Self::known(GeometrySpec {
        name: "loongarch64-16k",
        aliases: &["loongarch64", "loongarch", "loongarch-16k"],
        base_shift: 14,
        index_bits: &[11, 11, 11],
        huge_pages: &[(MIB_32, HugeKind::Leaf(LEVEL_1))],
        section_shift: MIB_512,
        physical_bits: 48,
    });

    /// loongarch64 with 64K pages: 55-bit virtual addresses, 512M huge pages, 512M sections.
    pub const LOONGARCH64_64K: Self = Self::known(GeometrySpec {
        name: "loongarch64-64k",
        aliases: &["loongarch-64k"],
        base_shift: 16,
        index_bits: &[13, 13, 13],
        huge_pages: &[(MIB_512, HugeKind::Leaf(LEVEL_1))],
        section_shift: MIB_512,
        physical_bits: 48,
    });

    /// s390x with four levels: 53-bit virtual addresses, 4K base, 1M and 2G huge pages, 256M sections.
    ///
    /// Page tables have 256 entries in 2 KiB, half a base page; segment and region tables 2048 entries in 16 KiB, four
    /// base pages.
    pub const S390X: Self = Self::known(GeometrySpec {
        name: "s390x",
        aliases: &["s390"],
        base_shift: 12,
        index_bits: &[8, 11, 11, 11],
        huge_pages: &[(MIB_1, HugeKind::Leaf(LEVEL_1)), (GIB_2, HugeKind::Leaf(LEVEL_2))],
        section_shift: MIB_256,
        physical_bits: 53,
    });

    /// Every geometry above, in that order.
    pub const ALL: &'static [Self] = &[
        Self::X86_64,
        Self::X86_64_LA57,
        Self::ARM64_4K,
        Self::ARM64_16K,
        Self::ARM64_64K,
        Self::RISCV64_SV39,
        Self::RISCV64_SV48,
        Self::PPC64_RADIX_4K,
        Self::PPC64_RADIX_64K,
        Self::PPC64_HASH_64K,
        Self::LOONGARCH64_4K,
        Self::LOONGARCH64_16K,
        Self::LOONGARCH64_64K,
        Self::S390X,
    ];
}
