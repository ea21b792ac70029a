// SPDX-License-Identifier: MIT OR Apache-2.0
//! A huge page in use.

use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Deref;

use mmkit_page::Folio;

use super::{HugePool, PoolMap};

/// A huge page that a [`HugePool`] handed out: a folio with one reference, which goes back to the pool when it is dropped.
///
/// Others may take references of their own meanwhile ([`Folio::try_clone`], [`MemMap::try_get`](mmkit_page::MemMap::try_get)). If there are any
/// when it is dropped, the folio does not go back: the last of them hands it to
/// [`MemMap::release`](mmkit_page::MemMap::release), and it counts as in use until somebody
/// [takes it back](HugePool::take_back). [`free`](Self::free) refuses instead.
#[must_use = "dropping a huge page gives it back"]
pub struct HugePage<'p, M: PoolMap, const N: usize> {
    pool: &'p HugePool<'p, M, N>,
    folio: ManuallyDrop<Folio<'p, M>>,
    class: usize,
}

impl<'p, M: PoolMap, const N: usize> HugePage<'p, M, N> {
    pub(super) fn new(pool: &'p HugePool<'p, M, N>, folio: Folio<'p, M>, class: usize) -> Self {
        Self { pool, folio: ManuallyDrop::new(folio), class }
    }

    /// Gives the page back to its pool. If the pool has a surplus, a page of it goes back to the allocator, and its
    /// descriptors are restored for that. Linux: `free_huge_folio`.
    ///
    /// # Errors
    ///
    /// The page, while others hold references.
    ///
    /// Cost: one compare-exchange and the pool's lock; a restore where there is a surplus.
    pub fn free(self) -> Result<(), Self> {
        let (pool, class) = (self.pool, self.class);
        match self.into_folio().freeze() {
            Ok(frozen) => {
                pool.put(class, frozen);
                Ok(())
            }
            Err(folio) => Err(Self::new(pool, folio, class)),
        }
    }

    /// The folio alone. The page is in use until it is [taken back](HugePool::take_back).
    pub fn into_folio(self) -> Folio<'p, M> {
        let mut page = ManuallyDrop::new(self);
        // SAFETY: taken once: the page is not dropped, and not used again.
        unsafe { ManuallyDrop::take(&mut page.folio) }
    }
}

impl<'p, M: PoolMap, const N: usize> Deref for HugePage<'p, M, N> {
    type Target = Folio<'p, M>;

    fn deref(&self) -> &Folio<'p, M> {
        &self.folio
    }
}

impl<M: PoolMap, const N: usize> Drop for HugePage<'_, M, N> {
    fn drop(&mut self) {
        // SAFETY: taken once: nothing uses the page after `drop`.
        let folio = unsafe { ManuallyDrop::take(&mut self.folio) };
        if let Some(frozen) = folio.put() {
            self.pool.put(self.class, frozen);
        }
    }
}

impl<M: PoolMap, const N: usize> fmt::Debug for HugePage<'_, M, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HugePage").field(&*self.folio).finish()
    }
}
