// SPDX-License-Identifier: MIT OR Apache-2.0
//! `const fn` where the atomics allow it: loom's constructors register with a running model and cannot be const.

/// Defines one function, `const` unless the build is for loom.
macro_rules! const_unless_loom {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty $body:block) => {
        #[cfg(not(mmkit_loom))]
        $(#[$meta])*
        $vis const fn $name($($arg: $ty),*) -> $ret $body

        #[cfg(mmkit_loom)]
        $(#[$meta])*
        #[track_caller]
        $vis fn $name($($arg: $ty),*) -> $ret $body
    };
}
