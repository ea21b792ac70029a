// SPDX-License-Identifier: MIT OR Apache-2.0
//! The protocols inside, over any memory map, for the models of `tests/loom_*.rs`. Exists in builds for the model checker
//! only.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use core::fmt;
use core::ops::ControlFlow;

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_page::{Folio, Frozen, MemMap, Place};
use mmkit_sync::{RawLock, ReadSide};

use super::{
    Associated, FilePlace, FolioError, HeadWords, Held, IdleWait, StillBusy, driver, fsdax, generic, idle,
};
use crate::registry::Reserved;
use crate::{Kind, Operations, Pagemap, PagemapInfo, Registry};

/// A pagemap of a few frames in a registry.
pub struct Model<'r, R, L>(Reserved<'r, R, L>, &'r Registry<R, L>);

impl<R, L> fmt::Debug for Model<'_, R, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Model")
    }
}

impl<'r, R: ReadSide, L: RawLock> Model<'r, R, L> {
    /// Registers `range`, as single frames.
    pub fn new(
        registry: &'r Registry<R, L>,
        kind: Kind,
        range: PfnRange,
        operations: Option<Arc<dyn Operations>>,
    ) -> Self {
        let info = PagemapInfo {
            kind,
            ranges: vec![range],
            order: Order::ZERO,
            place: Place::default(),
            owner: None,
            operations,
            set_aside: None,
            pageblocks: None,
        };
        let reserved = registry.reserve(Box::new(info)).map_err(|(_, error)| error).expect("there is room");
        reserved.pagemap().set_populated(true);
        reserved.pagemap().hold();
        reserved.show();
        Self(reserved, registry)
    }

    /// What is registered.
    pub fn pagemap(&self) -> &Pagemap {
        self.0.pagemap()
    }

    /// All folios of generic memory become ready.
    pub fn ready<M: MemMap>(&self, map: &M) {
        for pfn in self.pagemap().heads() {
            let frozen = map.claim(pfn).expect("nobody has it").allocate();
            HeadWords::of_frozen(&frozen).write_ready(self.pagemap().index());
            let _ = frozen.into_raw(1).expect("one reference");
        }
    }

    /// It is going.
    pub fn kill(&self) {
        self.pagemap().kill();
    }

    /// What stands for the memory goes: folios of generic memory are not ready any more, references of others are put.
    pub fn retire<M: MemMap>(&self, map: &M) {
        if self.pagemap().kind() == Kind::Generic {
            generic::retire_all(self.1, map, self.pagemap());
        } else {
            // SAFETY: taken by `new`; a model does this once.
            unsafe { self.pagemap().let_go() };
        }
    }

    /// What is done when it is tried again.
    pub fn put_lost<M: MemMap>(&self, map: &M) {
        generic::put_lost(self.1, map, self.pagemap());
    }

    /// Whether it has drained.
    pub fn is_drained(&self) -> bool {
        self.pagemap().is_drained()
    }

    /// Keeps a block with a bad frame.
    pub fn keep_bad<M: MemMap>(&self, frozen: Frozen<'_, M>) {
        self.pagemap().folios.bad.push(frozen);
    }

    /// Lets those blocks rest.
    pub fn forgive<M: MemMap>(&self, map: &M) {
        self.pagemap().folios.forgive(map);
    }
}

/// [`MemMap::release`] of a kernel.
pub fn release<M: MemMap, R: ReadSide, L: RawLock>(registry: &Registry<R, L>, frozen: Frozen<'_, M>) {
    if let Some(frozen) = super::release(registry, frozen) {
        drop(frozen.into_free());
    }
}

/// [`Devmap::hand_out`](crate::Devmap::hand_out).
pub fn hand_out<'m, M: MemMap, R: ReadSide, L: RawLock>(
    registry: &Registry<R, L>,
    map: &'m M,
    pfn: Pfn,
) -> Result<Folio<'m, M>, FolioError> {
    generic::hand_out(registry, map, pfn)
}

/// [`Devmap::allocate`](crate::Devmap::allocate).
pub fn allocate<'m, M: MemMap, R: ReadSide, L: RawLock>(
    registry: &Registry<R, L>,
    map: &'m M,
    pfn: Pfn,
    order: Order,
) -> Result<Folio<'m, M>, FolioError> {
    driver::allocate(registry, map, pfn, order, 0)
}

/// [`Devmap::associate`](crate::Devmap::associate).
pub fn associate<'m, M: MemMap, R: ReadSide, L: RawLock>(
    registry: &Registry<R, L>,
    map: &'m M,
    pfn: Pfn,
    order: Order,
    place: FilePlace,
) -> Result<Associated<'m, M>, FolioError> {
    fsdax::associate(registry, map, pfn, order, place)
}

/// [`Devmap::disassociate`](crate::Devmap::disassociate).
pub fn disassociate<M: MemMap, R: ReadSide, L: RawLock>(
    registry: &Registry<R, L>,
    folio: &Folio<'_, M>,
    place: FilePlace,
) -> Result<u32, FolioError> {
    let held = Held::of_folio(registry, folio).ok_or(FolioError::NoPagemap { pfn: folio.pfn() })?;
    fsdax::disassociate(held, folio, place)
}

/// How many files have the folio.
pub fn files_of<M: MemMap>(folio: &Folio<'_, M>) -> u32 {
    HeadWords::of(folio).files()
}

/// [`Devmap::place_in_file`](crate::Devmap::place_in_file).
pub fn place_of<M: MemMap>(folio: &Folio<'_, M>) -> Option<FilePlace> {
    HeadWords::of(folio).place()
}

/// A fault of device-dax names the folio; whether it was the first.
pub fn name<M: MemMap>(folio: &Folio<'_, M>, place: FilePlace) -> bool {
    HeadWords::of(folio).name(place)
}

/// [`Devmap::wait_idle`](crate::Devmap::wait_idle).
pub fn wait_idle<M: MemMap>(
    pagemap: &Pagemap,
    map: &M,
    range: PfnRange,
    pause: impl FnMut(&IdleWait<'_>) -> ControlFlow<()>,
) -> Result<(), StillBusy> {
    idle::wait(&pagemap.folios.idle, map, range, pause)
}
