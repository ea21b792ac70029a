// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which frame numbers the zones of a node span.

use core::fmt;

use mmkit_addr::{Pfn, PfnRange, ZoneId};
use mmkit_sync::atomic::{AtomicU64, Ordering};
use mmkit_sync::{SeqCount, SeqWriter, Spin, SpinEnv, mutant};

/// What a zone or a node spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// From the lowest frame that was ever added to the highest. Linux: `zone_start_pfn`, `spanned_pages`.
    pub range: PfnRange,
    /// Frames in it that are there now. Linux: `present_pages`.
    pub present: u64,
}

impl Span {
    /// Whether every frame of the span is there, or about to be (frames are counted before their descriptors are written): then who walks it need not look for holes. Linux: `zone->contiguous`.
    #[must_use]
    pub const fn is_contiguous(&self) -> bool {
        self.present == self.range.frames()
    }
}

/// Why a range was not added to a span, or not taken from it. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpanError {
    /// The range has no frames.
    Empty,
    /// The span would have more frames than fit: some of the range were there already.
    Overlap {
        /// What was to be added.
        range: PfnRange,
        /// The span as it would be.
        span: PfnRange,
        /// Frames that would be there.
        present: u64,
    },
    /// Not all of the range lies in the span, or fewer frames are there than were to go.
    NotThere {
        /// What was to be taken away.
        range: PfnRange,
        /// The span, if there is one.
        span: Option<Span>,
    },
}

impl fmt::Display for SpanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the range has no frames"),
            Self::Overlap { range, span, present } => {
                write!(f, "with {range:?} there would be {present} frames in {span:?}")
            }
            Self::NotThere { range, span: Some(span) } => {
                write!(
                    f,
                    "{range:?} is not all in {:?}, of which {} frames are there",
                    span.range, span.present
                )
            }
            Self::NotThere { range, span: None } => write!(f, "{range:?} is in no span"),
        }
    }
}

impl core::error::Error for SpanError {}

/// The words of one span. No frame was ever added while `end` is 0.
#[derive(Debug)]
struct Words {
    start: AtomicU64,
    end: AtomicU64,
    present: AtomicU64,
}

impl Words {
    #[cfg(not(mmkit_loom))]
    const fn new() -> Self {
        Self { start: AtomicU64::new(0), end: AtomicU64::new(0), present: AtomicU64::new(0) }
    }

    #[cfg(mmkit_loom)]
    fn new() -> Self {
        Self { start: AtomicU64::new(0), end: AtomicU64::new(0), present: AtomicU64::new(0) }
    }

    /// What they say; anything at all where a writer is at work.
    fn load(&self) -> Option<Span> {
        let [start, end, present] =
            [&self.start, &self.end, &self.present].map(|word| word.load(Ordering::Relaxed));
        let frames = end.checked_sub(start).filter(|&frames| frames > 0)?;
        Some(Span { range: PfnRange::new(Pfn::new(start)?, frames)?, present })
    }

    fn store(&self, span: Span) {
        self.start.store(span.range.start().get(), Ordering::Relaxed);
        self.end.store(span.range.end(), Ordering::Relaxed);
        self.present.store(span.present, Ordering::Relaxed);
    }

    /// What they say with `range` in addition.
    fn with(&self, range: PfnRange) -> Result<Span, SpanError> {
        let Some(span) = self.load() else { return Ok(Span { range, present: range.frames() }) };
        let start = span.range.start().min(range.start());
        let frames = span.range.end().max(range.end()) - start.get();
        // Between the ends of ranges that there are.
        let all = PfnRange::new(start, frames).unwrap_or(range);
        let present = span.present.saturating_add(range.frames());
        match present > all.frames() {
            true => Err(SpanError::Overlap { range, span: all, present }),
            false => Ok(Span { range: all, present }),
        }
    }

    /// What they say without `range`: the span stays as it is.
    fn without(&self, range: PfnRange) -> Result<Span, SpanError> {
        let span = self.load();
        let not_there = SpanError::NotThere { range, span };
        let span = span.filter(|span| span.range.contains_range(range)).ok_or(not_there)?;
        let present = span.present.checked_sub(range.frames()).ok_or(not_there)?;
        Ok(Span { present, ..span })
    }
}

