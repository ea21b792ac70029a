// SPDX-License-Identifier: MIT OR Apache-2.0
//! The section table: a radix tree over section numbers whose nodes are frames.

use mmkit_addr::{Order, Pfn};
use mmkit_frame::{AllocError, DirectMap, FrameAllocator, Frames, Request, Word};
use mmkit_page::Place;
use mmkit_sync::atomic::{AtomicU64, Ordering};

use crate::section::{Flags, Section, Shape};

/// A link to a node: its frame number plus one, whether lookups follow it, and for the root its height.
///
/// | bits | what |
/// |---|---|
/// | 0 | live: clear in a node that was emptied and waits for readers to leave |
/// | 1..=7 | height: 0 for a leaf, which holds section entries |
/// | 8..=63 | frame number plus one; 0 for no node |
#[derive(Clone, Copy, PartialEq, Eq)]
struct Link(u64);

impl Link {
    const NONE: Self = Self(0);

    const fn new(pfn: Pfn, height: u32) -> Self {
        Self((pfn.get() + 1) << 8 | (height as u64) << 1 | 1)
    }

    #[inline]
    fn pfn(self) -> Option<Pfn> {
        Pfn::new((self.0 >> 8).checked_sub(1)?)
    }

    #[inline]
    const fn is_live(self) -> bool {
        self.0 & 1 != 0
    }

    #[inline]
    const fn height(self) -> u32 {
        (self.0 >> 1) as u32 & 0x7f
    }

    const fn live(self, live: bool) -> Self {
        Self(self.0 & !1 | live as u64)
    }
}

/// Which sections exist, and what is in them. Nothing is sized by the highest address, and a hole costs nothing.
///
/// The tree is as high as its highest section needs. Changes are made under the memory map's lock; lookups follow the
/// links at any time inside the read side.
pub(crate) struct Sections {
    root: AtomicU64,
    shape: Shape,
}

/// Frames for nodes, taken before anything changes. A list through the frames themselves.
pub(crate) struct Spare {
    first: Link,
}

/// The root that was in place before nodes were taken out of the tree.
pub(crate) struct Detached {
    root: Link,
    any: bool,
}

impl Detached {
    /// Whether there is anything to wait for and to sweep.
    pub(crate) const fn is_empty(&self) -> bool {
        !self.any
    }
}

impl Sections {
    pub(crate) fn new(shape: Shape) -> Self {
        Self { root: AtomicU64::new(Link::NONE.0), shape }
    }

    #[inline]
    fn root(&self) -> Link {
        // Acquire: pairs with the Release of `set_root`: the node's words are seen.
        Link(self.root.load(Ordering::Acquire))
    }

    fn set_root(&self, root: Link) {
        // Release: pairs with the Acquire of `root`.
        self.root.store(root.0, Ordering::Release);
    }

    #[inline]
    fn leaf_shift(&self) -> u32 {
        self.shape.leaf
    }

    /// The index, in a node of `height`, of the link that leads to `section`; beyond the node where it is too high.
    #[inline]
    fn index(&self, section: u64, height: u32) -> u64 {
        match height.checked_sub(1) {
            None => section,
            Some(below) => {
                section.checked_shr(self.leaf_shift() + below * self.shape.frame_words).unwrap_or(0)
            }
        }
    }

    /// The height of the smallest tree that can hold `section`.
    fn height_for(&self, section: u64) -> u32 {
        let mut height = 0;
        let mut capacity = self.leaf_shift();
        while capacity < u64::BITS && section >> capacity != 0 {
            capacity += self.shape.frame_words;
            height += 1;
        }
        height
    }

    /// The words of a node.
    #[inline]
    fn node<A: FrameAllocator, D: DirectMap>(frames: &Frames<A, D>, node: Link) -> Option<&[Word]> {
        // SAFETY: nodes are frames that this table took and gives back only when no lookup can be in them: after a
        // grace period, or while the table is borrowed exclusively. They are accessed as words only.
        unsafe { frames.words(node.pfn()?) }
    }

