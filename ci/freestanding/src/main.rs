// SPDX-License-Identifier: MIT OR Apache-2.0
//! The proof of `no_std`: a program without std, libc or start files that holds a piece of every library crate.
//!
//! It is linked, never run. A crate that needs std, even through a dependency of a dependency, brings a second panic
//! handler and an allocator along, and the build fails. Feature `pulls-std` does just that, to show that the proof can
//! fail.
#![no_std]
#![no_main]
// Without it the loops of `symbols` would be compiled into calls of themselves.
#![no_builtins]

mod symbols;
mod touch;

use core::panic::PanicInfo;

/// The entry point that the linker looks for.
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    touch::every_crate();
    loop {
        core::hint::spin_loop();
    }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
