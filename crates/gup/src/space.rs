// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a kernel implements once: its address spaces, as the walkers see them.

use mmkit_addr::{Order, VirtAddr};
use mmkit_folio::Mapcounts;
use mmkit_page::{Folio, MemMap, PinPolicy};
use mmkit_sync::SeqCount;

use crate::{Area, FaultError, FaultFlags, Faulted, FileKind, Format, Interruption, Migrate, Rows, Slot};

/// One address space, as far as pages of it are held. Linux: `struct mm_struct`, its page tables and areas.
///
/// Nothing here is unsafe to implement. Whatever an implementor says, references are taken on folios that have some, and
/// counted. A wrong answer holds other pages than asked for; so whoever lets a device at them relies on it, and the
/// contract of each method is to be kept to the letter.
///
/// # Two ways in
///
/// *Lockless*: [`read`](Self::read) keeps tables from being freed, and nothing else; entries may change at any time. The
/// walker reads entries, takes references, and looks at the entries again. *Locked*: [`lock`](Self::lock) keeps areas as
/// they are, [`table`](Self::table) the entries of one table.
///
/// # What those who change entries do
///
/// 1. An entry is cleared, or replaced, before the references of its mapping are given back, and those go only after a flush.
/// 2. Whoever takes pages away from their writers for another address space (fork) has the areas locked against
///    [`lock`](Self::lock), or the table, also where no entry changes; and
///    [`write_protect_seq`](Self::write_protect_seq) odd meanwhile, with a `SeqCst` fence after making it so and before the
///    look at pins (pairs with the walker's, between its pins and its look at the count).
/// 3. Whoever clears an entry and then looks at references or pins (swap, migration, split) has a `SeqCst` fence in between
///    (pairs with the walker's, between its references and its second look at the entry).
/// 4. Tables are freed after the read side of `read` was waited for.
pub trait AddressSpace {
    /// The memory map of the frames.
    type Map: MemMap<Counts: Mapcounts>;
    /// Who knows what may be pinned; `()` where everything may.
    type Policy: PinPolicy<Self::Map>;
    /// Who moves folios that may not be pinned where they are; `()` where nobody does.
    type Migrate: Migrate<Self::Map>;
    /// A stay inside the read side of the page tables.
    type Reader<'a>: Rows
    where
        Self: 'a;
    /// The lock of the areas, shared. Linux: `mmap_lock`, read.
    type Locked<'a>
    where
        Self: 'a;
    /// The lock of one table's entries.
    type Table<'a>: Rows
    where
        Self: 'a;

    /// The memory map.
    fn map(&self) -> &Self::Map;

    /// Who knows what may be pinned. It is asked with a table locked, or inside a reader.
    fn policy(&self) -> &Self::Policy;

    /// Who moves folios.
    fn migrate(&self) -> &Self::Migrate;

    /// The entries' format. It never changes.
    fn format(&self) -> Format;

    /// What `raw`, an entry that maps `2^order` frames if it is a leaf, says. Asked for the first entry of a run alone, and
    /// where that is not known yet, to guess at what comes soon: it answers for any `raw`.
    fn decode(&self, raw: u64, order: Order) -> Slot;

    /// The count that is odd while somebody takes pages away from their writers. Linux: `write_protect_seq`.
    fn write_protect_seq(&self) -> &SeqCount;

    /// Enters the read side of the page tables. Linux: interrupts off.
    fn read(&self) -> Self::Reader<'_>;

    /// Locks the areas, shared.
    fn lock(&self) -> Self::Locked<'_>;

    /// The area that has `va`.
    fn area(&self, locked: &Self::Locked<'_>, va: VirtAddr) -> Option<Area>;

    /// Locks the table with the entry of `va`. Rows of the result end where the lock ends, and have at least the entry of
    /// `va`, or are empty because there is no such table.
    fn table(&self, locked: &Self::Locked<'_>, va: VirtAddr) -> Self::Table<'_>;

    /// Makes the page at `va`, which is in an area, what `flags` ask for, as an access would. Linux: `handle_mm_fault`.
    ///
    /// Another thread may have undone it when this returns; the walker looks, and comes back. An implementor that lets the
    /// lock go says so, and then may not have done anything yet.
    ///
    /// # Errors
    ///
    /// [`FaultError`]. The lock is gone then.
    fn fault_in<'a>(
        &'a self,
        locked: Self::Locked<'a>,
        va: VirtAddr,
        flags: FaultFlags,
    ) -> Result<Faulted<Self::Locked<'a>>, FaultError>;

    /// What `folio`, which is not anonymous and on which there is a reference, is a part of. Asked inside a reader too, where
    /// no area says it. One look at whatever ties the folio to its file decides: it may be cut off at any time.
    fn file(&self, folio: &Folio<'_, Self::Map>) -> FileKind;

    /// Whether the thread is to give up waiting: asked before every fault.
    fn interrupted(&self) -> Option<Interruption> {
        None
    }

    /// Pages of the address space are about to be pinned. Comes before the first look at
    /// [`write_protect_seq`](Self::write_protect_seq). Linux: `MMF_HAS_PINNED`.
    fn will_pin(&self) {}
}
