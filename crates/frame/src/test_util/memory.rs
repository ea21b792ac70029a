// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real memory for the frames that somebody looks at.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::{PoisonError, RwLock};
use std::vec::Vec;

use mmkit_addr::Pfn;

/// One frame's bytes; the pointer never changes once made.
#[derive(Clone, Copy)]
struct FrameMemory(NonNull<u8>);

// SAFETY: it is an address of heap memory, which has no home thread; who may access the bytes is settled by the
// allocator that hands frames out.
unsafe impl Send for FrameMemory {}
// SAFETY: as for `Send`: sharing the address shares no access.
unsafe impl Sync for FrameMemory {}

/// Frames that have been looked at, each an allocation of its own: a step past its end is out of bounds for checkers
/// that see allocations (Miri, address sanitizer).
pub(super) struct Memory {
    layout: Layout,
    frames: RwLock<HashMap<u64, FrameMemory>>,
}

impl Memory {
    pub(super) fn new(base_shift: u32) -> Self {
        let bytes = 1 << base_shift;
        let layout = Layout::from_size_align(bytes, bytes).expect("a power of two of at most 64 KiB");
        Self { layout, frames: RwLock::default() }
    }

    /// The frame's memory, if anybody has looked at it.
    pub(super) fn get(&self, pfn: Pfn) -> Option<NonNull<u8>> {
        let frames = self.frames.read().unwrap_or_else(PoisonError::into_inner);
        frames.get(&pfn.get()).map(|frame| frame.0)
    }

    /// The frame's memory; where nobody has looked at it yet, filled with `byte`.
    pub(super) fn get_or_fill(&self, pfn: Pfn, byte: u8) -> NonNull<u8> {
        let mut frames = self.frames.write().unwrap_or_else(PoisonError::into_inner);
        frames
            .entry(pfn.get())
            .or_insert_with(|| {
                // SAFETY: the layout has at least 4096 bytes.
                let start = unsafe { alloc(self.layout) };
                let Some(start) = NonNull::new(start) else { handle_alloc_error(self.layout) };
                // SAFETY: the allocation has just succeeded with that many bytes.
                unsafe { start.write_bytes(byte, self.layout.size()) };
                FrameMemory(start)
            })
            .0
    }

    /// Frames of `start..end` that have memory, ascending.
    pub(super) fn present(&self, start: u64, end: u64) -> Vec<Pfn> {
        let frames = self.frames.read().unwrap_or_else(PoisonError::into_inner);
        let mut present: Vec<u64> = if end - start <= frames.len() as u64 {
            (start..end).filter(|pfn| frames.contains_key(pfn)).collect()
        } else {
            frames.keys().copied().filter(|pfn| (start..end).contains(pfn)).collect()
        };
        present.sort_unstable();
        present.into_iter().filter_map(Pfn::new).collect()
    }

    /// Frames that have memory.
    pub(super) fn len(&self) -> u64 {
        self.frames.read().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    /// The frame's bytes, where it has memory.
    ///
    /// # Safety
    ///
    /// While the bytes are in use, nobody writes the frame.
    pub(super) unsafe fn bytes(&self, pfn: Pfn) -> Option<&[u8]> {
        let start = self.get(pfn)?;
        // SAFETY: the allocation has that many bytes, was filled when made, and lives as long as `self`; the caller
        // promises that nobody writes it.
        Some(unsafe { core::slice::from_raw_parts(start.as_ptr(), self.layout.size()) })
    }

    /// Writes `byte` to every byte of the frame, where it has memory.
    ///
    /// # Safety
    ///
    /// Nobody else accesses the frame.
    pub(super) unsafe fn fill(&self, pfn: Pfn, byte: u8) {
        if let Some(start) = self.get(pfn) {
            // SAFETY: the allocation has that many bytes; the caller promises that they are ours.
            unsafe { start.write_bytes(byte, self.layout.size()) };
        }
    }
}

/// The first word that is not all `byte`: its byte offset and value.
pub(super) fn first_change(bytes: &[u8], byte: u8) -> Option<(usize, u64)> {
    // All bytes are equal if and only if each equals the next: one `memcmp`, which is fast without optimisation too.
    if bytes[0] == byte && bytes[1..] == bytes[..bytes.len() - 1] {
        return None;
    }
    let (words, _) = bytes.as_chunks::<8>();
    let index = words.iter().position(|word| *word != [byte; 8])?;
    Some((index * 8, u64::from_ne_bytes(words[index])))
}

/// A number that differs when one word of the contents does, and most probably when several do. Without a call for each byte: it
/// is used on megabytes, in builds without optimisation.
pub(super) fn digest(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks();
    let mut sum = 0;
    for &word in words {
        sum = (sum ^ u64::from_ne_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        sum ^= sum >> 32;
    }
    rest.iter().fold(sum, |sum, &byte| sum.wrapping_mul(31) ^ u64::from(byte))
}

impl Drop for Memory {
    fn drop(&mut self) {
        let frames = self.frames.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (_, frame) in frames.drain() {
            // SAFETY: `get_or_fill` allocated it with this layout, and it left the map just now, so it goes once.
            unsafe { dealloc(frame.0.as_ptr(), self.layout) };
        }
    }
}
