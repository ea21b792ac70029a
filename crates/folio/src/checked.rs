// SPDX-License-Identifier: MIT OR Apache-2.0
//! A map of counts, for tests: who maps what, in full.

extern crate std;

use std::collections::{BTreeMap, HashMap};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use mmkit_page::Words;
use mmkit_sync::atomic::Ordering;

use crate::tracker::{compare, sealed};
use crate::words::{MAX, TOTAL, one_entire_fewer, one_more_entire};
use crate::{MapError, MmId, Tracker, Why};

/// Counts the mappings of each address space by itself, in a table beside the descriptors: the oracle of tests. Feature
/// `test-util`; needs `std`.
///
/// It refuses every removal of what was never mapped, and every answer is exact. The table is one for the whole program,
/// keyed by where the words are; an entry ends with the last mapping, and a folio whose T is 0 has none, whatever was at
/// its place before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {}

/// Mappings of each address space, by folio.
type Table = HashMap<usize, BTreeMap<MmId, u32>>;

static TABLE: LazyLock<Mutex<Table>> = LazyLock::new(Mutex::default);

fn table() -> MutexGuard<'static, Table> {
    // A test that failed with the lock held leaves the table as it was before its operation.
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key(words: &Words<'_>) -> usize {
    core::ptr::from_ref(words.half).addr()
}

/// The folio's entry; emptied first if nobody maps the folio.
fn entry<'t>(table: &'t mut Table, words: &Words<'_>) -> &'t mut BTreeMap<MmId, u32> {
    let counts = table.entry(key(words)).or_default();
    if words.half[TOTAL].load(Ordering::Relaxed) == 0 {
        counts.clear();
    }
    counts
}

fn total(counts: &BTreeMap<MmId, u32>) -> u32 {
    counts.values().sum()
}

impl Checked {
    /// Mappings of each address space that has any.
    #[must_use]
    pub fn counts(words: &Words<'_>) -> BTreeMap<MmId, u32> {
        entry(&mut table(), words).clone()
    }
}

/// Takes `count` mappings of `mm` away.
fn take(counts: &mut BTreeMap<MmId, u32>, mm: MmId, count: u32) -> Result<u32, MapError> {
    let mappings = total(counts);
    if mappings < count {
        return Err(MapError::TooFew { mappings, removing: count });
    }
    match counts.get_mut(&mm) {
        Some(own) if *own >= count => {
            *own -= count;
            if *own == 0 {
                counts.remove(&mm);
            }
            Ok(mappings - count)
        }
        _ => Err(MapError::NotTheirs { mm, removing: count, mappings }),
    }
}

fn add(table: &mut Table, words: &Words<'_>, mm: MmId, count: u32) -> Result<u32, MapError> {
    if count == 0 {
        return Err(MapError::Empty);
    }
    let counts = entry(table, words);
    let mappings = total(counts);
    if count > MAX || mappings > MAX - count {
        return Err(MapError::Overflow { mappings, adding: count.into() });
    }
    *counts.entry(mm).or_default() += count;
    words.half[TOTAL].store(mappings + count, Ordering::Relaxed);
    Ok(mappings + count)
}

fn remove(table: &mut Table, words: &Words<'_>, mm: MmId, count: u32) -> Result<u32, MapError> {
    if count == 0 {
        return Err(MapError::Empty);
    }
    let left = take(entry(table, words), mm, count)?;
    words.half[TOTAL].store(left, Ordering::Relaxed);
    if left == 0 {
        table.remove(&key(words));
    }
    Ok(left)
}

impl sealed::Sealed for Checked {}

impl Tracker for Checked {
    const NAME: &'static str = "Checked";
    const SPARE_WORD: usize = 0;

    fn start(words: &Words<'_>, mm: MmId, count: u32) {
        let mut table = table();
        table.insert(key(words), BTreeMap::from([(mm, count)]));
        words.half[TOTAL].store(count, Ordering::Relaxed);
    }

    fn add(words: &Words<'_>, mm: MmId, count: u32) -> Result<u32, MapError> {
        add(&mut table(), words, mm, count)
    }

    fn remove(words: &Words<'_>, mm: MmId, count: u32) -> Result<u32, MapError> {
        remove(&mut table(), words, mm, count)
    }

    fn add_entire(words: &Words<'_>, mm: MmId) -> Result<(u32, bool), MapError> {
        let mut table = table();
        one_more_entire(words, || add(&mut table, words, mm, 1))
    }

    fn remove_entire(words: &Words<'_>, mm: MmId) -> Result<(u32, bool), MapError> {
        let mut table = table();
        one_entire_fewer(words, || remove(&mut table, words, mm, 1))
    }

    fn remap(words: &Words<'_>, mm: MmId, adding: u32) -> Result<(u32, bool), MapError> {
        let mut table = table();
        one_entire_fewer(words, || {
            // What is removed must have been there before.
            take(&mut entry(&mut table, words).clone(), mm, 1)?;
            add(&mut table, words, mm, adding)?;
            remove(&mut table, words, mm, 1)
        })
    }

    fn maybe_mapped_shared(words: &Words<'_>) -> bool {
        entry(&mut table(), words).len() > 1
    }

    fn sole_user(words: &Words<'_>, held: u32, references: impl FnOnce() -> u32) -> Result<(), Why> {
        let mut table = table();
        let counts = entry(&mut table, words);
        if counts.len() > 1 {
            return Err(Why::Shared);
        }
        compare(total(counts), held, references())
    }

    fn sole_owner(words: &Words<'_>) -> Option<MmId> {
        let mut table = table();
        let counts = entry(&mut table, words);
        if counts.len() == 1 { counts.keys().next().copied() } else { None }
    }

    fn single_added(words: &Words<'_>, mm: MmId, count: u32) {
        let mut table = table();
        let counts = table.entry(key(words)).or_default();
        // Added to T already: these are the first if T is no more than that.
        if words.half[TOTAL].load(Ordering::Relaxed) <= count {
            counts.clear();
        }
        *counts.entry(mm).or_default() += count;
    }

    fn single_removed(words: &Words<'_>, mm: MmId, count: u32) -> Result<(), MapError> {
        take(entry(&mut table(), words), mm, count).map(drop)
    }
}
