// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the page tables live in: frames, a lock, and the processors that walk them.

use mmkit_addr::VirtRange;
use mmkit_folio::Mapcounts;
use mmkit_frame::{Env, Frames};
use mmkit_pgtable::{Mmu, TableEnv};
use mmkit_sync::{LockApi, ReadSide, Readers};

use crate::memory::Memory;
use crate::table_frames::TableFrames;

/// The threads, as processors that walk page tables.
///
/// An access to memory is one reader: it walks, it loads or stores, it leaves. So to wait for readers is all that a flush
/// of translation caches is on a real machine: afterwards no access goes through an entry that was changed before.
#[derive(Debug)]
pub(crate) struct Processors {
    readers: Readers,
}

impl Mmu for Processors {
    fn flush(&self, _: &[VirtRange]) {
        // The threads that are inside leave without waiting for anybody. These readers always wait, and never refuse.
        let _ = self.readers.synchronize();
    }
}

/// The environment of the page tables of one address space.
pub(crate) struct Machine<'w, C: Mapcounts> {
    frames: Frames<TableFrames<'w, C>, &'w Memory<C>>,
    processors: Processors,
}

impl<'w, C: Mapcounts> Machine<'w, C> {
    pub(crate) fn new(memory: &'w Memory<C>) -> Self {
        // SAFETY: the memory reaches every frame that it hands out, for it is both; and it writes a frame only while it owns
        // it. Frames that page tables own are accessed by nobody else.
        let frames = unsafe { Frames::new(TableFrames::new(memory), memory) };
        Self { frames, processors: Processors { readers: Readers::new() } }
    }
}

// SAFETY: the fields are private and never exchanged; `frames` came from `Frames::new`.
unsafe impl<'w, C: Mapcounts> Env for Machine<'w, C> {
    type Allocator = TableFrames<'w, C>;
    type Map = &'w Memory<C>;
    // Threads wait for it asleep: on fewer processors than threads, its holder may not be running.
    type Lock = LockApi<parking_lot::RawMutex>;
    type Read = Readers;
    type Events = ();

    fn frames(&self) -> &Frames<TableFrames<'w, C>, &'w Memory<C>> {
        &self.frames
    }

    fn read_side(&self) -> &Readers {
        &self.processors.readers
    }

    fn events(&self) -> &() {
        &()
    }
}

// SAFETY: there is one value of processors in it, and it is never exchanged.
unsafe impl<C: Mapcounts> TableEnv for Machine<'_, C> {
    type Mmu = Processors;

    fn mmu(&self) -> &Processors {
        &self.processors
    }
}