/// The spans of a node and of its zones, which only grow. Linux: `pg_data_t` and `struct zone`, as far as memory of devices
/// moves them.
///
/// Memory of devices comes and goes in large pieces, anywhere. A span that shrank when its first or last piece goes would have to
/// look for the next frame that is there, in descriptors that others may be taking away at that moment. So it stays, and
/// counts what is there: a zone is contiguous again when its holes are filled.
///
/// Readers take no lock, wait for a change that is being made (so none of them may interrupt one), and never see a half of a change, nor a zone that reaches out of its node: all spans of a node
/// change together, under one [`SeqCount`]. Who calls [`add`](Self::add) and [`remove`](Self::remove) makes sure that ranges do
/// not overlap, as a registry of devices does; here only what could not fit is found out.
///
/// ```
/// use mmkit_addr::{Pfn, PfnRange, ZoneId};
/// use mmkit_devmap::NodeSpans;
///
/// let (spans, zone) = (NodeSpans::new(), ZoneId::new(3).unwrap());
/// let range = |start, frames| PfnRange::new(Pfn::new(start).unwrap(), frames).unwrap();
/// spans.add(zone, range(0x8000, 0x8000))?;
/// spans.add(zone, range(0x2_0000, 0x8000))?;
/// let span = spans.zone(zone).unwrap();
/// assert_eq!((span.range, span.present), (range(0x8000, 0x2_0000), 0x1_0000));
///
/// // What goes leaves a hole, at an end as well.
/// spans.remove(zone, range(0x8000, 0x8000))?;
/// assert_eq!(spans.zone(zone).unwrap().range, span.range);
/// # Ok::<(), mmkit_devmap::SpanError>(())
/// ```
///
/// Cost: a change writes a few words, and a compare-exchange; a look is a few loads, again where a change came between.
pub struct NodeSpans {
    seq: SeqCount,
    node: Words,
    zones: [Words; ZoneId::COUNT],
}

impl NodeSpans {
    /// A node of which nothing is there.
    #[cfg(not(mmkit_loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self { seq: SeqCount::new(), node: Words::new(), zones: [const { Words::new() }; ZoneId::COUNT] }
    }

    /// A node of which nothing is there. Not `const` under loom, whose atomics register themselves.
    #[cfg(mmkit_loom)]
    #[must_use]
    pub fn new() -> Self {
        Self { seq: SeqCount::new(), node: Words::new(), zones: core::array::from_fn(|_| Words::new()) }
    }

    /// Frames of `zone` have come. Linux: `resize_zone_range` and `resize_pgdat_range`.
    ///
    /// # Errors
    ///
    /// [`SpanError`], with nothing changed.
    pub fn add(&self, zone: ZoneId, range: PfnRange) -> Result<(), SpanError> {
        self.change(zone, range, |words| words.with(range))
    }

    /// Frames of `zone` have gone. Both spans stay as they are. Linux: `remove_pfn_range_from_zone`, which leaves the spans of
    /// `ZONE_DEVICE` alone.
    ///
    /// # Errors
    ///
    /// [`SpanError`], with nothing changed.
    pub fn remove(&self, zone: ZoneId, range: PfnRange) -> Result<(), SpanError> {
        self.change(zone, range, |words| words.without(range))
    }

    /// What `zone` spans; `None` where nothing was ever added.
    #[must_use]
    pub fn zone(&self, zone: ZoneId) -> Option<Span> {
        self.read(|| self.words(zone).load())
    }

    /// What the node spans; `None` where nothing was ever added.
    #[must_use]
    pub fn node(&self) -> Option<Span> {
        self.read(|| self.node.load())
    }

    /// What `zone` and the node span, at one moment.
    #[must_use]
    pub fn zone_and_node(&self, zone: ZoneId) -> Option<(Span, Span)> {
        let (zone, node) = self.read(|| (self.words(zone).load(), self.node.load()));
        zone.zip(node)
    }

    fn words(&self, zone: ZoneId) -> &Words {
        &self.zones[zone.index()]
    }

    fn read<T>(&self, look: impl Fn() -> T) -> T {
        mutant!("spans-read-torn", self.seq.read(&look), look())
    }

    fn change(
        &self,
        zone: ZoneId,
        range: PfnRange,
        new: impl Fn(&Words) -> Result<Span, SpanError>,
    ) -> Result<(), SpanError> {
        if range.is_empty() {
            return Err(SpanError::Empty);
        }
        let _writer = mutant!("spans-no-writer", Some(self.writer()), None);
        let (of_zone, of_node) = (new(self.words(zone))?, new(&self.node)?);
        self.node.store(of_node);
        self.words(zone).store(of_zone);
        Ok(())
    }

    /// Waits for other writers.
    fn writer(&self) -> SeqWriter<'_> {
        let mut tries = 0u32;
        loop {
            if let Some(writer) = self.seq.try_write() {
                return writer;
            }
            Spin.relax(tries);
            tries = tries.saturating_add(1);
        }
    }
}

impl Default for NodeSpans {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for NodeSpans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("NodeSpans");
        debug.field("node", &self.node());
        for zone in (0..ZoneId::COUNT as u8).filter_map(ZoneId::new) {
            if let Some(span) = self.zone(zone) {
                debug.field("zone", &(zone, span));
            }
        }
        debug.finish()
    }
}
