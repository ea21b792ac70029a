// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every huge-page size of every architecture: what its descriptors cost, as explicit numbers.

use mmkit_addr::{Geometry, HugeKind, Keep, Level, Order, Scheme};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// How the descriptors of a huge page fill pages of vmemmap.
#[derive(Debug, PartialEq)]
enum Pages {
    /// This many pages.
    Whole(u64),
    /// One page holds the descriptors of this many huge pages.
    PerPage(u64),
}

/// How the entries that map those pages fill last-level tables.
#[derive(Debug, PartialEq)]
enum Tables {
    /// This many tables.
    Whole(u64),
    /// One table holds the entries of this many huge pages.
    PerTable(u64),
    /// The descriptors fill no page, or there are no tables.
    None,
}

/// What 1 TiB of the huge page costs, last-level tables included.
#[derive(Debug, PartialEq)]
enum PerTib {
    /// Keep-1, and keep-1 with shared tail tables.
    Dedup(u64, u64),
    /// Keep-1; no tables exist that could be shared.
    Hash(u64),
    /// Not optimisable: all descriptors.
    Flat(u64),
}

use HugeKind::{Contiguous, Hash, Leaf};
use PerTib::{Dedup, Flat};
use Tables::{PerTable, Whole as WholeTables};

struct Row {
    geometry: Geometry,
    huge_page: u64,
    kind: fn(Level) -> HugeKind,
    level: u8,
    order: u8,
    frames: u64,
    vmemmap_bytes: u64,
    pages: Pages,
    saved_keep_two: u64,
    saved_keep_one: u64,
    table_bytes: Option<u64>,
    tables: Tables,
    per_tib: PerTib,
}

fn hash(_: Level) -> HugeKind {
    Hash
}

/// Columns: geometry, huge page, kind, level, order, frames, vmemmap bytes, vmemmap pages, pages saved by keep-2, by
/// keep-1, last-level table bytes per huge page, tables, resident per TiB.
macro_rules! rows {
    ($($geometry:ident, $size:expr, $kind:expr, $level:expr, $order:expr, $frames:expr, $bytes:expr, $pages:expr,
       $two:expr, $one:expr, $table_bytes:expr, $tables:expr, $tib:expr;)*) => {
        [$(Row {
            geometry: Geometry::$geometry, huge_page: $size, kind: $kind, level: $level, order: $order,
            frames: $frames, vmemmap_bytes: $bytes, pages: $pages, saved_keep_two: $two, saved_keep_one: $one,
            table_bytes: $table_bytes, tables: $tables, per_tib: $tib,
        }),*]
    };
}

