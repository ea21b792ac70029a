// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is asked for: flags, and which of them go together.

use core::fmt;

use bitflags::bitflags;
use mmkit_page::PinUse;

bitflags! {
    /// How pages are to be held. Linux: `FOLL_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct Flags: u16 {
        /// A reference on each page: it is not freed. Linux: `FOLL_GET`.
        const GET = 1 << 0;
        /// A pin on each page: its contents are accessed, so it also stays the address space's. Linux: `FOLL_PIN`.
        const PIN = 1 << 1;
        /// The pages will be written.
        const WRITE = 1 << 2;
        /// For as long as the holder likes: memory that has to stay movable, or belongs to a file, is not held so.
        const LONGTERM = 1 << 3;
        /// Also where the area does not allow it but could: debuggers.
        const FORCE = 1 << 4;
        /// Anonymous memory only.
        const ANON = 1 << 5;
        /// Leaves of higher levels are split first. Linux: `FOLL_SPLIT_PMD`.
        const SPLIT = 1 << 6;
        /// Nothing is faulted in.
        const NOFAULT = 1 << 7;
        /// No lock is taken: what can be had without. Linux: `FOLL_FAST_ONLY`.
        const FAST_ONLY = 1 << 8;
        /// The caller can deal with memory of a peer device. Linux: `FOLL_PCI_P2PDMA`.
        const PEER = 1 << 9;
        /// Entries that are inaccessible so that an access is noticed count as an access. Linux: `FOLL_HONOR_NUMA_FAULT`.
        const HONOR_HINT = 1 << 10;
        /// Any signal ends the waiting, not only one that kills.
        const INTERRUPTIBLE = 1 << 11;
        /// Folios are marked as referenced. Linux: `FOLL_TOUCH`.
        const TOUCH = 1 << 12;
    }
}

/// Flags that go together.
///
/// ```
/// use mmkit_gup::{Flags, Request, Rule};
///
/// let request = Request::new(Flags::PIN | Flags::WRITE | Flags::LONGTERM)?;
/// assert!(request.is_pin());
/// assert_eq!(Request::new(Flags::GET | Flags::LONGTERM).unwrap_err().rule, Rule::LongTermIsPinned);
/// # Ok::<(), mmkit_gup::BadFlags>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request(Flags);

impl Request {
    /// A request with these flags.
    ///
    /// # Errors
    ///
    /// [`BadFlags`], which names the first [`Rule`] that they break.
    pub const fn new(flags: Flags) -> Result<Self, BadFlags> {
        match broken(flags) {
            Some(rule) => Err(BadFlags { flags, rule }),
            None => Ok(Self(flags)),
        }
    }

    /// The flags.
    #[inline]
    #[must_use]
    pub const fn flags(self) -> Flags {
        self.0
    }

    /// Whether pages are pinned, and not only referenced.
    #[inline]
    #[must_use]
    pub const fn is_pin(self) -> bool {
        self.0.contains(Flags::PIN)
    }

    /// Whether they will be written.
    #[inline]
    #[must_use]
    pub const fn is_write(self) -> bool {
        self.0.contains(Flags::WRITE)
    }

    /// Whether they stay for as long as the holder likes.
    #[inline]
    #[must_use]
    pub const fn is_longterm(self) -> bool {
        self.0.contains(Flags::LONGTERM)
    }

    /// What those are told who know the kind of memory.
    #[inline]
    pub(crate) fn usage(self) -> PinUse {
        let mut usage = PinUse::empty();
        usage.set(PinUse::WRITE, self.is_write());
        usage.set(PinUse::LONGTERM, self.is_longterm());
        usage.set(PinUse::PEER, self.0.contains(Flags::PEER));
        usage
    }
}

/// The first rule that `flags` break.
const fn broken(flags: Flags) -> Option<Rule> {
    let unknown = flags.bits() & !Flags::all().bits() != 0;
    let (get, pin) = (flags.contains(Flags::GET), flags.contains(Flags::PIN));
    if unknown {
        Some(Rule::Known)
    } else if get && pin {
        Some(Rule::OneHold)
    } else if !get && !pin {
        Some(Rule::SomeHold)
    } else if flags.contains(Flags::LONGTERM) && !pin {
        Some(Rule::LongTermIsPinned)
    } else if flags.contains(Flags::LONGTERM) && flags.contains(Flags::PEER) {
        Some(Rule::PeersAreNotForLong)
    } else if flags.contains(Flags::FAST_ONLY)
        && flags.intersects(Flags::ANON.union(Flags::SPLIT).union(Flags::INTERRUPTIBLE))
    {
        Some(Rule::FastSeesNoAreas)
    } else {
        None
    }
}

/// Which flags go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// Every bit has a name.
    Known,
    /// `GET` or `PIN`, not both.
    OneHold,
    /// `GET` or `PIN`, not neither.
    SomeHold,
    /// `LONGTERM` goes with `PIN`: a reference alone does not say that the contents are accessed.
    LongTermIsPinned,
    /// `LONGTERM` does not go with `PEER`: a device can be pulled.
    PeersAreNotForLong,
    /// `FAST_ONLY` does not go with `ANON`, `SPLIT` or `INTERRUPTIBLE`: who takes no lock sees no areas, changes no entry
    /// and does not wait.
    FastSeesNoAreas,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Known => "every bit has a name",
            Self::OneHold => "GET and PIN exclude each other",
            Self::SomeHold => "one of GET and PIN is needed",
            Self::LongTermIsPinned => "LONGTERM needs PIN",
            Self::PeersAreNotForLong => "LONGTERM excludes PEER",
            Self::FastSeesNoAreas => "FAST_ONLY excludes ANON, SPLIT and INTERRUPTIBLE",
        })
    }
}

/// Flags that do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadFlags {
    /// The flags.
    pub flags: Flags,
    /// The rule that they break.
    pub rule: Rule,
}

impl fmt::Display for BadFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.flags, self.rule)
    }
}

impl core::error::Error for BadFlags {}
