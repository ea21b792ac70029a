// SPDX-License-Identifier: MIT OR Apache-2.0
//! The life of a pool of huge pages: `cargo run -p mmkit-vmemmap --features pgtable --example pool`.

#[cfg(all(feature = "pgtable", not(mmkit_loom)))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use mmkit_addr::{Geometry, NodeId, Order, Pfn, PfnRange};
    use mmkit_frame::{Bare, test_util::TestFrames};
    use mmkit_page::Place;
    use mmkit_pgtable::X86_64;
    use mmkit_vmemmap::{HugePool, PoolReport, TableSpace, Vmemmap, WithReserves, WithTailSlots};

    // 3 GiB of 4K frames, whose descriptors lie in the first of them.
    let frames = 3 << 18;
    let memory = TestFrames::with_frames(frames);
    let env = || Bare::new(memory.frames());
    let space = TableSpace::<X86_64, _>::new(env(), Geometry::X86_64, NodeId::ZERO)?;
    let slots = WithReserves::<_, 1, 4>::new(WithTailSlots::<_, 2>::new(env()));
    let map = Vmemmap::new(Geometry::X86_64, space, slots)?;
    let range = PfnRange::new(Pfn::ZERO, frames).ok_or("out of range")?;
    map.populate(range, Order::ZERO, Place::default())?;

    let node = NodeId::ZERO;
    let (huge, giant) = (Order::new(9).ok_or("order")?, Order::new(18).ok_or("order")?);
    let pool = HugePool::new(&map, [(node, huge), (node, giant)])?;
    let all = map.usage().total();

    println!("{:44} {:>4} {:>6} {:>6} {:>7} {:>9}", "", "1G", "2M", "in use", "surplus", "saved KiB");
    let row = |what: &str, report: Option<PoolReport>| -> Result<(), Box<dyn std::error::Error>> {
        let (small, large) = (pool.counts(node, huge)?, pool.counts(node, giant)?);
        let saved = (all as i64 - map.usage().total() as i64) * 4;
        let in_use = small.in_use + large.in_use;
        let surplus = small.surplus + large.surplus;
        let (small, large) = (small.total(), large.total());
        println!("{what:44} {large:>4} {small:>6} {in_use:>6} {surplus:>7} {saved:>9}");
        if let Some(error) = report.and_then(|report| report.error) {
            println!("    {error}");
        }
        Ok(())
    };
    row("an empty pool", None)?;
    let report = pool.resize(node, giant, 1)?;
    row("1 page of 1G", Some(report))?;
    let report = pool.demote(node, giant, huge, 1)?;
    row("split into 512 of 2M", Some(report))?;
    let report = pool.resize(node, huge, 600)?;
    row("88 more", Some(report))?;
    let users = (0..3).map(|_| pool.allocate(node, huge)).collect::<Result<Vec<_>, _>>()?;
    row("3 handed out", None)?;

    memory.set_budget(0);
    let report = pool.resize(node, huge, 100)?;
    row("to 100, while no frame is free", Some(report))?;
    memory.heal();
    let report = pool.retry(node, huge)?;
    row("tried again, with memory", Some(report))?;

    map.set_reserve(node, huge, true)?;
    memory.set_budget(0);
    let report = pool.resize(node, huge, 0)?;
    row("to 0, no frame free, but 7 in reserve", Some(report))?;
    drop(users);
    row("the last users let go", None)?;
    Ok(())
}

#[cfg(not(all(feature = "pgtable", not(mmkit_loom))))]
fn main() {
    println!("needs the feature `pgtable`");
}