#[rustfmt::skip]
fn rows() -> Vec<Row> {
    use Pages::{PerPage, Whole};
    Vec::from(rows! {
        X86_64, 2 * MIB, Leaf, 1, 9, 512, 32 * KIB, Whole(8), 6, 7, Some(64), PerTable(64), Dedup(2080 * MIB, 2080 * MIB);
        X86_64, GIB, Leaf, 2, 18, 262_144, 16 * MIB, Whole(4096), 4094, 4095, Some(32 * KIB), WholeTables(8), Dedup(36 * MIB, 8 * MIB);
        X86_64_LA57, 2 * MIB, Leaf, 1, 9, 512, 32 * KIB, Whole(8), 6, 7, Some(64), PerTable(64), Dedup(2080 * MIB, 2080 * MIB);
        X86_64_LA57, GIB, Leaf, 2, 18, 262_144, 16 * MIB, Whole(4096), 4094, 4095, Some(32 * KIB), WholeTables(8), Dedup(36 * MIB, 8 * MIB);
        ARM64_4K, 64 * KIB, Contiguous, 0, 4, 16, KIB, PerPage(4), 0, 0, None, Tables::None, Flat(16 * GIB);
        ARM64_4K, 2 * MIB, Leaf, 1, 9, 512, 32 * KIB, Whole(8), 6, 7, Some(64), PerTable(64), Dedup(2080 * MIB, 2080 * MIB);
        ARM64_4K, 32 * MIB, Contiguous, 1, 13, 8192, 512 * KIB, Whole(128), 126, 127, Some(KIB), PerTable(4), Dedup(160 * MIB, 160 * MIB);
        ARM64_4K, GIB, Leaf, 2, 18, 262_144, 16 * MIB, Whole(4096), 4094, 4095, Some(32 * KIB), WholeTables(8), Dedup(36 * MIB, 8 * MIB);
        ARM64_16K, 2 * MIB, Contiguous, 0, 7, 128, 8 * KIB, PerPage(2), 0, 0, None, Tables::None, Flat(4 * GIB);
        ARM64_16K, 32 * MIB, Leaf, 1, 11, 2048, 128 * KIB, Whole(8), 6, 7, Some(64), PerTable(256), Dedup(514 * MIB, 514 * MIB);
        ARM64_16K, GIB, Contiguous, 1, 16, 65_536, 4 * MIB, Whole(256), 254, 255, Some(2 * KIB), PerTable(8), Dedup(18 * MIB, 18 * MIB);
        ARM64_64K, 2 * MIB, Contiguous, 0, 5, 32, 2 * KIB, PerPage(32), 0, 0, None, Tables::None, Flat(GIB);
        ARM64_64K, 512 * MIB, Leaf, 1, 13, 8192, 512 * KIB, Whole(8), 6, 7, Some(64), PerTable(1024), Dedup(131_200 * KIB, 131_200 * KIB);
        ARM64_64K, 16 * GIB, Contiguous, 1, 18, 262_144, 16 * MIB, Whole(256), 254, 255, Some(2 * KIB), PerTable(32), Dedup(4224 * KIB, 4224 * KIB);
        RISCV64_SV39, 64 * KIB, Contiguous, 0, 4, 16, KIB, PerPage(4), 0, 0, None, Tables::None, Flat(16 * GIB);
        RISCV64_SV39, 2 * MIB, Leaf, 1, 9, 512, 32 * KIB, Whole(8), 6, 7, Some(64), PerTable(64), Dedup(2080 * MIB, 2080 * MIB);
        RISCV64_SV39, GIB, Leaf, 2, 18, 262_144, 16 * MIB, Whole(4096), 4094, 4095, Some(32 * KIB), WholeTables(8), Dedup(36 * MIB, 8 * MIB);
        RISCV64_SV48, 64 * KIB, Contiguous, 0, 4, 16, KIB, PerPage(4), 0, 0, None, Tables::None, Flat(16 * GIB);
        RISCV64_SV48, 2 * MIB, Leaf, 1, 9, 512, 32 * KIB, Whole(8), 6, 7, Some(64), PerTable(64), Dedup(2080 * MIB, 2080 * MIB);
        RISCV64_SV48, GIB, Leaf, 2, 18, 262_144, 16 * MIB, Whole(4096), 4094, 4095, Some(32 * KIB), WholeTables(8), Dedup(36 * MIB, 8 * MIB);
        PPC64_RADIX_64K, 2 * MIB, Leaf, 1, 5, 32, 2 * KIB, PerPage(32), 0, 0, None, Tables::None, Flat(GIB);
        // Last-level tables here have 32 entries in 256 bytes, not P/8 = 8192: the 128 bytes of a 1G page are half a
        // table, not 1/512 of one. The bytes, and so the sum, are the same.
        PPC64_RADIX_64K, GIB, Leaf, 2, 14, 16_384, MIB, Whole(16), 14, 15, Some(128), PerTable(2), Dedup(65_664 * KIB, 65_664 * KIB);
        PPC64_RADIX_4K, 2 * MIB, Leaf, 1, 9, 512, 32 * KIB, Whole(8), 6, 7, Some(64), PerTable(64), Dedup(2080 * MIB, 2080 * MIB);
        PPC64_RADIX_4K, GIB, Leaf, 2, 18, 262_144, 16 * MIB, Whole(4096), 4094, 4095, Some(32 * KIB), WholeTables(8), Dedup(36 * MIB, 8 * MIB);
        PPC64_HASH_64K, 16 * MIB, hash, 0, 8, 256, 16 * KIB, PerPage(4), 0, 0, None, Tables::None, Flat(GIB);
        // A hash has no tables per level: with radix tables of P/8 entries this would be 2 KiB more per huge page, in
        // all 4224 KiB.
        PPC64_HASH_64K, 16 * GIB, hash, 0, 18, 262_144, 16 * MIB, Whole(256), 254, 255, None, Tables::None, PerTib::Hash(4096 * KIB);
        LOONGARCH64_4K, 2 * MIB, Leaf, 1, 9, 512, 32 * KIB, Whole(8), 6, 7, Some(64), PerTable(64), Dedup(2080 * MIB, 2080 * MIB);
        LOONGARCH64_16K, 32 * MIB, Leaf, 1, 11, 2048, 128 * KIB, Whole(8), 6, 7, Some(64), PerTable(256), Dedup(514 * MIB, 514 * MIB);
        LOONGARCH64_64K, 512 * MIB, Leaf, 1, 13, 8192, 512 * KIB, Whole(8), 6, 7, Some(64), PerTable(1024), Dedup(131_200 * KIB, 131_200 * KIB);
        // Last-level tables here have 256 entries in 2 KiB, not P/8 = 512 in 4 KiB: the 32 bytes of a 1M page are 1/64
        // of a table, not 1/128. The bytes, and so the sum, are the same.
        S390X, MIB, Leaf, 1, 8, 256, 16 * KIB, Whole(4), 2, 3, Some(32), PerTable(64), Dedup(4128 * MIB, 4128 * MIB);
        // Again 2 KiB tables: 64 KiB are 32 tables, not 16. Sharing leaves one private table of 2 KiB, not of 4 KiB:
        // 512 * (4 + 2) KiB = 3 MiB per TiB, not 4 MiB.
        S390X, 2 * GIB, Leaf, 2, 19, 524_288, 32 * MIB, Whole(8192), 8190, 8191, Some(64 * KIB), WholeTables(32), Dedup(34 * MIB, 3 * MIB);
    })
}

