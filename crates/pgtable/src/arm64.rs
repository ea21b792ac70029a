// SPDX-License-Identifier: MIT OR Apache-2.0
//! The entry formats of arm64 processors: one format, three sizes of a frame.
//!
//! Source: Arm Architecture Reference Manual for A-profile (DDI 0487), chapter D8 "The AArch64 Virtual Memory System
//! Architecture", section D8.3 "Translation table descriptor formats"; break-before-make is its section "TLB
//! maintenance".

use mmkit_addr::{Geometry, Level, Pfn, TableShape};

use crate::{EncodeError, Entry, Prot, Slot, Target};

/// arm64 with 4 KiB frames: 512 entries per table, leaves of 4 KiB, 2 MiB and 1 GiB.
pub type Arm64_4K = Arm64<12>;

/// arm64 with 16 KiB frames: 2048 entries per table, leaves of 16 KiB and 32 MiB.
pub type Arm64_16K = Arm64<14>;

/// arm64 with 64 KiB frames: 8192 entries per table, leaves of 64 KiB and 512 MiB.
pub type Arm64_64K = Arm64<16>;

/// arm64 stage 1 descriptors (VMSAv8-64) with frames of `2^GRANULE` bytes: [`Arm64_4K`], [`Arm64_16K`], [`Arm64_64K`].
///
/// | bits | present leaf | present table | pending entry (bit 0 clear: the processor ignores the rest) |
/// |---|---|---|---|
/// | 0 | valid | valid | 0 |
/// | 1 | 1 at the last level, 0 above | 1 | kept |
/// | 2..=4 | memory attributes: number 0 | 0 | 0 |
/// | 6 | AP\[1\]: user | 0 | kept |
/// | 7 | AP\[2\]: read-only | 0 | kept |
/// | 8, 9 | inner shareable: both | 0 | kept |
/// | 10 | accessed | accessed | kept |
/// | 11 | not global | 0 | kept |
/// | `GRANULE`..=47 | frame | frame | kept |
/// | 51 | dirty state is the processor's: 0 | 0 | 0 |
/// | 52 | contiguous: 0 | 0 | 0 |
/// | 53, 54 | no execute, privileged and unprivileged | 0 | kept |
/// | 55 | 0 | software: the table is shared | kept |
/// | 56..=63 | 0 | 0 | the batch's tag |
///
/// A processor has no reason to write to an entry: the accessed flag is there from the start, and a writable leaf is
/// writable from the start (a processor that manages dirty state does so where bit 51 is set). What is `EXEC` and
/// `USER` is executed by the least privileged mode alone, what is `EXEC` without `USER` by the privileged one alone.
///
/// # What the processor must be set up for
///
/// * Entries are those of a regime with two privilege levels (EL1&0, or EL2&0), with direct permissions. Attribute 0 of
///   its `MAIR` is normal memory, write-back. `TCR.DS` is 0, so that frames end at 48 bits. (A 52-bit `IPS` with 64K
///   frames is fine: all tables and leaves are below 256 TiB.)
/// * The processor has a root for each half of the addresses. A tree with lower addresses goes into `TTBR0_EL1`, one with
///   upper addresses into `TTBR1_EL1`, with `T0SZ` or `T1SZ` 64 less the geometry's address bits: a tree that
///   a processor walks keeps to one of the halves.
/// * Whoever maps and then uses what was mapped has a `DSB ISHST` and an `ISB` in between;
///   [`Mmu::flush`](crate::Mmu::flush) begins with a `DSB ISHST` and ends with `DSB ISH` and `ISB`.
/// * A live entry is given another output address, another size or another [`Prot::GLOBAL`] by break-before-make
///   ([`Mmu::replace`](crate::Mmu::replace)). What it allows is changed in place.
///
/// # No contiguous bit
///
/// Runs of 16 to 128 entries may be marked to be cached as one. These formats never do. All entries of a run have to be
/// broken for a change of one, and a memory map is changed by single pages; and its shared tails, most of its entries, all
/// lead to one frame, which is no run. A memory map that is not shared is better off with leaves of a higher level.
#[derive(Clone, Copy, Debug)]
pub enum Arm64<const GRANULE: u32> {}

const VALID: u64 = 1 << 0;
/// A page at the last level, a table above; clear: a block.
const TABLE_OR_PAGE: u64 = 1 << 1;
const USER: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 0b11 << 8;
const ACCESSED: u64 = 1 << 10;
const NOT_GLOBAL: u64 = 1 << 11;
const ADDRESS_BITS: u32 = 48;
const PRIVILEGED_NO_EXEC: u64 = 1 << 53;
const USER_NO_EXEC: u64 = 1 << 54;
const SHARED: u64 = 1 << 55;
const TAG_SHIFT: u32 = 56;

impl<const GRANULE: u32> Arm64<GRANULE> {
    /// log2 of the entries of a full table.
    const INDEX_BITS: u32 = GRANULE - 3;
    /// The highest level with leaves. (Larger blocks came with 52-bit addresses in 4K and 16K tables.)
    const MAX_LEAF: u8 = if GRANULE == 12 { 2 } else { 1 };
    /// Where the frame is.
    const FRAME: u64 = ((1 << ADDRESS_BITS) - 1) & !((1 << GRANULE) - 1);
    /// The highest frame.
    const MAX_FRAME: Pfn = match Pfn::new(Self::FRAME >> GRANULE) {
        Some(pfn) => pfn,
        None => unreachable!(),
    };

