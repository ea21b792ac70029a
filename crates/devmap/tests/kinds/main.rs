// SPDX-License-Identifier: MIT OR Apache-2.0
//! Folios of devices, by kind, and device-dax.
#![cfg(not(mmkit_loom))]
// Errors give back what was handed in.
#![allow(clippy::result_large_err)]

mod common;
mod dax;
mod driver;
mod failure;
mod fsdax;
mod pins;
mod scenarios;
mod walk;