#[test]
fn every_huge_page_of_every_architecture() {
    for row in rows() {
        let name = format!("{} {:#x}", row.geometry, row.huge_page);
        let huge = row.geometry.huge_page(row.huge_page).expect(&name);
        let level = Level::new(row.level).expect(&name);
        assert_eq!(huge.kind(), (row.kind)(level), "{name}");
        assert_eq!(Some(huge.order()), Order::new(row.order), "{name}");
        assert_eq!(huge.order().frames(), row.frames, "{name}");

        let compound = row.geometry.compound(huge.order()).expect(&name);
        assert_eq!(compound.bytes(), row.huge_page, "{name}");
        assert_eq!(compound.vmemmap_bytes(), row.vmemmap_bytes, "{name}");
        let pages = match (compound.vmemmap_pages(), compound.per_vmemmap_page()) {
            (Some(pages), None) => Pages::Whole(pages),
            (None, Some(compounds)) => Pages::PerPage(compounds),
            odd => panic!("{name}: {odd:?}"),
        };
        assert_eq!(pages, row.pages, "{name}");
        assert_eq!(compound.saved_pages(Keep::Two).unwrap_or(0), row.saved_keep_two, "{name}");
        assert_eq!(compound.saved_pages(Keep::One).unwrap_or(0), row.saved_keep_one, "{name}");

        assert_eq!(compound.last_level_bytes(), row.table_bytes, "{name}");
        let tables = match (compound.last_level_tables(), compound.per_last_level_table()) {
            (Some(tables), None) => Tables::Whole(tables),
            (None, Some(compounds)) => Tables::PerTable(compounds),
            (None, None) => Tables::None,
            odd => panic!("{name}: {odd:?}"),
        };
        assert_eq!(tables, row.tables, "{name}");

        let per_tib = |scheme| compound.resident_per_tib(scheme).map(|resident| resident.total());
        let found = match (per_tib(Scheme::KeepOne), per_tib(Scheme::KeepOneSharedTables)) {
            (Some(own), Some(shared)) => PerTib::Dedup(own, shared),
            (Some(own), None) => PerTib::Hash(own),
            (None, None) => PerTib::Flat(per_tib(Scheme::Flat).expect(&name)),
            (None, Some(_)) => panic!("{name}: tables shared but nothing deduplicated"),
        };
        assert_eq!(found, row.per_tib, "{name}");
        assert_eq!(compound.is_optimisable(), !matches!(found, Flat(_)), "{name}");
    }
}

