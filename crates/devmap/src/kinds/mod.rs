// SPDX-License-Identifier: MIT OR Apache-2.0
//! What becomes of a folio of a device that nobody refers to.

use core::ptr::NonNull;

use mmkit_addr::{Order, PfnRange};
use mmkit_page::{Frozen, Refused};
use mmkit_vmemmap::{VmemmapEnv, VmemmapSpace};

use crate::{Devmap, Pagemap, PagemapIndex, Provided};

/// The last reference on a folio of `devmap` was put.
pub(crate) fn last_put<S: VmemmapSpace, E: VmemmapEnv>(
    devmap: &Devmap<S, E>,
    frozen: Frozen<'_, Devmap<S, E>>,
    index: PagemapIndex,
) {
    let registry = devmap.registry();
    let Some(pagemap) = registry.enter().of_index(index).map(NonNull::from) else { return };
    // SAFETY: the folio's references on the pagemap, which are put below, keep it.
    let info: &Pagemap = unsafe { pagemap.as_ref() };
    let block = PfnRange::block(frozen.pfn(), frozen.order());
    let references = info.references_of(frozen.order());
    // Frames of a pagemap without an order of its own are single when they are free.
    let frozen = if info.order() == Order::ZERO && frozen.is_compound() {
        match frozen.unprep() {
            Ok(frozen) | Err(Refused { handle: frozen, .. }) => frozen,
        }
    } else {
        frozen
    };
    drop(frozen.into_free());
    // Outside of readers: the driver may wait.
    if let Some(operations) = info.operations(Provided::FOLIO_FREE) {
        operations.folio_free(block);
    }
    let _reader = registry.enter();
    // SAFETY: still there, as above, and from now on because of the reader.
    let pagemap = unsafe { pagemap.as_ref() };
    // SAFETY: those that were taken for the folio, which is no more; inside a reader.
    unsafe { pagemap.put(registry.processor(), references) };
}
