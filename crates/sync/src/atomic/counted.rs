// SPDX-License-Identifier: MIT OR Apache-2.0
//! Atomics that count their read-modify-writes, by thread: the feature `count-atomics`.
//!
//! The count is of operations, not of instructions: each is one locked instruction, or one load-exclusive and
//! store-exclusive loop, except that a compare-exchange that fails is counted too. Loads and stores are not.

extern crate std;

use core::cell::Cell;
use core::fmt;
use core::sync::atomic::Ordering;

std::thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// Read-modify-writes that this thread has done, through the facade, since it began. Take the difference of two.
#[must_use]
pub fn read_modify_writes() -> u64 {
    COUNT.get()
}

#[inline]
fn note() {
    COUNT.set(COUNT.get() + 1);
}

macro_rules! counted {
    ($($name:ident($ty:ty)),*) => {$(
        #[doc = concat!("`core`'s `", stringify!($name), "`, and a count of its read-modify-writes.")]
        #[repr(transparent)]
        #[derive(Default)]
        pub struct $name(core::sync::atomic::$name);

        impl $name {
            /// An atomic with this value.
            #[must_use]
            pub const fn new(value: $ty) -> Self {
                Self(core::sync::atomic::$name::new(value))
            }

            /// An atomic over the value at `pointer`.
            ///
            /// # Safety
            ///
            /// As for the same function of `core`'s type.
            #[must_use]
            pub const unsafe fn from_ptr<'a>(pointer: *mut $ty) -> &'a Self {
                // SAFETY: the caller's promise is that of `core`'s function, and `repr(transparent)` makes the types the
                // same in layout.
                unsafe { &*pointer.cast::<Self>() }
            }

            /// A pointer to the value.
            #[must_use]
            pub const fn as_ptr(&self) -> *mut $ty {
                self.0.as_ptr()
            }

            /// The value, of an atomic that nobody shares.
            pub fn get_mut(&mut self) -> &mut $ty {
                self.0.get_mut()
            }

            /// The value.
            #[must_use]
            pub const fn into_inner(self) -> $ty {
                self.0.into_inner()
            }

            /// Loads the value. Not counted.
            #[inline]
            #[track_caller]
            pub fn load(&self, order: Ordering) -> $ty {
                self.0.load(order)
            }

            /// Stores a value. Not counted.
            #[inline]
            #[track_caller]
            pub fn store(&self, value: $ty, order: Ordering) {
                self.0.store(value, order);
            }

            counted!(@rmw $ty: swap, fetch_add, fetch_sub, fetch_and, fetch_nand, fetch_or, fetch_xor, fetch_max, fetch_min);

            /// As of `core`'s type, counted as one.
            ///
            /// # Errors
            ///
            /// The value found.
            #[inline]
            #[track_caller]
            pub fn compare_exchange(&self, old: $ty, new: $ty, yes: Ordering, no: Ordering) -> Result<$ty, $ty> {
                note();
                self.0.compare_exchange(old, new, yes, no)
            }

            /// As of `core`'s type, counted as one.
            ///
            /// # Errors
            ///
            /// The value found.
            #[inline]
            #[track_caller]
            pub fn compare_exchange_weak(&self, old: $ty, new: $ty, yes: Ordering, no: Ordering) -> Result<$ty, $ty> {
                note();
                self.0.compare_exchange_weak(old, new, yes, no)
            }

            /// As of `core`'s type, each try counted as one.
            ///
            /// # Errors
            ///
            /// The value for which `f` returned `None`.
            #[inline]
            pub fn fetch_update(
                &self,
                yes: Ordering,
                no: Ordering,
                mut f: impl FnMut($ty) -> Option<$ty>,
            ) -> Result<$ty, $ty> {
                let mut old = self.load(no);
                while let Some(new) = f(old) {
                    match self.compare_exchange(old, new, yes, no) {
                        Ok(old) => return Ok(old),
                        Err(now) => old = now,
                    }
                }
                Err(old)
            }
        }

        impl From<$ty> for $name {
            fn from(value: $ty) -> Self {
                Self::new(value)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
    (@rmw $ty:ty: $($op:ident),*) => {$(
        /// As of `core`'s type, counted as one.
        #[inline]
        #[track_caller]
        pub fn $op(&self, value: $ty, order: Ordering) -> $ty {
            note();
            self.0.$op(value, order)
        }
    )*};
}

counted!(AtomicU64(u64), AtomicU32(u32));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_modify_writes_are_counted_and_others_are_not() {
        let before = read_modify_writes();
        let word = AtomicU64::new(1);
        word.store(word.load(Ordering::Relaxed), Ordering::Relaxed);
        assert_eq!(read_modify_writes(), before);
        word.fetch_or(2, Ordering::Relaxed);
        assert_eq!(word.compare_exchange(3, 4, Ordering::Relaxed, Ordering::Relaxed), Ok(3));
        assert_eq!(word.compare_exchange(3, 4, Ordering::Relaxed, Ordering::Relaxed), Err(4));
        assert_eq!(read_modify_writes(), before + 3);
        assert_eq!(word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(old + 1)), Ok(4));
        assert_eq!(word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |_| None), Err(5));
        assert_eq!(read_modify_writes(), before + 4);
    }
}
