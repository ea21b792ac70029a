// SPDX-License-Identifier: MIT OR Apache-2.0
//! The entry format of x86-64 processors, with four and five levels.
//!
//! Source: Intel SDM volume 3A chapter 4, "Paging"; AMD APM volume 2 chapter 5.

use mmkit_addr::{Geometry, Level, Pfn, TableShape};

use crate::{EncodeError, Entry, Prot, Slot, Target};

/// x86-64 paging entries: 4 KiB frames, 512 entries per table, leaves of 4 KiB, 2 MiB and 1 GiB.
///
/// | bits | present entry | pending entry (bit 0 clear: the processor ignores the rest) |
/// |---|---|---|
/// | 0 | present | 0 |
/// | 1, 2 | write, user | kept |
/// | 5, 6 | accessed; dirty (writable leaves) | kept |
/// | 7 | leaf, at levels 1 and 2 | kept |
/// | 8 | global (leaves) | kept |
/// | 9 | software: the table below is shared | kept |
/// | 10 | software: 0 | 1 |
/// | 12..=51 | frame | frame, inverted |
/// | 52..=59 | 0 | the batch's tag |
/// | 63 | no execute | kept |
///
/// Leaves and tables are written with the accessed bit set, and writable leaves with the dirty bit, so that a processor
/// has no reason to write to them. A read-only leaf is never dirty: processors with shadow stacks give that pair a
/// meaning of its own. The frame of a pending entry is stored inverted so that a processor which speculates past the
/// clear present bit (L1 terminal fault) looks where no memory is.
#[derive(Clone, Copy, Debug)]
pub enum X86_64 {}

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LEAF: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const SHARED: u64 = 1 << 9;
const PENDING: u64 = 1 << 10;
const FRAME_SHIFT: u32 = 12;
const FRAME: u64 = 0x000f_ffff_ffff_f000;
const TAG_SHIFT: u32 = 52;
const NO_EXEC: u64 = 1 << 63;

/// The highest frame: 40 bits.
const MAX_FRAME: Pfn = match Pfn::new(FRAME >> FRAME_SHIFT) {
    Some(pfn) => pfn,
    None => unreachable!(),
};

#[inline(always)]
fn encode_target(target: Target, level: Level) -> Result<u64, EncodeError> {
    let pfn = target.pfn();
    if pfn > MAX_FRAME {
        return Err(EncodeError::FrameTooHigh { pfn, max: MAX_FRAME });
    }
    let mut raw = (pfn.get() << FRAME_SHIFT) | ACCESSED;
    match target {
        Target::Leaf { prot, .. } => {
            match level.get() {
                0 => {}
                1 | 2 => raw |= LEAF,
                _ => return Err(EncodeError::NoLeaf { level }),
            }
            if prot.contains(Prot::WRITE) {
                raw |= WRITE | DIRTY;
            }
            if !prot.contains(Prot::EXEC) {
                raw |= NO_EXEC;
            }
            if prot.contains(Prot::USER) {
                raw |= USER;
            }
            if prot.contains(Prot::GLOBAL) {
                raw |= GLOBAL;
            }
        }
        // What a table allows is the most that a leaf below may: each leaf decides for itself.
        Target::Table { .. } | Target::Shared { .. } => {
            if level == Level::LAST {
                return Err(EncodeError::NoTable { level });
            }
            raw |= WRITE | USER;
            if matches!(target, Target::Shared { .. }) {
                raw |= SHARED;
            }
        }
    }
    Ok(raw)
}

#[inline(always)]
fn decode_target(raw: u64, level: Level) -> Target {
    let frame = (raw & FRAME) >> FRAME_SHIFT;
    if level == Level::LAST || raw & LEAF != 0 {
        let mut prot = Prot::READ;
        prot.set(Prot::WRITE, raw & WRITE != 0);
        prot.set(Prot::EXEC, raw & NO_EXEC == 0);
        prot.set(Prot::USER, raw & USER != 0);
        prot.set(Prot::GLOBAL, raw & GLOBAL != 0);
        Target::Leaf { pfn: frame_number(frame), prot }
    } else if raw & SHARED != 0 {
        Target::Shared { pfn: frame_number(frame) }
    } else {
        Target::Table { pfn: frame_number(frame) }
    }
}

/// 40 bits always fit into a frame number's 52.
#[inline]
fn frame_number(frame: u64) -> Pfn {
    Pfn::new(frame).unwrap_or(MAX_FRAME)
}

// SAFETY:
// * `encode` refuses frames above bit 51 and levels without the kind; every field it writes lies in bits of its own
//   (the table above), so `decode` reads back each of them; a present entry has bit 0, a pending one has bit 10 and not
//   bit 0, and inversion is undone by the same mask.
// * `Empty` is 0 and 0 has neither bit.
// * Bit 0 is the present bit of the architecture, clear in both.
// * Bits 5 and 6 take no part in decoding.
unsafe impl Entry for X86_64 {
    const NAME: &'static str = "x86-64";

    fn supports(geometry: &Geometry) -> bool {
        let fits = |table: &TableShape| {
            table.index_bits() == 9 && (table.level().get() <= 2 || !table.may_be_leaf())
        };
        geometry.base_shift() == FRAME_SHIFT
            && matches!(geometry.levels().len(), 4 | 5)
            && geometry.levels().iter().all(fits)
    }

    #[inline]
    fn encode(slot: Slot, level: Level) -> Result<u64, EncodeError> {
        match slot {
            Slot::Empty => Ok(0),
            Slot::Present(target) => Ok(encode_target(target, level)? | PRESENT),
            Slot::Pending(target, tag) => {
                Ok((encode_target(target, level)? ^ FRAME) | PENDING | (u64::from(tag) << TAG_SHIFT))
            }
        }
    }

