// SPDX-License-Identifier: MIT OR Apache-2.0
//! What fits: which part of a layout is built for real, which in software tables, and which only counted.

use mmkit_addr::{Geometry, Order, Pfn, PfnRange, Scheme};
use mmkit_host::{MAPPING_BYTES, MappingBudget, mapping_budget, mappings_per_compound, memory_budget};

use super::layout::{Layout, Piece};

/// What this process may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) mappings: MappingBudget,
    /// Bytes of memory.
    pub(super) memory: u64,
}

impl Budget {
    /// Mappings that Linux allows a process unless told otherwise.
    const USUAL_MAPPINGS: u64 = 65_530;
    /// Memory to use where nobody tells how much there is.
    const CAUTIOUS_MEMORY: u64 = 1 << 30;

    /// The budget of this process, and what could not be read.
    pub(super) fn of_this_process() -> (Self, Vec<String>) {
        let mut skipped = Vec::new();
        let mappings = mapping_budget().unwrap_or_else(|error| {
            skipped.push(format!("{error}: vm.max_map_count is taken to be {}", Self::USUAL_MAPPINGS));
            MappingBudget { limit: Self::USUAL_MAPPINGS, others: 4 * MappingBudget::SPARE }
        });
        let memory = memory_budget().unwrap_or_else(|error| {
            skipped.push(format!("{error}: no more than {} bytes of memory are used", Self::CAUTIOUS_MEMORY));
            Self::CAUTIOUS_MEMORY
        });
        (Self { mappings, memory }, skipped)
    }
}

/// What blocks of a piece take.
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// log2 of the frames that are populated together at least.
    unit: Order,
    /// Bytes of memory for each unit: its own pages, and the entries of page tables that lead to them.
    bytes: u64,
    mappings: u64,
    /// Mappings of the piece, however many units it has.
    once: u64,
}

impl Cost {
    fn new(geometry: &Geometry, piece: &Piece, tails: Order) -> Self {
        let unit = piece.order.max(geometry.subsection_order());
        let page = geometry.base_bytes();
        let flat = unit.frames() * mmkit_addr::DESCRIPTOR_BYTES;
        let shared = geometry.compound(piece.order).filter(|compound| compound.is_optimisable());
        let (own, mappings, once) = match shared {
            Some(compound) => {
                (page << (unit.get() - piece.order.get()), mappings_per_compound(compound, tails), 0)
            }
            None => (flat, 0, 1),
        };
        // Eight bytes for each page that is mapped, in the space; and for each that is in memory, in the direct map.
        let entries = flat.div_ceil(page) * 8 + own.div_ceil(page) * 8;
        Self { unit, bytes: own + entries + mappings * MAPPING_BYTES, mappings, once }
    }

    fn units(&self, piece: &Piece) -> u64 {
        piece.range.frames() >> self.unit.get()
    }
}

/// What a whole layout takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// log2 of the frames in a run of identical tails.
    pub(super) tails: Order,
    pub(super) mappings: u64,
    /// Bytes of memory.
    pub(super) memory: u64,
}

impl Need {
    /// Beside the descriptors: the section table, page tables of higher levels, the program's own.
    const SLACK: u64 = 16 << 20;

    fn new(geometry: &Geometry, layout: &Layout, tails: Order) -> Self {
        let mut need = Self { tails, mappings: 1, memory: Self::SLACK };
        let mut kinds = Vec::new();
        for piece in &layout.pieces {
            let cost = Cost::new(geometry, piece, tails);
            need.mappings =
                need.mappings.saturating_add(cost.mappings.saturating_mul(cost.units(piece)) + cost.once);
            need.memory = need.memory.saturating_add(cost.bytes.saturating_mul(cost.units(piece)));
            if cost.mappings > 0 && !kinds.contains(&piece.order) {
                kinds.push(piece.order);
            }
        }
        // Between two pieces there may be a hole, which is a mapping too.
        need.mappings = need.mappings.saturating_add(layout.pieces.len() as u64);
        need.memory = need.memory.saturating_add((kinds.len() as u64 * geometry.base_bytes()) << tails.get());
        need
    }

    /// The need with the length of tail runs that fits the mappings and takes the least memory; where none fits, with
    /// the one that takes the fewest mappings.
    pub(super) fn least(geometry: &Geometry, layout: &Layout, mappings: u64) -> Self {
        let largest = layout.pieces.iter().map(|piece| piece.order).max().unwrap_or(Order::ZERO);
        let pages = geometry.compound(largest).and_then(|compound| compound.vmemmap_pages()).unwrap_or(1);
        let lengths = (0..=pages.ilog2() as u8).filter_map(Order::new);
        let over = |need: &Self| need.mappings.saturating_sub(mappings);
        let needs = lengths.map(|tails| Self::new(geometry, layout, tails));
        needs.min_by_key(|need| (over(need), need.memory)).unwrap_or(Self {
            tails: Order::ZERO,
            mappings: 1,
            memory: 0,
        })
    }
}

/// A layout by what happens to its parts.
#[derive(Clone, Debug, Default)]
pub(super) struct Split {
    /// Built in this process's memory, where the processor resolves it.
    pub(super) real: Layout,
    /// Built in software tables, after the first part was torn down.
    pub(super) software: Layout,
    /// Reckoned.
    pub(super) counted: Layout,
}

