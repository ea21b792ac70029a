// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a kernel asks about folios of devices.

use core::ops::ControlFlow;

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_folio::{Mapcounts, Rmap};
use mmkit_page::{Folio, PinPolicy, PinRefusal, PinUse, PinVerdict};
use mmkit_vmemmap::{VmemmapEnv, VmemmapSpace};

use super::{
    Associated, FilePlace, FolioError, HeadWords, Held, IdleWait, StillBusy, driver, fsdax, generic, idle,
    policy,
};
use crate::{Devmap, Kind};

type HeldBy<'d, E> = Held<'d, <E as mmkit_frame::Env>::Read, <E as mmkit_frame::Env>::Lock>;

impl<S: VmemmapSpace, E: VmemmapEnv> Devmap<S, E> {
    /// The pagemap of a folio that is held: of one of this map, since its words mean nothing to others.
    pub(crate) fn held<'d>(&'d self, folio: &Folio<'_, Self>) -> Option<HeldBy<'d, E>> {
        core::ptr::eq(folio.map(), self).then(|| Held::of_folio(self.registry(), folio))?
    }

    /// The kind of memory that a folio is; `None` where it is no device's. Linux: `folio_is_zone_device`, `folio_pgmap`.
    #[must_use]
    pub fn kind_of(&self, folio: &Folio<'_, Self>) -> Option<Kind> {
        self.held(folio).map(|held| held.kind())
    }

    /// Where in a file a folio of fs-dax or generic memory is; `None` where that was not said, and where several files have
    /// it.
    #[must_use]
    pub fn place_in_file(&self, folio: &Folio<'_, Self>) -> Option<FilePlace> {
        let held = self.held(folio)?;
        matches!(held.kind(), Kind::FsDax | Kind::Generic).then(|| HeadWords::of(folio).place())?
    }

