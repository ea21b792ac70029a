// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plain fills of memory, in every way that the processor has: what writing descriptors is compared with.

use std::ptr::NonNull;

use crate::pair::quantile;

/// A way to write the same eight bytes all over.
pub(crate) struct Fill {
    /// What it is.
    name: &'static str,
    /// Fills so many bytes, a multiple of 4096, from an address that is aligned to 4096 on.
    ///
    /// # Safety
    ///
    /// They are valid for writes, and nobody else accesses them.
    pub(crate) run: unsafe fn(NonNull<u8>, usize),
}

impl Fill {
    /// What a figure is that is compared with this one. The text stays for the rest of the run, which prints it.
    pub(crate) fn compared(&self, what: &str) -> &'static str {
        format!("{what}{}; times are of 64 bytes", self.name).leak()
    }
}

/// The one whose median is the least of `times`, in the order of [`fills`].
pub(crate) fn winner(times: &[Vec<f64>]) -> Option<usize> {
    let median = |which: usize| quantile(&mut times[which].clone(), 0.5);
    (0..times.len()).min_by(|&a, &b| median(a).total_cmp(&median(b)))
}

/// All that this processor can do.
pub(crate) fn fills() -> Vec<Fill> {
    let mut fills =
        vec![Fill { name: "memset", run: memset }, Fill { name: "ordinary stores", run: ordinary }];
    #[cfg(target_arch = "x86_64")]
    {
        fills.push(Fill { name: "non-temporal stores of 16 bytes", run: streamed_16 });
        if is_x86_feature_detected!("avx512f") {
            fills.push(Fill { name: "non-temporal stores of 64 bytes", run: streamed_64 });
        }
    }
    fills
}

const PATTERN: u64 = 0x0101_0101_0101_0101;

unsafe fn memset(to: NonNull<u8>, bytes: usize) {
    // SAFETY: passed on to the caller.
    unsafe { to.write_bytes(PATTERN as u8, bytes) };
}

unsafe fn ordinary(to: NonNull<u8>, bytes: usize) {
    let to = to.cast::<[u64; 8]>();
    for index in 0..bytes / 64 {
        // SAFETY: below the number of lines.
        let line = unsafe { to.add(index) };
        // SAFETY: passed on to the caller; volatile, so that this does not become `memset`.
        unsafe { line.write_volatile([PATTERN; 8]) };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
unsafe fn streamed_16(to: NonNull<u8>, bytes: usize) {
    use std::arch::x86_64::{_mm_set1_epi64x, _mm_sfence, _mm_stream_si128};

    let value = _mm_set1_epi64x(PATTERN as i64);
    for offset in (0..bytes).step_by(16) {
        // SAFETY: below the number of bytes.
        let part = unsafe { to.byte_add(offset) };
        // SAFETY: aligned and valid by the caller's promise; SSE2 is part of x86-64.
        unsafe { _mm_stream_si128(part.as_ptr().cast(), value) };
    }
    _mm_sfence();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn streamed_64(to: NonNull<u8>, bytes: usize) {
    use std::arch::x86_64::{_mm_sfence, _mm512_set1_epi64, _mm512_stream_si512};

    let value = _mm512_set1_epi64(PATTERN as i64);
    for offset in (0..bytes).step_by(64) {
        // SAFETY: below the number of bytes.
        let line = unsafe { to.byte_add(offset) };
        // SAFETY: aligned and valid by the caller's promise; whoever calls this has looked for AVX-512.
        unsafe { _mm512_stream_si512(line.as_ptr().cast(), value) };
    }
    _mm_sfence();
}