impl Split {
    /// As much as fits for real, as much of the rest as fits the memory in software tables; both from the lowest frame
    /// up.
    pub(super) fn new(geometry: &Geometry, layout: &Layout, tails: Order, budget: &Budget) -> Self {
        let memory = budget.memory.saturating_sub(Need::SLACK);
        let (real, rest) = cut(geometry, layout, tails, memory, budget.mappings.mappings());
        let (software, counted) = cut(geometry, &rest, tails, memory, u64::MAX);
        Self { real, software, counted }
    }
}

/// The lower part of the layout that takes no more than so much, and the rest.
fn cut(
    geometry: &Geometry,
    layout: &Layout,
    tails: Order,
    mut memory: u64,
    mut mappings: u64,
) -> (Layout, Layout) {
    let (mut below, mut above) = (Layout::default(), Layout::default());
    for piece in &layout.pieces {
        let cost = Cost::new(geometry, piece, tails);
        let once = cost.once + 1;
        let fit = match mappings.checked_sub(once).map(|left| left.checked_div(cost.mappings)) {
            Some(fit) if above.is_empty() => fit.unwrap_or(u64::MAX),
            _ => 0,
        };
        let units = fit.min(memory / cost.bytes.max(1)).min(cost.units(piece));
        if units > 0 {
            memory -= units * cost.bytes;
            mappings -= once + units * cost.mappings;
        }
        let frames = units << cost.unit.get();
        let start = piece.range.start();
        let part = PfnRange::new(start, frames).filter(|part| !part.is_empty());
        below.pieces.extend(part.map(|range| Piece { range, ..*piece }));
        let rest = Pfn::new(start.get() + frames)
            .and_then(|rest| PfnRange::new(rest, piece.range.frames() - frames));
        above.pieces.extend(rest.filter(|rest| !rest.is_empty()).map(|range| Piece { range, ..*piece }));
    }
    (below, above)
}

/// Bytes that the descriptors of a layout would take, last-level tables included, as
/// [`Scheme::KeepOneSharedTables`] where that saves anything.
pub(super) fn reckoned(geometry: &Geometry, layout: &Layout) -> u64 {
    let bytes = |piece: &Piece| {
        let compound = geometry.compound(piece.order)?;
        let scheme = if compound.is_optimisable() { Scheme::KeepOneSharedTables } else { Scheme::FlatBase };
        Some(compound.resident(scheme, piece.blocks())?.total())
    };
    layout.pieces.iter().filter_map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const X86: Geometry = Geometry::X86_64;
    const GIB: u64 = 1 << 18;

    fn order(order: u8) -> Order {
        Order::new(order).unwrap()
    }

    fn layout(gibs: u64, max: u8) -> Layout {
        Layout::new(&X86, &[PfnRange::new(Pfn::ZERO, gibs * GIB).unwrap()], order(max))
    }

    fn budget(mappings: u64, memory: u64) -> Budget {
        Budget { mappings: MappingBudget { limit: mappings, others: 0 }, memory }
    }

    fn gibs(layout: &Layout) -> u64 {
        layout.frames() / GIB
    }

    #[test]
    fn the_need_of_sixteen_gib() {
        let need = Need::least(&X86, &layout(16, 9), 65_000);
        assert_eq!((need.tails, need.mappings), (order(3), 8192 * 2 + 2));
        assert!(need.memory > 8192 * 4096 && need.memory < 8192 * 5000 + Need::SLACK, "{need:?}");
        let flat = Need::least(&X86, &layout(16, 0), 65_000);
        assert_eq!((flat.tails, flat.mappings), (order(0), 3));
        // Nothing fits: what is said is the least that would.
        assert_eq!(Need::least(&X86, &layout(64, 9), 65_000).mappings, 65_536 + 2);
    }

    #[test]
    fn what_does_not_fit_goes_on_to_the_next_place() {
        let all = layout(64, 9);
        let split = Split::new(&X86, &all, order(3), &budget(65_530, 16 << 30));
        assert_eq!(split.real.frames() + split.software.frames(), all.frames());
        assert!(gibs(&split.real) == 63 && !split.software.is_empty() && split.counted.is_empty());
        assert_eq!(split.real.end(), split.software.pieces[0].range.start().get());
        assert!(split.real.frames().is_multiple_of(512));

        // 64 GiB flat is 1 GiB.
        let split = Split::new(&X86, &layout(64, 0), order(0), &budget(65_530, (512 << 20) + Need::SLACK));
        assert_eq!((gibs(&split.real), gibs(&split.software), gibs(&split.counted)), (31, 31, 0));
        assert!(split.counted.frames() > 0 && split.counted.frames() < GIB);

        let split = Split::new(&X86, &layout(4, 9), order(3), &budget(0, 0));
        assert_eq!((gibs(&split.real), gibs(&split.software), gibs(&split.counted)), (0, 0, 4));
        let split = Split::new(&X86, &layout(4, 9), order(3), &budget(65_530, 1 << 30));
        assert_eq!((gibs(&split.real), gibs(&split.software), gibs(&split.counted)), (4, 0, 0));
    }

    #[test]
    fn counting_is_the_arithmetic_of_the_plan() {
        assert_eq!(reckoned(&X86, &layout(1024, 9)), 2080 << 20);
        assert_eq!(reckoned(&X86, &layout(1024, 18)), 8 << 20);
        assert_eq!(reckoned(&X86, &layout(1024, 0)), (16 << 30) + (32 << 20));
    }
}
