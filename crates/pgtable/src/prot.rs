// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a mapping allows.

use core::fmt;

bitflags::bitflags! {
    /// What a leaf allows beside being read, which every present leaf does.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Prot: u8 {
        /// Stores.
        const WRITE = 1 << 0;
        /// Instruction fetches.
        const EXEC = 1 << 1;
        /// Accesses from the least privileged mode.
        const USER = 1 << 2;
        /// The translation is the same in every address space, so that switching between them keeps it cached.
        const GLOBAL = 1 << 3;
    }
}

impl Prot {
    /// Readable only.
    pub const READ: Self = Self::empty();
}

/// `r--`, `rw-`, `r-x`, `rwx`, followed by `u` for `USER` and `g` for `GLOBAL`.
impl fmt::Display for Prot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("r")?;
        f.write_str(if self.contains(Self::WRITE) { "w" } else { "-" })?;
        f.write_str(if self.contains(Self::EXEC) { "x" } else { "-" })?;
        if self.contains(Self::USER) {
            f.write_str("u")?;
        }
        if self.contains(Self::GLOBAL) {
            f.write_str("g")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Prot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
