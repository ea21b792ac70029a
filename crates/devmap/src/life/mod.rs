// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a description to memory that can be used, and back.

mod deferred;
mod register;
mod registration;

pub use deferred::Deferred;
pub use register::RegisterError;
pub use registration::{Registration, Revoke, UnregisterError};