    /// All bits of a present entry but the valid bit.
    #[inline(always)]
    fn encode_target(target: Target, level: Level) -> Result<u64, EncodeError> {
        let pfn = target.pfn();
        if pfn > Self::MAX_FRAME {
            return Err(EncodeError::FrameTooHigh { pfn, max: Self::MAX_FRAME });
        }
        let mut raw = (pfn.get() << GRANULE) | ACCESSED;
        match target {
            Target::Leaf { prot, .. } => {
                if level.get() > Self::MAX_LEAF {
                    return Err(EncodeError::NoLeaf { level });
                }
                // Bits below a block's address have other meanings.
                let frames = 1 << (Self::INDEX_BITS * u32::from(level.get()));
                if pfn.get() & (frames - 1) != 0 {
                    return Err(EncodeError::Misaligned { pfn, frames });
                }
                raw |= INNER_SHAREABLE;
                if level == Level::LAST {
                    raw |= TABLE_OR_PAGE;
                }
                if !prot.contains(Prot::WRITE) {
                    raw |= READ_ONLY;
                }
                if !prot.contains(Prot::GLOBAL) {
                    raw |= NOT_GLOBAL;
                }
                // The mode that is not meant never executes.
                let (user, no_exec, never) = if prot.contains(Prot::USER) {
                    (USER, USER_NO_EXEC, PRIVILEGED_NO_EXEC)
                } else {
                    (0, PRIVILEGED_NO_EXEC, USER_NO_EXEC)
                };
                raw |= user | never;
                if !prot.contains(Prot::EXEC) {
                    raw |= no_exec;
                }
            }
            // What a table forbids, all leaves below would: each leaf decides for itself.
            Target::Table { .. } | Target::Shared { .. } => {
                if level == Level::LAST {
                    return Err(EncodeError::NoTable { level });
                }
                raw |= TABLE_OR_PAGE;
                if matches!(target, Target::Shared { .. }) {
                    raw |= SHARED;
                }
            }
        }
        Ok(raw)
    }

    #[inline(always)]
    fn decode_target(raw: u64, level: Level) -> Target {
        // At most 36 bits, and a frame number has 52.
        let pfn = Pfn::new((raw & Self::FRAME) >> GRANULE).unwrap_or(Self::MAX_FRAME);
        if level != Level::LAST && raw & TABLE_OR_PAGE != 0 {
            return if raw & SHARED != 0 { Target::Shared { pfn } } else { Target::Table { pfn } };
        }
        let user = raw & USER != 0;
        let no_exec = if user { USER_NO_EXEC } else { PRIVILEGED_NO_EXEC };
        let mut prot = Prot::READ;
        prot.set(Prot::WRITE, raw & READ_ONLY == 0);
        prot.set(Prot::EXEC, raw & no_exec == 0);
        prot.set(Prot::USER, user);
        prot.set(Prot::GLOBAL, raw & NOT_GLOBAL == 0);
        Target::Leaf { pfn, prot }
    }
}

// SAFETY:
// * `encode` refuses frames that end above bit 47, frames that a block of the level cannot start at, and levels without
//   the kind; every field it writes lies in bits of its own (the table above), so `decode` reads back each of them. A leaf
//   above the last level has bit 1 clear and a table has it set; the last level has leaves only. A present entry has
//   bit 0; a pending one has not, and is not 0, for bit 10 is set in every target.
// * `Empty` is 0 and nothing else is.
// * Bit 0 is the valid bit of the architecture, clear in both; it ignores all other bits then.
// * A processor may set bit 10, which takes no part in decoding. It clears bit 7 only where bit 51 is set.
// * The tag has bits of its own, so `encode` refuses a pending target exactly where it refuses the present one.
unsafe impl<const GRANULE: u32> Entry for Arm64<GRANULE> {
    const NAME: &'static str = match GRANULE {
        12 => "arm64-4k",
        14 => "arm64-16k",
        16 => "arm64-64k",
        _ => panic!("arm64 frames have 4K, 16K or 64K"),
    };

    fn supports(geometry: &Geometry) -> bool {
        let levels = geometry.levels();
        let root = levels.len().saturating_sub(1);
        let fits = |(at, table): (usize, &TableShape)| {
            let wide = table.index_bits() == Self::INDEX_BITS;
            (wide || at == root && table.index_bits() < Self::INDEX_BITS)
                && (table.level().get() <= Self::MAX_LEAF || !table.may_be_leaf())
        };
        geometry.base_shift() == GRANULE
            && geometry.virtual_bits().is_some_and(|bits| bits <= ADDRESS_BITS)
            && levels.iter().enumerate().all(fits)
    }

    #[inline]
    fn encode(slot: Slot, level: Level) -> Result<u64, EncodeError> {
        match slot {
            Slot::Empty => Ok(0),
            Slot::Present(target) => Ok(Self::encode_target(target, level)? | VALID),
            Slot::Pending(target, tag) => {
                Ok(Self::encode_target(target, level)? | (u64::from(tag) << TAG_SHIFT))
            }
        }
    }

    #[inline]
    fn decode(raw: u64, level: Level) -> Slot {
        match raw {
            0 => Slot::Empty,
            _ if raw & VALID != 0 => Slot::Present(Self::decode_target(raw, level)),
            // The eight highest bits.
            _ => Slot::Pending(Self::decode_target(raw, level), (raw >> TAG_SHIFT) as u8),
        }
    }
}
