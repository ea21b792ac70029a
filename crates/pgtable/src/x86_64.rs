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

    fn encode(slot: Slot, level: Level) -> Result<u64, EncodeError> {
        match slot {
            Slot::Empty => Ok(0),
            Slot::Present(target) => Ok(encode_target(target, level)? | PRESENT),
            Slot::Pending(target, tag) => {
                Ok((encode_target(target, level)? ^ FRAME) | PENDING | (u64::from(tag) << TAG_SHIFT))
            }
        }
    }

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
