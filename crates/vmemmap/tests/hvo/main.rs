// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compounds that give back most of their descriptor memory: one program, as it takes long to build.
#![cfg(all(not(mmkit_loom), feature = "pgtable"))]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/world.rs"]
mod world;

mod arm64;
mod batches;
mod failures;
mod faults;
mod reserve;
mod scenarios;
mod sizes;
