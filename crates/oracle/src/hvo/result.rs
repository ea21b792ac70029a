// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was measured.

/// How two counters of pages of descriptors changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemmapChange {
    /// Pages taken at boot (`nr_memmap_boot_pages`).
    pub boot: i64,
    /// Pages taken later (`nr_memmap_pages`).
    pub later: i64,
}

impl MemmapChange {
    /// Both together.
    #[must_use]
    pub fn total(self) -> i64 {
        self.boot.saturating_add(self.later)
    }
}

/// A pool that grew, or shrank, once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// By how many pages.
    pub pages: u64,
    /// How long that took.
    pub seconds: f64,
    /// What that did to the descriptors; `None` where the kernel does not count them.
    pub memmap: Option<MemmapChange>,
    /// What that did to the free memory, in bytes. All else that the machine does is in it too.
    pub free_bytes: i64,
}

impl Sample {
    fn us_per_page(&self) -> Option<f64> {
        (self.pages > 0).then(|| self.seconds * 1e6 / self.pages as f64)
    }

    fn memmap_per_page(&self) -> Option<f64> {
        (self.pages > 0).then_some(self.memmap?.total() as f64 / self.pages as f64)
    }

    fn free_per_page(&self) -> Option<f64> {
        (self.pages > 0).then(|| self.free_bytes as f64 / self.pages as f64)
    }
}

/// A pool that grew and shrank again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cycle {
    /// Pages entered: with HVO they were optimised.
    pub grow: Sample,
    /// Pages left: with HVO they were restored.
    pub shrink: Sample,
}

/// Pages of descriptors that were freed, or taken, for each huge page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Freed {
    /// The kernel does not count them.
    Unknown,
    /// This many, every time.
    Exactly(i64),
    /// Something between: others changed the counters too, or some pages could not be optimised.
    Between(f64, f64),
}

/// What growing and shrinking a pool does and takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// Bytes of a huge page.
    pub page_bytes: u64,
    /// The node of the pool, where the kernel has nodes.
    pub node: Option<u32>,
    /// Pages that the pool was to grow by. Memory in pieces can make it fewer.
    pub pages_wanted: u64,
    /// The first time, with HVO. Where these pages were never optimised before, their descriptors are still mapped by
    /// huge pages, which are split; and descriptors taken at boot are replaced by ones taken later.
    pub first: Cycle,
    /// With HVO off, in turn with those of `on`.
    pub off: Vec<Cycle>,
    /// With HVO on.
    pub on: Vec<Cycle>,
    /// Pages that left the pool and still are huge pages, since the kernel had no memory for their descriptors.
    pub left_surplus: u64,
}

impl Measurement {
    pub(super) fn cycles(&self) -> impl Iterator<Item = &Cycle> {
        [&self.first].into_iter().chain(&self.off).chain(&self.on)
    }

    /// The pages that the pool grew by, the least of all times.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.cycles().map(|cycle| cycle.grow.pages).min().unwrap_or(0)
    }

    /// Pages of descriptors that optimising freed, for each huge page.
    #[must_use]
    pub fn freed_per_page(&self) -> Freed {
        freed(self.on.iter().map(|cycle| cycle.grow.memmap_per_page().map(|pages| -pages)))
    }

    /// Pages of descriptors that restoring took, for each huge page.
    #[must_use]
    pub fn taken_per_page(&self) -> Freed {
        freed(self.on.iter().map(|cycle| cycle.shrink.memmap_per_page()))
    }

    /// Microseconds per page for a pool that grows, with HVO on or off: the median.
    #[must_use]
    pub fn grow_us(&self, on: bool) -> Option<f64> {
        median(self.side(on).iter().filter_map(|cycle| cycle.grow.us_per_page()))
    }

    /// Microseconds per page for a pool that shrinks, with HVO on or off: the median.
    #[must_use]
    pub fn shrink_us(&self, on: bool) -> Option<f64> {
        median(self.side(on).iter().filter_map(|cycle| cycle.shrink.us_per_page()))
    }

    /// Microseconds to optimise a page: what growing takes longer with HVO. Waiting for readers and flushing, once
    /// each time, is in it.
    #[must_use]
    pub fn optimise_us(&self) -> Option<f64> {
        Some(self.grow_us(true)? - self.grow_us(false)?)
    }

    /// Microseconds to restore a page: what shrinking takes longer with HVO.
    #[must_use]
    pub fn restore_us(&self) -> Option<f64> {
        Some(self.shrink_us(true)? - self.shrink_us(false)?)
    }

    /// Bytes that stay free with HVO when a page enters the pool, as the free memory tells it: the median. Inexact.
    #[must_use]
    pub fn free_gain_bytes(&self) -> Option<f64> {
        let gain = |on| median(self.side(on).iter().filter_map(|cycle| cycle.grow.free_per_page()));
        Some(gain(true)? - gain(false)?)
    }

    fn side(&self, on: bool) -> &[Cycle] {
        if on { &self.on } else { &self.off }
    }
}