    /// Hands out a folio of generic memory that nobody uses, with the pagemap's reference on it. When its last reference is
    /// put it is ready again.
    ///
    /// # Errors
    ///
    /// [`FolioError`]: [`Busy`](FolioError::Busy) where the pagemap's reference is handed out already.
    pub fn hand_out<'d>(&'d self, pfn: Pfn) -> Result<Folio<'d, Self>, FolioError> {
        generic::hand_out(self.registry(), self, pfn)
    }

    /// A folio of `order` of the frames from `pfn` on, of private, coherent or P2PDMA memory, with one reference. The
    /// driver, who knows that the frames are free, keeps `data` with it. Linux: `zone_device_page_init`.
    ///
    /// It has one reference on the pagemap for each of its frames (of the pagemap's order). Nothing is left of compounds that
    /// the frames were in before.
    ///
    /// # Errors
    ///
    /// [`FolioError`], with nothing changed.
    ///
    /// Cost: a lookup; a compare-exchange and 128 bytes written for each frame.
    pub fn allocate<'d>(&'d self, pfn: Pfn, order: Order, data: u64) -> Result<Folio<'d, Self>, FolioError> {
        driver::allocate(self.registry(), self, pfn, order, data)
    }

    /// What the driver keeps with a folio; `None` where it is not one of those. Linux: `zone_device_data`.
    #[must_use]
    pub fn data_of(&self, folio: &Folio<'_, Self>) -> Option<u64> {
        self.held(folio).and_then(|held| driver::data(held, folio))
    }

    /// Splits a folio of a driver into folios of order `to`, which `each` gets in ascending order. They keep the driver's
    /// word and the references on the pagemap. The driver hears of each before anybody has it:
    /// [`Operations::folio_split`](crate::Operations::folio_split).
    ///
    /// # Errors
    ///
    /// The folio, as it was, and why: [`Shared`](FolioError::Shared) unless `folio` is its only reference.
    ///
    /// Cost: 128 bytes written for each frame.
    pub fn split<'d>(
        &self,
        folio: Folio<'d, Self>,
        to: Order,
        each: impl FnMut(Folio<'d, Self>),
    ) -> Result<(), (Folio<'d, Self>, FolioError)> {
        match self.held(&folio) {
            Some(held) => driver::split(held, folio, to, each),
            None => {
                let pfn = folio.pfn();
                Err((folio, FolioError::NoPagemap { pfn }))
            }
        }
    }

    /// The folio of `order` at `pfn`, for the file that has these blocks at `place`: it is made if nobody uses them.
    /// Linux: `dax_associate_entry`.
    ///
    /// A file calls this once for each entry that it makes, and takes further references as it likes. If another file has
    /// the folio already, it belongs to none alone from now on, and has no place; the files are counted. The one file that
    /// has it may associate it again, at the same place, and is not counted twice, if its faults of one entry come one after the
    /// other, as under the entry's lock. When all of them are gone, and a reference
    /// is left, the next one has it alone again, and its place is that file's.
    ///
    /// # Errors
    ///
    /// [`FolioError`], with nothing changed. [`Conflict`](FolioError::Conflict) where some of the frames are in a folio of
    /// another size; [`Busy`](FolioError::Busy) where one is just being made or broken up.
    ///
    /// Cost: of a new folio a lookup, and a compare-exchange and 128 bytes written for each frame; otherwise two
    /// compare-exchanges.
    pub fn associate<'d>(
        &'d self,
        pfn: Pfn,
        order: Order,
        place: FilePlace,
    ) -> Result<Associated<'d, Self>, FolioError> {
        fsdax::associate(self.registry(), self, pfn, order, place)
    }

    /// The file that has the folio at `place` has it no more; how many still do. Linux: `dax_disassociate_entry`.
    ///
    /// The last reference that is put ends all that is left.
    ///
    /// # Errors
    ///
    /// [`FolioError::NotAssociated`] where no file has it, or one and at another place.
    pub fn disassociate(&self, folio: &Folio<'_, Self>, place: FilePlace) -> Result<u32, FolioError> {
        let held = self.held(folio).ok_or(FolioError::NoPagemap { pfn: folio.pfn() })?;
        fsdax::disassociate(held, folio, place)
    }

    /// How many files have the fs-dax folio.
    #[must_use]
    pub fn files_of(&self, folio: &Folio<'_, Self>) -> Option<u32> {
        let held = self.held(folio)?;
        (held.kind() == Kind::FsDax).then(|| HeadWords::of(folio).files())
    }

    /// Whether anybody uses the folio beside those who map it, and beside this handle. Linux: `dax_page_is_idle`.
    #[must_use]
    pub fn is_busy(&self, folio: &Folio<'_, Self>) -> bool
    where
        E::Counts: Mapcounts,
    {
        folio.count() > folio.mappings().saturating_add(1)
    }

    /// Waits until no frame of `range`, all in one pagemap of fs-dax, is in use: before a file system gives its blocks to somebody
    /// else. It has unmapped them, and lets nobody map them meanwhile. Linux: `dax_wait_page_idle`.
    ///
    /// `pause` is called whenever one is found in use: to sleep, to spin, or to give up. Not inside a reader, nor with a
    /// reference on one of the frames.
    ///
    /// # Errors
    ///
    /// [`StillBusy`] when `pause` breaks. In the outer result, [`FolioError::NoPagemap`] where no pagemap has all of the
    /// range, and [`FolioError::OtherKind`] where it is not of fs-dax: memory of other kinds is its driver's or its user's, who know
    /// when they have done with it, and generic memory has a reference even when nobody uses it.
    pub fn wait_idle(
        &self,
        range: PfnRange,
        pause: impl FnMut(&IdleWait<'_>) -> ControlFlow<()>,
    ) -> Result<Result<(), StillBusy>, FolioError> {
        let pfn = range.start();
        let found = self.registry().get(pfn).ok_or(FolioError::NoPagemap { pfn })?;
        if !found.holds(range) {
            return Err(FolioError::NoPagemap { pfn: range.last().unwrap_or(pfn) });
        }
        let kind = found.kind();
        if kind != Kind::FsDax {
            return Err(FolioError::OtherKind { pfn, kind });
        }
        Ok(idle::wait(&found.folios.idle, self, range, pause))
    }
}

/// Which device memory may be pinned:
///
/// | kind | a moment | for long |
/// |---|---|---|
/// | generic | yes | yes |
/// | fs-dax | yes | [no](PinRefusal::FileSystemDax) |
/// | private | [no](PinRefusal::Private) | no |
/// | coherent | after it moved | after it moved |
/// | P2PDMA | by those who [can deal with it](PinUse::PEER) | [no](PinRefusal::Peer) |
///
/// Nothing of a pagemap that is [going](PinRefusal::Gone). Memory that is no device's is not this policy's affair.
impl<S: VmemmapSpace, E: VmemmapEnv> PinPolicy<Self> for Devmap<S, E> {
    fn verdict(&self, folio: &Folio<'_, Self>, usage: PinUse) -> PinVerdict {
        match self.held(folio) {
            None => PinVerdict::Allow,
            Some(held) if held.is_dead() => PinVerdict::Refuse(PinRefusal::Gone),
            Some(held) => policy::pin(held.kind(), usage),
        }
    }
}
