// SPDX-License-Identifier: MIT OR Apache-2.0
//! Map counts of single pages, and how many pages are mapped.

use core::cell::Cell;
use core::ops::{ControlFlow, Range};

use mmkit_page::{Folio, MemMap, Words};
use mmkit_sync::atomic::Ordering;
use mmkit_sync::mutant;

use crate::words::{ENTIRE, PAGES_MAPPED, TOTAL, take_from, take_one_wide};
use crate::{MapError, Mapcounts, Tracker};

/// Added to the number of pages mapped while an entry maps the whole folio. So one atomic addition changes either and
/// tells about both. Linux: `ENTIRELY_MAPPED`.
pub const ENTIRELY_MAPPED: u32 = 0x80_0000;

/// The count of page `index`, whose words these are.
pub(crate) fn read<T: Tracker>(index: u64, words: &Words<'_>) -> u32 {
    if index == 1 {
        words.word[T::SPARE_WORD].load(Ordering::Relaxed) as u32
    } else {
        words.half[TOTAL].load(Ordering::Relaxed)
    }
}

/// The words of each page of `pages`. Whether the folio has them was checked when the batch was made.
#[inline]
fn words_of<'f, M>(
    folio: &'f Folio<'_, M>,
    pages: Range<u64>,
) -> Result<impl Iterator<Item = Words<'f>>, MapError>
where
    M: MemMap<Counts: Mapcounts>,
{
    // SAFETY: this crate keeps the counts of every map whose `Counts` is one of its strategies.
    let words = unsafe { folio.words_of(pages) };
    words.ok_or(MapError::SharedTails { order: folio.order() })
}

