// SPDX-License-Identifier: MIT OR Apache-2.0
//! What compiled Rust code calls and a Linux target expects of libc or std: copying, filling and comparing bytes, and
//! the name of the unwinder's personality, which the precompiled `core` mentions even where panics abort.
//!
//! A bare-metal target gets the first three from `compiler_builtins`.

/// Never called: panics abort here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Copies `len` bytes between ranges that do not overlap.
///
/// # Safety
///
/// `source` is readable and `target` writable for `len` bytes, and the two do not overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(target: *mut u8, source: *const u8, len: usize) -> *mut u8 {
    for at in 0..len {
        // SAFETY: at < len, and the caller vouches for len bytes behind source.
        let from = unsafe { source.add(at) };
        // SAFETY: as above, and any byte may be read as u8.
        let byte = unsafe { from.read() };
        // SAFETY: at < len, and the caller vouches for len bytes behind target.
        let to = unsafe { target.add(at) };
        // SAFETY: as above; target is writable.
        unsafe { to.write(byte) };
    }
    target
}

/// Copies `len` bytes between ranges that may overlap.
///
/// # Safety
///
/// `source` is readable and `target` writable for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(target: *mut u8, source: *const u8, len: usize) -> *mut u8 {
    // A target below the source is safe to fill upwards, one above it downwards.
    let upwards = target.addr() <= source.addr();
    for step in 0..len {
        let at = if upwards { step } else { len - 1 - step };
        // SAFETY: at < len, and the caller vouches for len bytes behind source.
        let from = unsafe { source.add(at) };
        // SAFETY: as above; the order of the steps reads each byte before it is overwritten.
        let byte = unsafe { from.read() };
        // SAFETY: at < len, and the caller vouches for len bytes behind target.
        let to = unsafe { target.add(at) };
        // SAFETY: as above; target is writable.
        unsafe { to.write(byte) };
    }
    target
}

/// Fills `len` bytes with the low eight bits of `value`.
///
/// # Safety
///
/// `target` is writable for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(target: *mut u8, value: i32, len: usize) -> *mut u8 {
    for at in 0..len {
        // SAFETY: at < len, and the caller vouches for len bytes behind target.
        let to = unsafe { target.add(at) };
        // SAFETY: as above; target is writable. C passes the byte in an int: the rest is cut off.
        unsafe { to.write(value as u8) };
    }
    target
}

/// Compares `len` bytes; negative, zero or positive as the first differing byte is less, absent or greater.
///
/// # Safety
///
/// Both ranges are readable for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    for at in 0..len {
        // SAFETY: at < len, and the caller vouches for len bytes behind left.
        let left = unsafe { left.add(at) };
        // SAFETY: as above.
        let left = unsafe { left.read() };
        // SAFETY: at < len, and the caller vouches for len bytes behind right.
        let right = unsafe { right.add(at) };
        // SAFETY: as above.
        let right = unsafe { right.read() };
        if left != right {
            return i32::from(left) - i32::from(right);
        }
    }
    0
}

/// Compares `len` bytes; zero when they are equal.
///
/// # Safety
///
/// As [`memcmp`].
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    // SAFETY: the caller's promise is memcmp's.
    unsafe { memcmp(left, right, len) }
}