#[test]
fn the_rows_are_all_the_huge_pages_there_are() {
    let mut listed: Vec<_> = rows().iter().map(|row| (row.geometry.name(), row.huge_page)).collect();
    let mut known: Vec<_> = Geometry::ALL
        .iter()
        .flat_map(|geometry| geometry.huge_pages().iter().map(|huge| (geometry.name(), huge.bytes())))
        .collect();
    listed.sort_unstable();
    known.sort_unstable();
    assert_eq!(listed, known);
}

/// x86-64: one row per way of backing descriptors, bytes per huge page and per TiB.
#[test]
fn every_stage_of_x86_64() {
    let order = |order| Order::new(order).expect("in range");
    let huge_2m = Geometry::X86_64.compound(order(9)).expect("2M");
    let huge_1g = Geometry::X86_64.compound(order(18)).expect("1G");
    #[rustfmt::skip]
    let stages = [
        // compound, scheme, data and table bytes per huge page, bytes per TiB, per cent of memory
        (huge_2m, Scheme::Flat, (32_768, 0), 16 * GIB, "1.5625", 4),
        (huge_2m, Scheme::FlatBase, (32_768, 64), 16 * GIB + 32 * MIB, "1.5656", 4),
        (huge_2m, Scheme::KeepTwo, (8192, 64), 4128 * MIB, "0.3937", 4),
        (huge_2m, Scheme::KeepOne, (4096, 64), 2080 * MIB, "0.1984", 4),
        (huge_1g, Scheme::KeepTwo, (8192, 32_768), 40 * MIB, "0.00381", 5),
        (huge_1g, Scheme::KeepTwoSharedTables, (8192, 8192), 16 * MIB, "0.00153", 5),
        (huge_1g, Scheme::KeepOne, (4096, 32_768), 36 * MIB, "0.00343", 5),
        (huge_1g, Scheme::KeepOneSharedTables, (4096, 4096), 8 * MIB, "0.00076", 5),
    ];
    for (compound, scheme, (data, tables), per_tib, percent, digits) in stages {
        let one = compound.resident(scheme, 1).expect("applies");
        assert_eq!((one.data_bytes, one.table_bytes), (data, tables), "{compound:?} {scheme}");
        let tib = compound.resident_per_tib(scheme).expect("applies").total();
        assert_eq!(tib, per_tib, "{compound:?} {scheme}");
        let found = format!("{:.digits$}", tib as f64 * 100.0 / (1u64 << 40) as f64);
        assert_eq!(found, percent, "{compound:?} {scheme}");
    }
    // 2M mappings of the flat vmemmap: 64 KiB of second-level tables per TiB.
    let second = Geometry::X86_64.table(Level::new(1).expect("in range")).expect("exists");
    assert_eq!(second.entry_bytes_for(16 * GIB), 64 * KIB);
    // 64 B of last-level entries per 2M, so sharing tables changes nothing there.
    assert_eq!(huge_2m.resident(Scheme::KeepOneSharedTables, 1), huge_2m.resident(Scheme::KeepOne, 1));
    assert_eq!(huge_2m.resident(Scheme::KeepTwoSharedTables, 1), huge_2m.resident(Scheme::KeepTwo, 1));
}