/// Calls `each` with the words of each page of `pages` whose count is in its own descriptor, and `one` with those of
/// page 1, in order; stops where they do.
#[inline]
fn visit<M>(
    folio: &Folio<'_, M>,
    pages: Range<u64>,
    mut each: impl FnMut(&Words<'_>) -> ControlFlow<()>,
    one: impl FnOnce(&Words<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, MapError>
where
    M: MemMap<Counts: Mapcounts>,
{
    if pages.contains(&0) && words_of(folio, 0..1)?.try_for_each(|words| each(&words)).is_break() {
        return Ok(ControlFlow::Break(()));
    }
    if pages.contains(&1)
        && let Some(words) = words_of(folio, 1..2)?.next()
        && one(&words).is_break()
    {
        return Ok(ControlFlow::Break(()));
    }
    let rest = pages.start.max(2)..pages.end.max(2);
    Ok(words_of(folio, rest)?.try_for_each(|words| each(&words)))
}

/// One more mapping of each page of `pages`; how many had none.
#[inline]
pub(crate) fn map<T: Tracker, M>(folio: &Folio<'_, M>, pages: Range<u64>) -> Result<u32, MapError>
where
    M: MemMap<Counts: Mapcounts>,
{
    let first = Cell::new(0);
    let note = |was_unmapped: bool| {
        first.set(first.get() + u32::from(was_unmapped));
        ControlFlow::Continue(())
    };
    let _ = visit(
        folio,
        pages,
        |words| note(words.half[TOTAL].fetch_add(1, Ordering::Relaxed) == 0),
        |words| note(words.word[T::SPARE_WORD].fetch_add(1, Ordering::Relaxed) == 0),
    )?;
    Ok(first.get())
}

/// One mapping fewer of each page of `pages`; how many have none left. If one has none to lose, nothing is changed.
#[inline]
pub(crate) fn unmap<T: Tracker, M>(folio: &Folio<'_, M>, pages: Range<u64>) -> Result<u32, MapError>
where
    M: MemMap<Counts: Mapcounts>,
{
    let (last, done) = (Cell::new(0), Cell::new(0));
    let note = |left: Option<u64>| {
        let Some(left) = left else { return ControlFlow::Break(()) };
        last.set(last.get() + u32::from(left == 0));
        done.set(done.get() + 1);
        ControlFlow::Continue(())
    };
    // A count of 0 is not touched: whoever maps the page at this moment must see that it is the first.
    let visited = visit(
        folio,
        pages.clone(),
        |words| {
            let count = &words.half[TOTAL];
            note(mutant!("pages-subtract-then-look", take_from(count, 1).ok().map(u64::from), {
                match count.fetch_sub(1, Ordering::Relaxed) {
                    0 => {
                        count.fetch_add(1, Ordering::Relaxed);
                        None
                    }
                    before => Some(u64::from(before - 1)),
                }
            }))
        },
        |words| note(take_one_wide(&words.word[T::SPARE_WORD])),
    )?;
    if visited.is_break() {
        let index = pages.start + done.get();
        undo::<T, M>(folio, pages.start..index, last.get())?;
        return Err(MapError::PageNotMapped { index });
    }
    Ok(last.get())
}

/// Takes back [`unmap`], which found `last` pages without mappings. If others mapped such a page meanwhile, they have
/// counted it as mapped anew: that is put right.
#[cold]
pub(crate) fn undo<T: Tracker, M>(folio: &Folio<'_, M>, pages: Range<u64>, last: u32) -> Result<(), MapError>
where
    M: MemMap<Counts: Mapcounts>,
{
    let first = map::<T, M>(folio, pages)?;
    let counted = last.saturating_sub(first);
    if counted > 0 {
        crate::shape::counts(folio)?.half[PAGES_MAPPED].fetch_sub(counted, Ordering::Relaxed);
    }
    Ok(())
}

/// `first` more pages are mapped by PTEs; by how many more the folio's pages are mapped at all.
#[inline]
pub(crate) fn count_mapped(words: &Words<'_>, first: u32) -> i64 {
    if first == 0 {
        return 0;
    }
    let now = words.half[PAGES_MAPPED].fetch_add(first, Ordering::Relaxed).wrapping_add(first);
    if now < ENTIRELY_MAPPED { first.into() } else { 0 }
}

/// `last` fewer pages are mapped by PTEs; by how many fewer they are mapped at all, and whether some still are.
#[inline]
pub(crate) fn count_unmapped(words: &Words<'_>, last: u32) -> (i64, bool) {
    if last == 0 {
        return (0, false);
    }
    let now = words.half[PAGES_MAPPED].fetch_sub(last, Ordering::Relaxed).wrapping_sub(last);
    if now < ENTIRELY_MAPPED { (last.into(), now != 0) } else { (0, now != 0) }
}

/// An entry maps the whole folio, as the first; how many of its `pages` were not mapped.
#[inline]
pub(crate) fn count_entire(words: &Words<'_>, pages: i64) -> i64 {
    let now =
        words.half[PAGES_MAPPED].fetch_add(ENTIRELY_MAPPED, Ordering::Relaxed).wrapping_add(ENTIRELY_MAPPED);
    if now < 2 * ENTIRELY_MAPPED { (pages - i64::from(now & (ENTIRELY_MAPPED - 1))).max(0) } else { 0 }
}

/// The last such entry is gone; how many of its `pages` are no longer mapped.
#[inline]
pub(crate) fn count_not_entire(words: &Words<'_>, pages: i64) -> i64 {
    let now =
        words.half[PAGES_MAPPED].fetch_sub(ENTIRELY_MAPPED, Ordering::Relaxed).wrapping_sub(ENTIRELY_MAPPED);
    if now < ENTIRELY_MAPPED { (pages - i64::from(now)).max(0) } else { 0 }
}

/// One more entry maps the whole folio; whether it is the first.
#[inline]
pub(crate) fn map_entire(words: &Words<'_>) -> bool {
    words.half[ENTIRE].fetch_add(1, Ordering::Relaxed) == 0
}

/// One entry fewer maps the whole folio; whether it was the last.
#[inline]
pub(crate) fn unmap_entire(words: &Words<'_>) -> Result<bool, MapError> {
    match take_from(&words.half[ENTIRE], 1) {
        Ok(left) => Ok(left == 0),
        Err(_) => Err(MapError::EntireNotMapped),
    }
}

/// Page `index`, of a folio that nobody sees, has one mapping.
pub(crate) fn start<T: Tracker>(index: u64, words: &Words<'_>) {
    if index == 1 {
        words.word[T::SPARE_WORD].store(1, Ordering::Relaxed);
    } else {
        words.half[TOTAL].store(1, Ordering::Relaxed);
    }
}
