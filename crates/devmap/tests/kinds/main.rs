// SPDX-License-Identifier: MIT OR Apache-2.0
//! Folios of devices, by kind, and device-dax.
#![cfg(not(mmkit_loom))]

mod common;
mod dax;
mod driver;
mod failure;
mod fsdax;
mod pins;
mod scenarios;
