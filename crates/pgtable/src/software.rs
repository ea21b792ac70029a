// SPDX-License-Identifier: MIT OR Apache-2.0
//! An entry format for tables that only software walks.

use mmkit_addr::{Geometry, Level, Pfn};

use crate::{EncodeError, Entry, Prot, Slot, Target};

/// Entries of every geometry, for tables that no processor walks: for accounting, for tests, and for geometries whose
/// own format is not written yet.
///
/// | bits | meaning |
/// |---|---|
/// | 0 | present |
/// | 1 | pending |
/// | 2 | leads to a table |
/// | 3 | the table is shared |
/// | 4..=7 | what a leaf allows |
/// | 8..=55 | frame |
/// | 56..=63 | the tag of a pending entry |
#[derive(Clone, Copy, Debug)]
pub enum Software {}

impl Software {
    /// The bit of an entry that one frame more adds.
    pub const FRAME_SHIFT: u32 = 8;
}

const PRESENT: u64 = 1 << 0;
const PENDING: u64 = 1 << 1;
const TABLE: u64 = 1 << 2;
const SHARED: u64 = 1 << 3;
const PROT_SHIFT: u32 = 4;
const TAG_SHIFT: u32 = 56;

/// The highest frame: 48 bits.
const MAX_FRAME: Pfn = match Pfn::new((1 << 48) - 1) {
    Some(pfn) => pfn,
    None => unreachable!(),
};

#[inline(always)]
fn encode_target(target: Target, level: Level) -> Result<u64, EncodeError> {
    let pfn = target.pfn();
    if pfn > MAX_FRAME {
        return Err(EncodeError::FrameTooHigh { pfn, max: MAX_FRAME });
    }
    let kind = match target {
        Target::Leaf { prot, .. } => u64::from(prot.bits()) << PROT_SHIFT,
        _ if level == Level::LAST => return Err(EncodeError::NoTable { level }),
        Target::Table { .. } => TABLE,
        Target::Shared { .. } => TABLE | SHARED,
    };
    Ok((pfn.get() << Software::FRAME_SHIFT) | kind)
}

#[inline(always)]
fn decode_target(raw: u64, level: Level) -> Target {
    let pfn = Pfn::new((raw >> Software::FRAME_SHIFT) & MAX_FRAME.get()).unwrap_or(MAX_FRAME);
    // There are no tables below the last level.
    match (level != Level::LAST && raw & TABLE != 0, raw & SHARED != 0) {
        (true, true) => Target::Shared { pfn },
        (true, false) => Target::Table { pfn },
        // The mask keeps the four bits of `Prot`.
        (false, _) => Target::Leaf { pfn, prot: Prot::from_bits_truncate((raw >> PROT_SHIFT) as u8 & 0xf) },
    }
}

// SAFETY:
// * Each field has bits of its own (the table above), `encode` refuses frames that need more, and `Prot` has four flags.
// * `Empty` is 0, which has neither bit 0 nor bit 1; every other encoding has exactly one of them.
// * No processor walks these entries or sets bits in them.
unsafe impl Entry for Software {
    const NAME: &'static str = "software";

    fn supports(_: &Geometry) -> bool {
        true
    }

    #[inline]
    fn encode(slot: Slot, level: Level) -> Result<u64, EncodeError> {
        match slot {
            Slot::Empty => Ok(0),
            Slot::Present(target) => Ok(encode_target(target, level)? | PRESENT),
            Slot::Pending(target, tag) => {
                Ok(encode_target(target, level)? | PENDING | (u64::from(tag) << TAG_SHIFT))
            }
        }
    }

    #[inline]
    fn decode(raw: u64, level: Level) -> Slot {
        if raw & PRESENT != 0 {
            Slot::Present(decode_target(raw, level))
        } else if raw & PENDING != 0 {
            Slot::Pending(decode_target(raw, level), (raw >> TAG_SHIFT) as u8)
        } else {
            Slot::Empty
        }
    }
}

#[cfg(all(test, not(mmkit_loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_slot_comes_back() {
        for number in 0..=Level::MAX.get() {
            let level = Level::new(number).unwrap();
            for frame in [0, 1, 0x1234_5678_9abc, (1 << 48) - 1] {
                let pfn = Pfn::new(frame).unwrap();
                let leaves = (0..16).map(|bits| Target::Leaf { pfn, prot: Prot::from_bits_retain(bits) });
                for target in leaves.chain([Target::Table { pfn }, Target::Shared { pfn }]) {
                    for slot in [Slot::Present(target), Slot::Pending(target, 0), Slot::Pending(target, 255)]
                    {
                        match Software::encode(slot, level) {
                            Ok(raw) => assert_eq!(Software::decode(raw, level), slot),
                            Err(error) => {
                                assert_eq!(error, EncodeError::NoTable { level });
                                assert!(number == 0 && !matches!(target, Target::Leaf { .. }));
                            }
                        }
                    }
                }
            }
        }
        assert_eq!(Software::decode(0, Level::LAST), Slot::Empty);
        let pfn = Pfn::new(1 << 48).unwrap();
        let error = Software::encode(Slot::Present(Target::Table { pfn }), Level::MAX);
        assert_eq!(error, Err(EncodeError::FrameTooHigh { pfn, max: MAX_FRAME }));
    }
}