    #[inline]
    fn decode(raw: u64, level: Level) -> Slot {
        if raw & PRESENT != 0 {
            Slot::Present(decode_target(raw, level))
        } else if raw & PENDING != 0 {
            // The mask keeps the eight bits of the tag.
            Slot::Pending(decode_target(raw ^ FRAME, level), (raw >> TAG_SHIFT) as u8)
        } else {
            Slot::Empty
        }
    }
}

#[cfg(all(test, not(mmkit_loom)))]
mod tests {
    use super::*;

    const L0: Level = Level::LAST;

    fn level(number: u8) -> Level {
        Level::new(number).unwrap()
    }

    fn leaf(frame: u64, prot: Prot) -> Target {
        Target::Leaf { pfn: Pfn::new(frame).unwrap(), prot }
    }

    fn table(frame: u64) -> Target {
        Target::Table { pfn: Pfn::new(frame).unwrap() }
    }

    fn raw(target: Target, level: Level) -> u64 {
        X86_64::encode(Slot::Present(target), level).unwrap()
    }

    #[test]
    fn present_entries_bit_by_bit() {
        assert_eq!(raw(leaf(0, Prot::READ), L0), 1 << 63 | 1 << 5 | 1);
        assert_eq!(raw(leaf(0, Prot::WRITE), L0), 1 << 63 | 1 << 6 | 1 << 5 | 1 << 1 | 1);
        assert_eq!(raw(leaf(0, Prot::EXEC), L0), 1 << 5 | 1);
        assert_eq!(raw(leaf(0, Prot::EXEC | Prot::USER), L0), 1 << 5 | 1 << 2 | 1);
        assert_eq!(raw(leaf(0, Prot::EXEC | Prot::GLOBAL), L0), 1 << 8 | 1 << 5 | 1);
        assert_eq!(raw(leaf(0x12345, Prot::EXEC), L0), 0x12345 << 12 | 1 << 5 | 1);
        assert_eq!(raw(leaf((1 << 40) - 1, Prot::EXEC), L0), 0x000f_ffff_ffff_f000 | 1 << 5 | 1);
        // The page-size bit, above the last level only: there it would choose a memory type.
        assert_eq!(raw(leaf(512, Prot::EXEC), level(1)), 512 << 12 | 1 << 7 | 1 << 5 | 1);
        assert_eq!(raw(leaf(1 << 18, Prot::EXEC), level(2)), 1 << 30 | 1 << 7 | 1 << 5 | 1);
        // Tables restrict nothing, so that each leaf decides: present, write, user, accessed.
        assert_eq!(raw(table(3), level(1)), 3 << 12 | 1 << 5 | 1 << 2 | 1 << 1 | 1);
        let shared = Target::Shared { pfn: Pfn::new(3).unwrap() };
        assert_eq!(raw(shared, level(1)), 3 << 12 | 1 << 9 | 1 << 5 | 1 << 2 | 1 << 1 | 1);
    }

    #[test]
    fn pending_entries_are_absent_and_lead_nowhere() {
        let present = raw(leaf(0x12345, Prot::WRITE), L0);
        let pending = X86_64::encode(Slot::Pending(leaf(0x12345, Prot::WRITE), 0xa5), L0).unwrap();
        assert_eq!(pending & 1, 0);
        assert_eq!(pending & FRAME, !(0x12345 << 12) & FRAME);
        assert_eq!(pending >> 52 & 0xff, 0xa5);
        assert_eq!((pending ^ FRAME) & !(0xff << 52), (present & !1) | 1 << 10);
    }

    #[test]
    fn every_slot_comes_back() {
        let frames = [0, 1, 0x12345, 1 << 39, (1 << 40) - 1];
        for number in 0..5 {
            let level = level(number);
            for frame in frames {
                let pfn = Pfn::new(frame).unwrap();
                let leaves = (0..=Prot::all().bits()).map(|bits| leaf(frame, Prot::from_bits_retain(bits)));
                let targets = leaves.chain([Target::Table { pfn }, Target::Shared { pfn }]);
                for target in targets {
                    let sayable = match target {
                        Target::Leaf { .. } => number <= 2,
                        _ => number > 0,
                    };
                    for slot in [Slot::Present(target), Slot::Pending(target, 0), Slot::Pending(target, 255)]
                    {
                        let raw = X86_64::encode(slot, level);
                        assert_eq!(raw.is_ok(), sayable, "{slot:?} at {level:?}");
                        let Ok(raw) = raw else { continue };
                        assert_eq!(X86_64::decode(raw, level), slot);
                        if matches!(slot, Slot::Present(_)) {
                            // What a processor may set by itself.
                            assert_eq!(X86_64::decode(raw | ACCESSED | DIRTY, level), slot);
                        }
                    }
                }
            }
            assert_eq!(X86_64::encode(Slot::Empty, level), Ok(0));
            assert_eq!(X86_64::decode(0, level), Slot::Empty);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let pfn = Pfn::new(1 << 40).unwrap();
        let error = X86_64::encode(Slot::Present(Target::Table { pfn }), level(1));
        assert_eq!(error, Err(EncodeError::FrameTooHigh { pfn, max: MAX_FRAME }));
        assert!(X86_64::supports(&Geometry::X86_64) && X86_64::supports(&Geometry::X86_64_LA57));
        let others = Geometry::ALL.iter().filter(|geometry| !geometry.name().starts_with("x86"));
        let alike: std::vec::Vec<_> =
            others.filter(|other| X86_64::supports(other)).map(Geometry::name).collect();
        // Same widths and leaves as x86-64: the tables' shape is all that can be seen.
        assert_eq!(alike, ["arm64-4k", "riscv64-sv48", "loongarch64-4k"]);
    }
}