/// One shared tail page per zone and order: at most 12 orders on x86-64, 48 KiB per zone.
#[test]
fn shared_pages_are_few() {
    let geometry = Geometry::X86_64;
    let orders = geometry.min_dedup_order().get()..=geometry.max_huge_order().get();
    assert_eq!(orders.clone().count(), 12);
    let mut data = 0;
    let mut tables = 0;
    for order in orders {
        let compound = geometry.compound(Order::new(order).expect("in range")).expect("fits");
        let once = compound.shared_once(Scheme::KeepOneSharedTables).expect("applies");
        data += once.data_bytes;
        tables += once.table_bytes;
        assert_eq!(compound.shared_once(Scheme::KeepOne).expect("applies").table_bytes, 0);
    }
    assert_eq!(data, 48 * KIB);
    // Orders 16 to 18 fill two tables or more.
    assert_eq!(tables, 3 * 4 * KIB);
}

/// With a last-level leaf covering P/8 base pages, v = 8 whatever P is; s390x and ppc64 with 64K do not.
#[test]
fn eight_pages_where_a_second_level_leaf_covers_a_full_table() {
    for geometry in Geometry::ALL {
        let Some(last) = geometry.last_table() else { continue };
        let Some(order) = Order::of_frames(last.entries()) else { panic!("{geometry}") };
        let pages = geometry.compound(order).expect("fits").vmemmap_pages();
        let full = last.table_bytes() == geometry.base_bytes();
        assert_eq!(
            full,
            *geometry != Geometry::S390X && *geometry != Geometry::PPC64_RADIX_64K,
            "{geometry}"
        );
        assert_eq!(pages == Some(8), full, "{geometry}");
    }
}

#[test]
fn sums_that_do_not_fit_or_apply_are_none() {
    let geometry = Geometry::PPC64_HASH_64K;
    let hash = geometry.compound(geometry.max_huge_order()).expect("fits");
    assert!(hash.resident(Scheme::Flat, 1).is_some());
    assert_eq!(hash.resident(Scheme::FlatBase, 1), None);
    assert_eq!(hash.resident(Scheme::KeepTwoSharedTables, 1), None);
    assert_eq!(hash.shared_once(Scheme::KeepOneSharedTables), None);
    assert_eq!(hash.shared_once(Scheme::KeepOne).map(|once| once.total()), Some(64 * KIB));
    for scheme in Scheme::ALL {
        assert_eq!(hash.resident(*scheme, u64::MAX), None, "{scheme}");
        let none = geometry.compound(Order::ZERO).expect("fits").resident(*scheme, 0);
        assert_eq!(none.map(|resident| resident.total()), (*scheme == Scheme::Flat).then_some(0), "{scheme}");
    }
    // Larger than 1 TiB.
    let large = Geometry::X86_64.compound(Order::new(29).expect("in range")).expect("fits");
    assert_eq!(large.resident_per_tib(Scheme::Flat), None);
    assert_eq!(large.resident(Scheme::Flat, 1).map(|resident| resident.total()), Some(32 * GIB));
}

/// 64 descriptors of 64 bytes are one page: a started page of vmemmap counts a whole entry.
#[test]
fn flat_tables_of_small_compounds_round_up() {
    let frame = Geometry::X86_64.compound(Order::ZERO).expect("fits");
    let tables = |frames| frame.resident(Scheme::FlatBase, frames).expect("applies").table_bytes;
    assert_eq!([tables(0), tables(1), tables(64), tables(65)], [0, 8, 8, 16]);
}
