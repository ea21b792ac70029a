// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many pages of descriptors a span of frames owns.

use mmkit_addr::{Geometry, Order, PfnRange};

/// What stands behind the descriptors of a span, for [`own_pages`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanTails {
    /// Every page of descriptors is the span's own: single frames, and compounds that share nothing.
    Own,
    /// Compounds of this order share their tails: each owns one page.
    Shared(Order),
}

/// The vmemmap pages that `span` owns, in pages of the base size: what populating it adds to [`Usage::own`], and what
/// removing it takes away.
///
/// Where tails are shared, that is one page for each compound whose head lies in the span. Otherwise it is every page that
/// has a descriptor of the span. A page that the span shares with neighbours which are there too (16K and 64K base
/// pages) is counted here, and belongs to whoever came first and whoever goes last. What lies in an altmap is counted as
/// [`Usage::hosted`] instead; boot memory has the pages of whole sections, and what fills its holes has none.
///
/// A span of compounds below [`Geometry::min_dedup_order`] has nothing to share, whatever it says.
///
/// ```
/// use mmkit_addr::{Geometry, Order, Pfn, PfnRange};
/// use mmkit_vmemmap::{SpanTails, own_pages};
///
/// let gib = PfnRange::new(Pfn::ZERO, 1 << 18).unwrap();
/// let shared = |order| SpanTails::Shared(Order::new(order).unwrap());
/// assert_eq!(own_pages(&Geometry::X86_64, gib, SpanTails::Own), 4096);
/// assert_eq!(own_pages(&Geometry::X86_64, gib, shared(9)), 512);
/// assert_eq!(own_pages(&Geometry::X86_64, gib, shared(18)), 1);
/// ```
///
/// Cost: arithmetic. Source: Linux: `section_nr_vmemmap_pages`.
///
/// [`Usage::own`]: crate::Usage::own
/// [`Usage::hosted`]: crate::Usage::hosted
#[must_use]
pub const fn own_pages(geometry: &Geometry, span: PfnRange, tails: SpanTails) -> u64 {
    if span.is_empty() {
        return 0;
    }
    match tails {
        SpanTails::Shared(order) if order.get() >= geometry.min_dedup_order().get() => {
            span.end().div_ceil(order.frames()) - span.start().get().div_ceil(order.frames())
        }
        _ => {
            let per_page = geometry.descriptors_per_page();
            span.end().div_ceil(per_page) - span.start().get() / per_page
        }
    }
}
