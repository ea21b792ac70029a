// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a folio may be pinned, as those say who know what kind of memory it is.

use core::fmt;

use bitflags::bitflags;

use crate::{Folio, MemMap};

bitflags! {
    /// What a pin is for, as far as the kind of memory has a say in it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct PinUse: u8 {
        /// The memory will be written.
        const WRITE = 1 << 0;
        /// The pin may last for as long as its owner likes. Linux: `FOLL_LONGTERM`.
        const LONGTERM = 1 << 1;
        /// The caller can deal with memory of a peer device. Linux: `FOLL_PCI_P2PDMA`.
        const PEER = 1 << 2;
    }
}

/// What a [`PinPolicy`] says of one folio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PinVerdict {
    /// It may be pinned where it is.
    Allow,
    /// It may be pinned after its contents have moved to other memory, of which nobody minds that it stays.
    Migrate,
    /// It may not be pinned so.
    Refuse(PinRefusal),
}

impl PinVerdict {
    /// The stricter of the two: a refusal, then a migration, then neither.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Refuse(_), _) => self,
            (_, Self::Refuse(_)) => other,
            (Self::Migrate, _) => self,
            _ => other,
        }
    }
}

/// Why a folio may not be pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PinRefusal {
    /// A file system has to be able to take its storage back, so nobody may keep it for as long as he likes.
    FileSystemDax,
    /// No processor can reach the memory.
    Private,
    /// Memory of a peer device, for a caller who did not say that he can deal with it; or for as long as he likes,
    /// while the device can be pulled.
    Peer,
    /// The device behind the memory is going.
    Gone,
}

impl fmt::Display for PinRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FileSystemDax => "storage of a file system cannot be pinned for long",
            Self::Private => "private device memory cannot be pinned",
            Self::Peer => "memory of a peer device needs a caller who can deal with it, and not for long",
            Self::Gone => "the device behind the memory is going",
        })
    }
}

impl core::error::Error for PinRefusal {}

/// Who knows what may be pinned. Linux: `folio_is_longterm_pinnable` and the checks by type around it.
///
/// Whoever pins asks once for each folio, with a reference on it, and does what the verdict says, without a look at
/// what kind of memory it is. Those who own a kind of memory implement this: a registry of device memory for its
/// devices, an allocator for zones whose frames have to stay movable. `()` allows everything; of a pair both are asked,
/// and the [stricter](PinVerdict::and) verdict holds.
///
/// It is asked with translations pinned down and possibly with interrupts off, so it neither blocks nor takes locks.
pub trait PinPolicy<M: MemMap> {
    /// What may be done with `folio`.
    fn verdict(&self, folio: &Folio<'_, M>, usage: PinUse) -> PinVerdict;
}

impl<M: MemMap> PinPolicy<M> for () {
    #[inline]
    fn verdict(&self, _: &Folio<'_, M>, _: PinUse) -> PinVerdict {
        PinVerdict::Allow
    }
}

impl<M: MemMap, P: PinPolicy<M> + ?Sized> PinPolicy<M> for &P {
    #[inline]
    fn verdict(&self, folio: &Folio<'_, M>, usage: PinUse) -> PinVerdict {
        (**self).verdict(folio, usage)
    }
}

impl<M: MemMap, A: PinPolicy<M>, B: PinPolicy<M>> PinPolicy<M> for (A, B) {
    #[inline]
    fn verdict(&self, folio: &Folio<'_, M>, usage: PinUse) -> PinVerdict {
        self.0.verdict(folio, usage).and(self.1.verdict(folio, usage))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_verdicts_the_stricter_holds() {
        let verdicts =
            [PinVerdict::Allow, PinVerdict::Migrate, PinVerdict::Refuse(PinRefusal::FileSystemDax)];
        for (i, &a) in verdicts.iter().enumerate() {
            for (j, &b) in verdicts.iter().enumerate() {
                assert_eq!(a.and(b), verdicts[i.max(j)], "{a:?} and {b:?}");
            }
        }
        let [gone, peer] = [PinRefusal::Gone, PinRefusal::Peer].map(PinVerdict::Refuse);
        assert_eq!(gone.and(peer), gone, "the first reason is the one that is given");
    }
}
