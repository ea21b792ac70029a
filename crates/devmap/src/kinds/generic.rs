// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that is handed to one user as a whole: every folio has a reference from the beginning, the pagemap's.

use mmkit_addr::Pfn;
use mmkit_page::{Folio, Frozen, GetError, MemMap, PageFlags, PinUse, PinVerdict, State};
use mmkit_sync::atomic::{Ordering, fence};
use mmkit_sync::{RawLock, ReadSide, mutant};

use super::blocks;
use super::policy::Policy;
use super::words::HeadWords;
use super::{FolioError, Held};
use crate::{Kind, Pagemap, Registry};

/// Generic memory.
pub(crate) enum Generic {}

impl Policy for Generic {
    const UNUSED: u32 = 1;

    /// Ready again, or at rest where the pagemap is going.
    ///
    /// Who takes the pagemap away kills it, and then [retires](retire) each folio that is ready; who makes a folio ready looks
    /// afterwards whether the pagemap was killed. Both have a full fence in between, so at least one of them sees the other,
    /// and only one gets the reference.
    fn last_put<M: MemMap, R: ReadSide, L: RawLock>(held: Held<'_, R, L>, frozen: Frozen<'_, M>) {
        if !held.enter() {
            rest(held, frozen);
            return;
        }
        let (map, pfn) = (frozen.map(), frozen.pfn());
        HeadWords::of_frozen(&frozen).write_ready(held.index());
        if frozen.into_raw(1).is_ok() {
            // SeqCst: pairs with the fence of `retire_all`.
            mutant!("generic-ready-no-fence", fence(Ordering::SeqCst), ());
            if mutant!("generic-ready-no-recheck", held.is_dead(), false) {
                retire(held.registry(), map, pfn);
            }
        }
        held.put(1);
    }

    /// It may be pinned for as long as its user likes: it is his.
    fn pin(_: Kind, _: PinUse) -> PinVerdict {
        PinVerdict::Allow
    }
}

/// Lets a folio rest whose last reference was put, and puts the reference that stood for it.
fn rest<M: MemMap, R: ReadSide, L: RawLock>(held: Held<'_, R, L>, mut frozen: Frozen<'_, M>) {
    // The device goes, and what is wrong with it goes too.
    blocks::forgive(&mut frozen);
    let references = held.references_of(frozen.order());
    let early = mutant!("generic-rest-count-late", true, false);
    let count = |now: bool| {
        if now {
            held.folios.rested.fetch_add(references.into(), Ordering::Relaxed);
            // Release: pairs with the Acquire fence of `put_lost`: who sees the folio at rest sees it counted.
            fence(Ordering::Release);
        }
    };
    count(early);
    blocks::scatter(frozen, held.order(), &mut |bad| held.folios.bad.push(bad));
    count(!early);
    held.put(references);
}

/// Puts the references that stood for folios of a pagemap that was killed and [retired](retire_all), and that somebody let rest
/// past the pagemap: as a free block, or as memory of the machine.
///
/// A folio of generic memory that rests is not ready again. So of all that rest, those that are not counted are such; and one
/// that is counted and is in somebody's hands makes it one fewer, for a later time.
///
/// Cost: a look at each folio.
pub(crate) fn put_lost<M: MemMap, R: ReadSide, L: RawLock>(
    registry: &Registry<R, L>,
    map: &M,
    pagemap: &Pagemap,
) {
    // Those that were kept because of a bad frame rest, too, whether they are counted or not.
    pagemap.folios.forgive(map);
    let at_rest = |pfn: &Pfn| {
        let state = map.enter().page(*pfn).map(|page| page.state());
        matches!(state, Some(State::Free { parked: true, .. }))
    };
    let resting = pagemap.heads().filter(at_rest).count() as u64;
    // Acquire: pairs with the Release fence of `rest`.
    fence(Ordering::Acquire);
    let rested = &pagemap.folios.rested;
    let lost = resting.saturating_sub(rested.load(Ordering::Relaxed));
    rested.fetch_add(lost, Ordering::Relaxed);
    let _reader = registry.enter();
    // SAFETY: taken by `hold` for folios that rest, and counted as put just now; inside a reader.
    Pagemap::in_parts(lost, |n| unsafe { pagemap.put(registry.processor(), n) });
}

/// Takes the pagemap's reference off each folio of a pagemap that was killed. A folio without others rests, and its bulk
/// reference is put; the others do so with their last one. May be called again, and takes what has become ready since.
///
/// Cost: two compare-exchanges and a subtraction for each folio.
pub(crate) fn retire_all<M: MemMap, R: ReadSide, L: RawLock>(
    registry: &Registry<R, L>,
    map: &M,
    pagemap: &Pagemap,
) {
    // SeqCst: pairs with the fence of `last_put`.
    mutant!("generic-retire-no-fence", fence(Ordering::SeqCst), ());
    pagemap.heads().for_each(|pfn| retire(registry, map, pfn));
}

fn retire<M: MemMap, R: ReadSide, L: RawLock>(registry: &Registry<R, L>, map: &M, pfn: Pfn) {
    let Ok(folio) = map.try_get(pfn) else { return };
    let Some(held) = Held::of_folio(registry, &folio) else { return };
    let last = if held.kind() == Kind::Generic && HeadWords::of(&folio).take_ready() {
        // SAFETY: the pagemap's reference, which was kept when the folio became ready; the mark said that nobody had taken
        // it, and is gone now.
        unsafe { folio.put_with(1) }
    } else {
        folio.put()
    };
    if let Some(frozen) = last {
        super::release(registry, frozen);
    }
}

/// Hands a folio that nobody uses out with the pagemap's reference on it: who puts it makes the folio ready again.
pub(crate) fn hand_out<'m, M: MemMap, R: ReadSide, L: RawLock>(
    registry: &Registry<R, L>,
    map: &'m M,
    pfn: Pfn,
) -> Result<Folio<'m, M>, FolioError> {
    let folio = map.try_get(pfn).map_err(|error| match error {
        GetError::Overflow { .. } => FolioError::References { pfn },
        GetError::Absent { .. } => FolioError::NoPagemap { pfn },
        _ => FolioError::Busy { pfn },
    })?;
    let held = Held::of_folio(registry, &folio).ok_or(FolioError::NoPagemap { pfn })?;
    let kind = held.kind();
    if kind != Kind::Generic {
        return Err(FolioError::OtherKind { pfn, kind });
    }
    if held.is_dead() {
        return Err(FolioError::Gone { pfn });
    }
    if folio.flags().contains(PageFlags::HWPOISON) {
        return Err(FolioError::Poisoned { pfn });
    }
    if !HeadWords::of(&folio).take_ready() {
        return Err(FolioError::Busy { pfn });
    }
    // SAFETY: the pagemap's reference, as in `retire`.
    Ok(unsafe { folio.adopt() })
}
