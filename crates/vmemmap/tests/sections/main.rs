// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sections: how they come, what their descriptors lie in, what fails, and what a check of them finds. One program, as it takes
//! long to build.
#![cfg(not(mmkit_loom))]

#[macro_use]
#[path = "../common/mod.rs"]
mod common;

mod accounting;
mod altmap;
mod faults;
mod hotplug;
mod leaves;
mod removal;
mod verify;