/// The middle value; of two in the middle, their mean. `None` of none.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

fn freed(per_page: impl Iterator<Item = Option<f64>>) -> Freed {
    let Some(values) = per_page.collect::<Option<Vec<_>>>() else { return Freed::Unknown };
    let (least, most) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), &value| {
        (value.min(least), value.max(most))
    });
    if values.is_empty() {
        Freed::Unknown
    } else if least == most && least.fract() == 0.0 {
        Freed::Exactly(least as i64)
    } else {
        Freed::Between(least, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(pages: u64, us: f64, boot: i64, later: i64, free_pages: i64) -> Sample {
        let memmap = Some(MemmapChange { boot, later });
        Sample { pages, seconds: us * pages as f64 / 1e6, memmap, free_bytes: free_pages * 4096 }
    }

    /// What Linux 6.18 told on the reference machine, for 64 pages of 2M.
    fn reference() -> Measurement {
        let on = |grow, shrink| Cycle {
            grow: sample(64, grow, 0, -448, -32_320),
            shrink: sample(64, shrink, 0, 448, 32_320),
        };
        let off = |grow, shrink| Cycle {
            grow: sample(64, grow, 0, 0, -32_768),
            shrink: sample(64, shrink, 0, 0, 32_768),
        };
        Measurement {
            page_bytes: 2 << 20,
            node: Some(0),
            pages_wanted: 64,
            first: Cycle {
                grow: sample(64, 150.0, -512, 64, -32_321),
                shrink: sample(64, 30.0, 0, 448, 32_320),
            },
            off: vec![off(2.0, 1.0), off(90.0, 1.5), off(3.0, 2.0)],
            on: vec![on(10.0, 12.0), on(12.0, 400.0), on(500.0, 14.0)],
            left_surplus: 0,
        }
    }

    #[test]
    fn seven_pages_for_each_page() {
        let result = reference();
        assert_eq!(result.freed_per_page(), Freed::Exactly(7));
        assert_eq!(result.taken_per_page(), Freed::Exactly(7));
        assert_eq!(result.first.grow.memmap.unwrap().total(), -448, "8 from boot go, 1 comes");
        assert_eq!(result.free_gain_bytes(), Some(28672.0));
        assert_eq!(result.pages(), 64);
    }

    #[test]
    fn times_are_medians_and_their_difference() {
        let result = reference();
        let near = |value: Option<f64>, expected: f64| {
            assert!((value.unwrap() - expected).abs() < 1e-9, "{value:?}")
        };
        near(result.grow_us(true), 12.0);
        near(result.grow_us(false), 3.0);
        near(result.optimise_us(), 9.0);
        near(result.restore_us(), 12.5);
        assert_eq!(median([4.0, 1.0]), Some(2.5));
        assert_eq!(median([]), None);
    }

    #[test]
    fn what_others_do_meanwhile_shows() {
        let mut result = reference();
        result.on[1].grow = sample(64, 12.0, 0, -444, 0);
        assert_eq!(result.freed_per_page(), Freed::Between(6.9375, 7.0));
        result.on[1].grow = sample(60, 12.0, 0, -420, 0);
        assert_eq!(result.freed_per_page(), Freed::Exactly(7), "fewer pages, as many for each");
        assert_eq!(result.pages(), 60);
        result.on[1].grow.memmap = None;
        assert_eq!(result.freed_per_page(), Freed::Unknown);
        result.on.clear();
        assert_eq!((result.freed_per_page(), result.optimise_us()), (Freed::Unknown, None));
    }
}
