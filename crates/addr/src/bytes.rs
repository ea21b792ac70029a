// SPDX-License-Identifier: MIT OR Apache-2.0
//! What physical and virtual addresses, and ranges of them, have in common.

/// An address type of `$bits` bits, a range of its bytes, and the pieces of such a range.
///
/// The types are apart, so that neither is taken for the other, and have the same methods.
macro_rules! byte_addresses {
    ($(#[$addr_doc:meta])* $Addr:ident, $bits:literal, $word:literal;
     $(#[$range_doc:meta])* $Range:ident; $(#[$pieces_doc:meta])* $Pieces:ident;) => {
        $(#[$addr_doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $Addr(u64);

        impl $Addr {
            /// Bits of an address.
            pub const BITS: u32 = $bits;
            /// Address 0.
            pub const ZERO: Self = Self(0);
            /// The highest address, one less than 2 to the power of [`BITS`](Self::BITS).
            pub const MAX: Self = Self(u64::MAX >> (64 - Self::BITS));

            /// The number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The address `bytes` above, or `None` past [`MAX`](Self::MAX).
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match Self::MAX.0.checked_sub(self.0) {
                    Some(room) if bytes <= room => Some(Self(self.0 + bytes)),
                    _ => None,
                }
            }

            /// The address `bytes` below, or `None` below [`ZERO`](Self::ZERO).
            #[must_use]
            pub const fn checked_sub(self, bytes: u64) -> Option<Self> {
                match self.0.checked_sub(bytes) {
                    Some(addr) => Some(Self(addr)),
                    None => None,
                }
            }

            /// Bytes from `origin` up to this address, or `None` where `origin` is above.
            #[must_use]
            pub const fn offset_from(self, origin: Self) -> Option<u64> {
                self.0.checked_sub(origin.0)
            }

            /// The highest multiple of `2^shift` at or below this address (0 for a shift of 64 or more).
            #[must_use]
            pub const fn align_down(self, shift: u32) -> Self {
                Self(self.0 - self.offset_in(shift))
            }

            /// The lowest multiple of `2^shift` at or above this address, or `None` past [`MAX`](Self::MAX).
            #[must_use]
            pub const fn align_up(self, shift: u32) -> Option<Self> {
                match self.offset_in(shift) {
                    0 => Some(self),
                    _ if shift >= Self::BITS => None,
                    offset => self.checked_add((1 << shift) - offset),
                }
            }

            /// Whether this address is a multiple of `2^shift`.
            #[must_use]
            pub const fn is_aligned(self, shift: u32) -> bool {
                self.offset_in(shift) == 0
            }

            /// Bytes above the multiple of `2^shift` at or below this address.
            #[must_use]
            pub const fn offset_in(self, shift: u32) -> u64 {
                if shift < 64 { self.0 & ((1 << shift) - 1) } else { self.0 }
            }
        }

        impl core::fmt::Debug for $Addr {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!($word, " {:#x}"), self.0)
            }
        }

        impl core::fmt::LowerHex for $Addr {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::LowerHex::fmt(&self.0, f)
            }
        }

        $(#[$range_doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $Range {
            start: $Addr,
            bytes: u64,
        }

        impl $Range {
            /// `bytes` bytes from `start`, or `None` where the last one would be past the highest address.
            #[must_use]
            pub const fn new(start: $Addr, bytes: u64) -> Option<Self> {
                if bytes == 0 || start.checked_add(bytes - 1).is_some() {
                    Some(Self { start, bytes })
                } else {
                    None
                }
            }

            /// Bytes `start..end`, or `None` where `end` is below `start`.
            #[must_use]
            pub const fn between(start: $Addr, end: $Addr) -> Option<Self> {
                match end.offset_from(start) {
                    Some(bytes) => Some(Self { start, bytes }),
                    None => None,
                }
            }

            /// First byte.
            #[must_use]
            pub const fn start(self) -> $Addr {
                self.start
            }

            /// The last byte, or `None` of an empty range.
            #[must_use]
            pub const fn last(self) -> Option<$Addr> {
                match self.bytes.checked_sub(1) {
                    Some(offset) => self.start.checked_add(offset),
                    None => None,
                }
            }

            /// Bytes in the range.
            #[must_use]
            pub const fn bytes(self) -> u64 {
                self.bytes
            }

            /// Whether no byte lies in the range.
            #[must_use]
            pub const fn is_empty(self) -> bool {
                self.bytes == 0
            }

            /// Whether the byte at `addr` lies in the range.
            #[must_use]
            pub const fn contains(self, addr: $Addr) -> bool {
                match addr.offset_from(self.start) {
                    Some(offset) => offset < self.bytes,
                    None => false,
                }
            }

            /// Whether some byte lies in both.
            #[must_use]
            pub const fn overlaps(self, other: Self) -> bool {
                self.intersection(other).is_some()
            }

            /// The bytes that lie in both, or `None` where there are none.
            #[must_use]
            pub const fn intersection(self, other: Self) -> Option<Self> {
                let (low, high) = if self.start.0 <= other.start.0 { (self, other) } else { (other, self) };
                // Bytes of `low` at or above the start of `high`.
                let left = low.bytes.saturating_sub(high.start.0 - low.start.0);
                let bytes = if left < high.bytes { left } else { high.bytes };
                if bytes == 0 { None } else { Some(Self { start: high.start, bytes }) }
            }

            /// The first `bytes` bytes and the rest, or `None` where the range is shorter, or where the empty rest would
            /// start past the highest address.
            #[must_use]
            pub const fn split_at(self, bytes: u64) -> Option<(Self, Self)> {
                match (self.bytes.checked_sub(bytes), self.start.checked_add(bytes)) {
                    (Some(left), Some(middle)) => {
                        Some((Self { start: self.start, bytes }, Self { start: middle, bytes: left }))
                    }
                    _ => None,
                }
            }

            /// Whether the range begins and ends at multiples of `2^shift`.
            #[must_use]
            pub const fn is_aligned(self, shift: u32) -> bool {
                self.start.is_aligned(shift) && $Addr(self.bytes).is_aligned(shift)
            }

            /// The range cut at every multiple of `2^shift`, lowest piece first: how a table walker visits entries.
            #[must_use]
            pub const fn pieces(self, shift: u32) -> $Pieces {
                $Pieces { left: self, shift }
            }
        }

        $(#[$pieces_doc])*
        #[derive(Clone, Debug)]
        pub struct $Pieces {
            left: $Range,
            shift: u32,
        }

        impl Iterator for $Pieces {
            type Item = $Range;

            fn next(&mut self) -> Option<$Range> {
                if self.left.is_empty() {
                    return None;
                }
                let start = self.left.start;
                let cut = start.checked_add(1).and_then(|addr| addr.align_up(self.shift));
                let step = cut.and_then(|cut| cut.offset_from(start)).unwrap_or(self.left.bytes);
                if let Some((piece, rest)) = self.left.split_at(step) {
                    self.left = rest;
                    return Some(piece);
                }
                let piece = self.left;
                self.left.bytes = 0;
                Some(piece)
            }
        }

        impl core::iter::FusedIterator for $Pieces {}

        static_assertions::assert_eq_size!($Addr, u64);
        static_assertions::assert_eq_size!($Range, [u64; 2]);
        static_assertions::assert_impl_all!($Pieces: Send, Sync);
    };
}

pub(crate) use byte_addresses;
