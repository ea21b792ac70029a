// SPDX-License-Identifier: MIT OR Apache-2.0
//! Moving folios out of the way of pins that stay.

use core::fmt;

use mmkit_page::{Folio, MemMap};

/// Folios that are moved at a time.
const BATCH: usize = 16;

/// Who moves the contents of folios to other memory, so that nobody minds if that stays where it is. Linux: the
/// migration core, as `migrate_longterm_unpinnable_folios` uses it.
///
/// `()` moves nothing: what cannot be pinned where it is cannot be pinned.
pub trait Migrate<M: MemMap> {
    /// Sets `folio` aside, so that nobody else moves or frees it; whether that could be done. A folio that is set aside
    /// comes to [`migrate`](Self::migrate) soon. Called with a table locked.
    fn isolate(&self, folio: &Folio<'_, M>) -> bool;

    /// Makes folios that wait in some processor's list available for [`isolate`](Self::isolate). Called without locks, after
    /// a refusal.
    fn drain(&self) {}

    /// Moves what was set aside. Each handle is one reference beside those of mappings, and whoever else's. Whatever comes of
    /// it, none of them is set aside any more when this returns: those that did not move go back where they were. Called
    /// without locks; it may wait, and must not hand out memory that cannot be pinned.
    ///
    /// # Errors
    ///
    /// [`MigrateError`] if one of them did not move.
    fn migrate(&self, isolated: Isolated<'_, M>) -> Result<(), MigrateError>;
}

impl<M: MemMap> Migrate<M> for () {
    fn isolate(&self, _: &Folio<'_, M>) -> bool {
        false
    }

    fn migrate(&self, _: Isolated<'_, M>) -> Result<(), MigrateError> {
        Err(MigrateError::Busy)
    }
}

/// Why folios stayed where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MigrateError {
    /// There is no memory to move to. Linux: `-ENOMEM`.
    NoMemory,
    /// Somebody else has references, or it could not be set aside.
    Busy,
}

impl fmt::Display for MigrateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoMemory => "there is no memory to move a folio to",
            Self::Busy => "a folio that had to move is in use",
        })
    }
}

impl core::error::Error for MigrateError {}

/// Folios that were set aside, each with a reference: an iterator over them.
pub struct Isolated<'m, M: MemMap> {
    folios: [Option<Folio<'m, M>>; BATCH],
    len: usize,
}

impl<'m, M: MemMap> Isolated<'m, M> {
    pub(crate) fn new() -> Self {
        Self { folios: [const { None }; BATCH], len: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len == BATCH
    }

    /// The caller looks whether there is room.
    pub(crate) fn push(&mut self, folio: Folio<'m, M>) {
        if let Some(slot) = self.folios.get_mut(self.len) {
            *slot = Some(folio);
            self.len += 1;
        }
    }
}

impl<'m, M: MemMap> Iterator for Isolated<'m, M> {
    type Item = Folio<'m, M>;

    fn next(&mut self) -> Option<Folio<'m, M>> {
        self.len = self.len.checked_sub(1)?;
        self.folios[self.len].take()
    }
}

impl<M: MemMap> fmt::Debug for Isolated<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.folios[..self.len].iter().flatten()).finish()
    }
}
