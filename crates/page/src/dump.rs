// SPDX-License-Identifier: MIT OR Apache-2.0
//! A descriptor for humans.

use core::fmt;

use bitflags::parser;
use mmkit_sync::atomic::Ordering::Relaxed;

use crate::{MemMap, PageView, State};

/// Shows a descriptor on one line: frame, state, place, flags, and the words that are not zero.
///
/// Made by [`PageView::dump`]. Linux: `dump_page`.
pub struct Dump<'v, 'm, 'g, M>(&'v PageView<'m, 'g, M>);

impl<'m, 'g, M: MemMap> PageView<'m, 'g, M> {
    /// The descriptor for humans.
    #[must_use]
    pub fn dump(&self) -> Dump<'_, 'm, 'g, M> {
        Dump(self)
    }
}

impl<M: MemMap> fmt::Display for Dump<'_, '_, '_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let view = self.0;
        write!(f, "{:?}: ", view.pfn())?;
        let (tag, count) = view.block.page().snapshot();
        match State::of(tag, count) {
            State::Uninitialised => return f.write_str("not initialised"),
            State::Tail { order } => {
                write!(f, "tail of {:?}, {order:?}", tag.head_of(view.pfn()))?;
            }
            State::Inside => f.write_str("inside a block")?,
            State::Free { order, parked } => {
                write!(
                    f,
                    "free, {order:?}, {}",
                    if parked { "at rest" } else { "in its allocator's hands" }
                )?;
            }
            State::Frozen { order } => write!(f, "frozen, {order:?}")?,
            State::Held { order, count } => write!(f, "{order:?}, count {count}")?,
        }
        let place = view.place();
        write!(f, ", {:?}, {:?}", place.node, place.zone)?;
        if !view.flags().is_empty() {
            f.write_str(", ")?;
            parser::to_writer(&view.flags(), &mut *f)?;
        }
        let page = view.block.page();
        let halves = page.half.iter().map(|half| u64::from(half.load(Relaxed)));
        let words = page.word.iter().map(|word| word.load(Relaxed));
        for (index, value) in halves.enumerate().filter(|&(_, value)| value != 0) {
            write!(f, ", half {index} {value:#x}")?;
        }
        for (index, value) in words.enumerate().filter(|&(_, value)| value != 0) {
            write!(f, ", word {index} {value:#x}")?;
        }
        Ok(())
    }
}

impl<M: MemMap> fmt::Debug for Dump<'_, '_, '_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