    #[inline]
    fn slot<'f, A: FrameAllocator, D: DirectMap>(
        &self,
        frames: &'f Frames<A, D>,
        node: Link,
        height: u32,
        section: u64,
    ) -> Option<&'f Word> {
        let index = self.index(section, height) & ((1 << self.shape.frame_words) - 1);
        Self::node(frames, node)?.get(index as usize)
    }

    /// The section, where the tree has room for it. It may have no subsections.
    #[inline]
    pub(crate) fn get<'f, A: FrameAllocator, D: DirectMap>(
        &self,
        frames: &'f Frames<A, D>,
        section: u64,
    ) -> Option<Section<'f>> {
        let mut node = self.root();
        let mut height = node.height();
        if !node.is_live() || self.height_for_exceeds(section, height) {
            return None;
        }
        while height > 0 {
            // Acquire: pairs with the Release of `insert`: the words of the next node are seen.
            node = Link(self.slot(frames, node, height, section)?.load(Ordering::Acquire));
            if !node.is_live() {
                return None;
            }
            height -= 1;
        }
        Section::of(Self::node(frames, node)?, section & ((1 << self.leaf_shift()) - 1), self.shape)
    }

    /// Whether the subsection of `pfn` has descriptors: what every lookup asks.
    ///
    /// The same as `get` and a look at the bitmap, without making slices. Cost: one load for each level, one of the
    /// bitmap. Acquire, all of them: see `root`, `get` and [`Bitmap::contains`](crate::bitmap::Bitmap::contains).
    #[inline]
    pub(crate) fn is_present<A: FrameAllocator, D: DirectMap>(
        &self,
        frames: &Frames<A, D>,
        pfn: Pfn,
    ) -> bool {
        // The word that has the bit, among all words of all leaves.
        let word = pfn.get() >> self.shape.word;
        let mut node = self.root();
        let mut shift = self.shape.leaf_words + node.height() * self.shape.frame_words;
        if !node.is_live() || word.checked_shr(shift).unwrap_or(0) != 0 {
            return false;
        }
        while shift > self.shape.leaf_words {
            shift -= self.shape.frame_words;
            let Some(slot) = self.word(frames, node, word >> shift) else { return false };
            // Acquire: pairs with the Release of `insert`, as in `get`.
            node = Link(slot.load(Ordering::Acquire));
            if !node.is_live() {
                return false;
            }
        }
        let Some(bits) = self.word(frames, node, word & ((1 << self.shape.leaf_words) - 1)) else {
            return false;
        };
        let bit = (pfn.get() >> self.shape.subsection) as u32 & self.shape.bit_mask;
        // Acquire: pairs with the Release of `Bitmap::set`.
        bits.load(Ordering::Acquire) >> bit & 1 != 0
    }

    /// Word `index` of a node, counted modulo the words of a frame.
    #[inline]
    fn word<'f, A: FrameAllocator, D: DirectMap>(
        &self,
        frames: &'f Frames<A, D>,
        node: Link,
        index: u64,
    ) -> Option<&'f Word> {
        let words = frames.frame(node.pfn()?)?.cast::<Word>();
        let index = index & ((1 << self.shape.frame_words) - 1);
        // SAFETY: masked to the words of a frame, all of which are behind the pointer.
        let word = unsafe { words.add(index as usize) };
        // SAFETY: aligned, as frames are, and readable: see `node`, which nobody accesses but as words.
        Some(unsafe { word.as_ref() })
    }

    /// Whether `section` does not fit a tree of `height`.
    #[inline]
    fn height_for_exceeds(&self, section: u64, height: u32) -> bool {
        let capacity = self.leaf_shift() + height * self.shape.frame_words;
        capacity < u64::BITS && section >> capacity != 0
    }

    /// The nodes that the tree lacks to hold sections `first..=last`.
    pub(crate) fn missing<A: FrameAllocator, D: DirectMap>(
        &self,
        frames: &Frames<A, D>,
        first: u64,
        last: u64,
    ) -> u64 {
        let root = self.root();
        let has = root.is_live().then(|| root.height());
        let height = has.unwrap_or(0).max(self.height_for(last));
        let mut missing = 0;
        for level in 0..=height {
            // Nodes of this level have their numbers where links of the level above have their indices.
            let (low, high) = (self.index(first, level + 1), self.index(last, level + 1));
            let above_root = has.is_none_or(|has| level > has);
            missing += if above_root {
                // The old root hangs off node 0 of every new level.
                high - low + 1 + u64::from(has.is_some() && low > 0)
            } else {
                (low..=high).filter(|&node| !self.has_node(frames, level, node)).count() as u64
            };
        }
        missing
    }

    /// Whether the tree, which is at least as high, has node number `number` of `level`.
    fn has_node<A: FrameAllocator, D: DirectMap>(
        &self,
        frames: &Frames<A, D>,
        level: u32,
        number: u64,
    ) -> bool {
        let mut node = self.root();
        let mut height = node.height();
        let section = number << (self.leaf_shift() + level * self.shape.frame_words);
        if self.height_for_exceeds(section, height) {
            return false;
        }
        while height > level {
            let Some(slot) = self.slot(frames, node, height, section) else { return false };
            node = Link(slot.load(Ordering::Relaxed));
            if !node.is_live() {
                return false;
            }
            height -= 1;
        }
        true
    }

    /// The section, making the nodes that lead to it out of `spare`, which has enough.
    pub(crate) fn insert<'f, A: FrameAllocator, D: DirectMap>(
        &self,
        frames: &'f Frames<A, D>,
        section: u64,
        spare: &mut Spare,
    ) -> Option<Section<'f>> {
        let needed = self.height_for(section);
        let mut root = self.root();
        while !root.is_live() || root.height() < needed {
            let height = if root.is_live() { root.height() + 1 } else { needed };
            let new = spare.take(frames, height)?;
            if root.is_live() {
                Self::node(frames, new)?.first()?.store(root.0, Ordering::Relaxed);
            }
            self.set_root(new);
            root = new;
        }
        let (mut node, mut height) = (root, root.height());
        while height > 0 {
            let slot = self.slot(frames, node, height, section)?;
            height -= 1;
            node = Link(slot.load(Ordering::Relaxed));
            if !node.is_live() {
                node = spare.take(frames, height)?;
                // Release: pairs with the Acquire of `get`.
                slot.store(node.0, Ordering::Release);
            }
        }
        self.get(frames, section)
    }

    /// Takes nodes without subsections, on the way to sections `first..=last`, out of the lookups' way. They keep
    /// their links, since a lookup may be in them.
    pub(crate) fn detach<A: FrameAllocator, D: DirectMap>(
        &self,
        frames: &Frames<A, D>,
        first: u64,
        last: u64,
    ) -> Detached {
        let root = self.root();
        let mut any = false;
        if root.is_live() && self.detach_below(frames, root, root.height(), first, last, &mut any) {
            self.set_root(root.live(false));
        } else if root.is_live() {
            self.set_root(self.lowest_root(frames, root));
        }
        Detached { root, any: any || self.root() != root }
    }

    /// Whether `node` is empty now.
    fn detach_below<A: FrameAllocator, D: DirectMap>(
        &self,
        frames: &Frames<A, D>,
        node: Link,
        height: u32,
        first: u64,
        last: u64,
        any: &mut bool,
    ) -> bool {
        let Some(words) = Self::node(frames, node) else { return false };
        if height == 0 {
            return self.is_empty_leaf(words);
        }
        for slot in self.slots_between(words, height, first, last) {
            let below = Link(slot.load(Ordering::Relaxed));
            if below.is_live() && self.detach_below(frames, below, height - 1, first, last, any) {
                slot.store(below.live(false).0, Ordering::Relaxed);
                *any = true;
            }
        }
        words.iter().all(|slot| !Link(slot.load(Ordering::Relaxed)).is_live())
    }

    /// Whether no section of a leaf has memory for descriptors.
    fn is_empty_leaf(&self, words: &[Word]) -> bool {
        let unused = |index| {
            let section = Section::of(words, index, self.shape);
            section.is_none_or(|section| {
                let unmarked = section.shared().is_empty() && section.reserved().is_empty();
                unmarked && section.flags() == Flags::default()
            })
        };
        Section::all_present(words, self.shape).is_empty() && (0..1 << self.shape.leaf).all(unused)
    }

    /// The links of a node that may lead to sections `first..=last`. For a node that other sections lead to as well,
    /// some of them do not; those are left alone by their users, who look for dead links or empty nodes.
    fn slots_between<'w>(&self, words: &'w [Word], height: u32, first: u64, last: u64) -> &'w [Word] {
        let mask = (1u64 << self.shape.frame_words) - 1;
        let (low, high) = (self.index(first, height), self.index(last, height));
        if low >> self.shape.frame_words != high >> self.shape.frame_words {
            return words;
        }
        words.get((low & mask) as usize..=(high & mask) as usize).unwrap_or(words)
    }

    /// The root of the smallest tree that still has every live node.
    fn lowest_root<A: FrameAllocator, D: DirectMap>(&self, frames: &Frames<A, D>, mut root: Link) -> Link {
        while root.height() > 0 {
            let Some((first, others)) = Self::node(frames, root).and_then(|words| words.split_first()) else {
                break;
            };
            let below = Link(first.load(Ordering::Relaxed));
            if !below.is_live() || others.iter().any(|slot| Link(slot.load(Ordering::Relaxed)).is_live()) {
                break;
            }
            root = below;
        }
        root
    }

    /// Hands out the frames of detached nodes. No lookup is in them any more.
    pub(crate) fn sweep<A: FrameAllocator, D: DirectMap>(
        &self,
        frames: &Frames<A, D>,
        detached: Detached,
        first: u64,
        last: u64,
        give: &mut dyn FnMut(Pfn),
    ) {
        self.sweep_below(frames, detached.root, first, last, give);
        let root = self.root();
        let mut old = detached.root;
        while old.pfn() != root.pfn() || !root.is_live() {
            let below = Self::node(frames, old)
                .and_then(|words| words.first())
                .map_or(Link::NONE, |slot| Link(slot.load(Ordering::Relaxed)));
            if let Some(pfn) = old.pfn() {
                give(pfn);
            }
            if !root.is_live() || old.height() == 0 {
                break;
            }
            old = below;
        }
        if !root.is_live() {
            self.set_root(Link::NONE);
        }
    }

    fn sweep_below<A: FrameAllocator, D: DirectMap>(
        &self,
        frames: &Frames<A, D>,
        node: Link,
        first: u64,
        last: u64,
        give: &mut dyn FnMut(Pfn),
    ) {
        let Some(words) = Self::node(frames, node).filter(|_| node.height() > 0) else { return };
        for slot in self.slots_between(words, node.height(), first, last) {
            let below = Link(slot.load(Ordering::Relaxed));
            if below == Link::NONE {
                continue;
            }
            self.sweep_below(frames, below, first, last, give);
            if let Some(pfn) = below.pfn().filter(|_| !below.is_live()) {
                slot.store(Link::NONE.0, Ordering::Relaxed);
                give(pfn);
            }
        }
    }

    /// Nodes that lookups go through.
    pub(crate) fn nodes<A: FrameAllocator, D: DirectMap>(&self, frames: &Frames<A, D>) -> u64 {
        let root = self.root();
        if root.is_live() { Self::nodes_below(frames, root) } else { 0 }
    }

    fn nodes_below<A: FrameAllocator, D: DirectMap>(frames: &Frames<A, D>, node: Link) -> u64 {
        let words = Self::node(frames, node).filter(|_| node.height() > 0).unwrap_or(&[]);
        let live = words.iter().map(|slot| Link(slot.load(Ordering::Relaxed))).filter(|link| link.is_live());
        1 + live.map(|link| Self::nodes_below(frames, link)).sum::<u64>()
    }

    /// Calls `with` for every section that the tree has room for.
    pub(crate) fn for_each<A: FrameAllocator, D: DirectMap>(
        &self,
        frames: &Frames<A, D>,
        with: &mut dyn FnMut(u64, Section<'_>),
    ) {
        let root = self.root();
        if root.is_live() {
            self.for_each_below(frames, root, 0, with);
        }
    }

    fn for_each_below<A: FrameAllocator, D: DirectMap>(
        &self,
        frames: &Frames<A, D>,
        node: Link,
        number: u64,
        with: &mut dyn FnMut(u64, Section<'_>),
    ) {
        let Some(words) = Self::node(frames, node) else { return };
        if node.height() == 0 {
            for index in 0..1 << self.leaf_shift() {
                if let Some(section) = Section::of(words, index, self.shape) {
                    with(number << self.leaf_shift() | index, section);
                }
            }
            return;
        }
        for (below, slot) in (number << self.shape.frame_words..).zip(words) {
            let link = Link(slot.load(Ordering::Relaxed));
            if link.is_live() {
                self.for_each_below(frames, link, below, with);
            }
        }
    }
}

impl Spare {
    /// Takes `count` zeroed frames near `place`, or none.
    pub(crate) fn allocate<A: FrameAllocator, D: DirectMap>(
        frames: &Frames<A, D>,
        count: u64,
        place: Place,
    ) -> Result<Self, AllocError> {
        let mut spare = Self { first: Link::NONE };
        for _ in 0..count {
            match frames.allocate(Request::new(Order::ZERO).on_node(place.node).zeroed()) {
                Ok(pfn) => {
                    let link = Link::new(pfn, 0);
                    if let Some(next) = Sections::node(frames, link).and_then(|words| words.first()) {
                        next.store(spare.first.0, Ordering::Relaxed);
                    }
                    spare.first = link;
                }
                Err(error) => {
                    spare.give_back(frames);
                    return Err(error);
                }
            }
        }
        Ok(spare)
    }

    /// The next frame, zeroed, as a node of `height`.
    fn take<A: FrameAllocator, D: DirectMap>(&mut self, frames: &Frames<A, D>, height: u32) -> Option<Link> {
        let pfn = self.first.pfn()?;
        let next = Sections::node(frames, self.first)?.first()?;
        self.first = Link(next.load(Ordering::Relaxed));
        next.store(Link::NONE.0, Ordering::Relaxed);
        Some(Link::new(pfn, height))
    }

    /// Gives back what was not used.
    pub(crate) fn give_back<A: FrameAllocator, D: DirectMap>(mut self, frames: &Frames<A, D>) {
        while let Some(node) = self.take(frames, 0) {
            if let Some(pfn) = node.pfn() {
                // SAFETY: `allocate` took the frame at this order, and it was never linked into the tree.
                unsafe { frames.deallocate(pfn, Order::ZERO) };
            }
        }
    }
}

#[cfg(all(test, not(mmkit_loom)))]
mod tests;
