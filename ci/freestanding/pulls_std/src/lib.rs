// SPDX-License-Identifier: MIT OR Apache-2.0
//! A crate that quietly needs std. The freestanding build must refuse it.

/// The length of a freshly allocated copy of `bytes`.
#[must_use]
pub fn copied_len(bytes: &[u8]) -> usize {
    bytes.to_vec().len()
}
