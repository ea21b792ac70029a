// SPDX-License-Identifier: MIT OR Apache-2.0
//! An arm64 processor as the manual describes it (DDI 0487, D8.2 "Translation process", D8.3 "Translation table descriptor
//! formats"): walks the words of tables, and remembers what it finds. Knows nothing of the crate's own formats.

use std::sync::atomic::{AtomicU64, Ordering};

use mmkit_addr::Pfn;
use mmkit_frame::DirectMap;
use mmkit_frame::test_util::TestFrames;

/// Bits 47:`granule`.
fn address(raw: u64, low: u32) -> u64 {
    raw & 0x0000_ffff_ffff_ffff & (u64::MAX << low)
}

/// A descriptor that a processor used, where it was, and for which addresses it was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cached {
    pub(crate) table: Pfn,
    pub(crate) index: u64,
    pub(crate) raw: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// What an address translates to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The output address.
    pub(crate) address: u64,
    /// Levels as the manual counts them: 3 is the last.
    pub(crate) level: u32,
    pub(crate) writable: bool,
    pub(crate) user: bool,
    pub(crate) global: bool,
    pub(crate) privileged_exec: bool,
    pub(crate) user_exec: bool,
}

/// A processor with one root, whose addresses have 48 bits.
pub(crate) struct Processor<'a> {
    pub(crate) frames: &'a TestFrames,
    /// log2 of the bytes of a frame: 12, 14 or 16.
    pub(crate) granule: u32,
}

impl Processor<'_> {
    pub(crate) fn word(&self, table: Pfn, index: u64) -> u64 {
        let frame = self.frames.frame(table).expect("a table is in reach").cast::<AtomicU64>();
        assert!(index < 1 << (self.granule - 3));
        // SAFETY: the index is within the frame.
        let word = unsafe { frame.add(index as usize) };
        // SAFETY: a table's frame, whose words are only ever accessed as atomics.
        unsafe { word.as_ref() }.load(Ordering::Relaxed)
    }

    /// The lowest bit of the index at a level, as the manual counts levels.
    fn low(&self, level: u32) -> u32 {
        self.granule + (3 - level) * (self.granule - 3)
    }

    /// Translates, and shows every valid descriptor on the way.
    pub(crate) fn translate(&self, root: Pfn, va: u64, mut see: impl FnMut(Cached)) -> Option<Found> {
        // 48 bits need four levels with 4K and 16K, three with 64K.
        let mut level = if self.granule == 16 { 1 } else { 0 };
        let (mut table, mut high) = (root, 48);
        loop {
            let low = self.low(level);
            let index = (va & ((1 << high) - 1)) >> low;
            let raw = self.word(table, index);
            if raw & 1 == 0 {
                return None;
            }
            let first = va >> low << low;
            see(Cached { table, index, raw, first, last: first + ((1 << low) - 1) });
            match (level, raw & 0b10 != 0) {
                (0..=2, true) => {
                    table = Pfn::new(address(raw, self.granule) >> self.granule).unwrap();
                    (level, high) = (level + 1, low);
                }
                (3, false) => panic!("{raw:#x} is reserved at the last level"),
                (0, false) => panic!("{raw:#x}: no blocks at level 0"),
                (1, false) if self.granule != 12 => panic!("{raw:#x}: no blocks at level 1"),
                _ => {
                    assert_eq!(raw & (1 << 10), 1 << 10, "{raw:#x} would be an access flag fault");
                    assert_eq!((raw >> 8) & 0b11, 0b11, "{raw:#x} is not inner shareable");
                    assert_eq!((raw >> 2) & 0b1111, 0, "{raw:#x} has other attributes than number 0");
                    let res0 = (((1 << low) - 1) & !0xfff) | (0b1_1111 << 48);
                    assert_eq!(raw & res0, 0, "{raw:#x} sets bits that should be 0, DBM or contiguous");
                    return Some(Found {
                        address: address(raw, low) | va & ((1 << low) - 1),
                        level,
                        writable: raw & (1 << 7) == 0,
                        user: raw & (1 << 6) != 0,
                        global: raw & (1 << 11) == 0,
                        privileged_exec: raw & (1 << 53) == 0,
                        user_exec: raw & (1 << 54) == 0,
                    });
                }
            }
        }
    }
}
