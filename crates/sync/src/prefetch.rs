// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asking for memory before it is needed.

/// Tells the processor that the cache line at `address`, whatever that is, will be used soon.
///
/// For those who change many words one after the other: an atomic read-modify-write waits for its own line, and what comes
/// behind it waits for it. So lines that are needed later are asked for here, some operations ahead.
///
/// It is a hint: it accesses nothing, faults never, and is nothing where the processor has no such instruction. Cost: that
/// instruction. It takes the line's place from another one in the cache. Linux: `prefetch`.
#[inline(always)]
pub fn prefetch<T>(address: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

        // SAFETY: a hint accesses no memory, whatever the address is.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: a hint accesses no memory, whatever the address is, and changes no register.
    unsafe {
        core::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_address_will_do() {
        let word = 7_u64;
        prefetch(&raw const word);
        prefetch(core::ptr::null::<u64>());
        prefetch(core::ptr::without_provenance::<u8>(usize::MAX));
        assert_eq!(word, 7);
    }
}
