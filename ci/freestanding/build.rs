// SPDX-License-Identifier: MIT OR Apache-2.0
//! Leaves out the C start files and every library that the linker would add by itself.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-nostartfiles");
    println!("cargo::rustc-link-arg-bins=-nostdlib");
}
