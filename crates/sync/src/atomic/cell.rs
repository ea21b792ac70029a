// SPDX-License-Identifier: MIT OR Apache-2.0
//! `core::cell::UnsafeCell` in the shape of loom's.

/// A cell whose content may change behind a shared reference; all access is through raw pointers.
///
/// The same as [`core::cell::UnsafeCell`], in the shape of `loom::cell::UnsafeCell`: the closures show a model where an
/// access begins and ends.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct UnsafeCell<T: ?Sized>(core::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    /// A cell that holds `value`.
    pub const fn new(value: T) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    /// Takes the value out.
    pub fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

impl<T: ?Sized> UnsafeCell<T> {
    /// Calls `f` with a pointer for reading.
    #[inline]
    pub fn with<F: FnOnce(*const T) -> R, R>(&self, f: F) -> R {
        f(self.0.get())
    }

    /// Calls `f` with a pointer for writing.
    #[inline]
    pub fn with_mut<F: FnOnce(*mut T) -> R, R>(&self, f: F) -> R {
        f(self.0.get())
    }

    /// A pointer for reading; the access lasts as long as the value does.
    #[inline]
    pub fn get(&self) -> ConstPtr<T> {
        ConstPtr(self.0.get())
    }

    /// A pointer for writing; the access lasts as long as the value does.
    #[inline]
    pub fn get_mut(&self) -> MutPtr<T> {
        MutPtr(self.0.get())
    }
}

/// A reading access to an [`UnsafeCell`].
#[derive(Debug)]
pub struct ConstPtr<T: ?Sized>(*const T);

impl<T: ?Sized> ConstPtr<T> {
    /// The content.
    ///
    /// # Safety
    ///
    /// The cell is alive and nobody writes to its content while the returned reference lives.
    #[inline]
    #[must_use]
    pub unsafe fn deref(&self) -> &T {
        // SAFETY: the pointer comes from a cell; the caller promises that the cell is alive and is not written.
        unsafe { &*self.0 }
    }
}

/// A writing access to an [`UnsafeCell`].
#[derive(Debug)]
pub struct MutPtr<T: ?Sized>(*mut T);

impl<T: ?Sized> MutPtr<T> {
    /// The content.
    ///
    /// # Safety
    ///
    /// The cell is alive and nobody else reads or writes its content while the returned reference lives.
    #[expect(clippy::mut_from_ref, reason = "loom's shape; exclusivity is the caller's promise")]
    #[inline]
    #[must_use]
    pub unsafe fn deref(&self) -> &mut T {
        // SAFETY: the pointer comes from a cell; the caller promises that the cell is alive and that the access is
        // exclusive.
        unsafe { &mut *self.0 }
    }
}
