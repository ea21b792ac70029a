// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is timed, and out of which courses of events.

/// What a row of the table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Unmaps everything, as its only owner.
    Munmap,
    /// Makes a child; its exit is not part of it.
    Fork,
    /// Writes a byte to each page while a child has them too: all are copied.
    CowByte,
    /// The same after the child's exit.
    ReuseByte,
    /// The child does, after the parent has unmapped everything.
    ChildReuseByte,
    /// One child per core writes a byte to each page, in ascending order.
    AnonCowSeq,
    /// The same, each in a random order of its own.
    AnonCowRand,
}

impl Op {
    pub(crate) const ALL: [Self; 7] = [
        Self::Munmap,
        Self::Fork,
        Self::CowByte,
        Self::ReuseByte,
        Self::ChildReuseByte,
        Self::AnonCowSeq,
        Self::AnonCowRand,
    ];

    /// As the published tables call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Munmap => "munmap",
            Self::Fork => "fork",
            Self::CowByte => "cow-byte",
            Self::ReuseByte => "reuse-byte",
            Self::ChildReuseByte => "child-reuse-byte",
            Self::AnonCowSeq => "anon-cow-seq",
            Self::AnonCowRand => "anon-cow-rand",
        }
    }
}

/// What happens to a freshly populated address space from then to its end. Some of it is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// `munmap`.
    Unmap,
    /// `fork`, `cow-byte`.
    Copy,
    /// `fork`, exit of the child, `reuse-byte`.
    Reuse,
    /// `fork`, the parent unmaps, `child-reuse-byte`.
    ChildReuse,
    /// A fork for each core, `anon-cow-seq`.
    Sequential,
    /// A fork for each core, `anon-cow-rand`.
    Random,
}

impl Course {
    pub(crate) const ALL: [Self; 6] =
        [Self::Unmap, Self::Copy, Self::Reuse, Self::ChildReuse, Self::Sequential, Self::Random];
}

/// Which pages a course's writers got copies of, and which they kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Nobody wrote.
    Nothing,
    /// All were copied, once for each writer.
    Copied,
    /// All were kept.
    Reused,
}

impl Course {
    /// Which of its timed operations costs more where pages have counts, by a number of atomics alone.
    pub(crate) const fn counted(self) -> Option<Op> {
        match self {
            Self::Unmap => Some(Op::Munmap),
            Self::Copy | Self::Reuse | Self::ChildReuse => Some(Op::Fork),
            Self::Sequential | Self::Random => None,
        }
    }

    /// What must happen, in folios of several pages or of one, where owners are tracked or not.
    pub(crate) const fn expected(self, large: bool, tracked: bool) -> Expected {
        match self {
            Self::Unmap => Expected::Nothing,
            // A folio of one page is reused by its count alone.
            Self::Reuse | Self::ChildReuse if tracked || !large => Expected::Reused,
            Self::Reuse | Self::ChildReuse | Self::Copy | Self::Sequential | Self::Random => Expected::Copied,
        }
    }
}
