// SPDX-License-Identifier: MIT OR Apache-2.0
use mmkit_addr::Pfn;
use mmkit_page::{MemMap, Page, SliceMap};
#[inline(never)]
#[unsafe(no_mangle)]
pub fn head_sum(map: &SliceMap<'_>, frames: &[Pfn]) -> u64 {
    let mut sum = 0u64;
    for &pfn in frames {
        if let Some(h) = map.head(pfn) {
            sum = sum.wrapping_add(h.get());
        }
    }
    sum
}
#[inline(never)]
#[unsafe(no_mangle)]
pub fn base_sum(infos: &[[u64; 8]], frames: &[u32]) -> u64 {
    let mut sum = 0u64;
    for &n in frames {
        sum = sum.wrapping_add(n as u64 & !infos[n as usize][1]);
    }
    sum
}
fn main() {
    let mut pages: Vec<Page> = (0..4096).map(|_| Page::new()).collect();
    let map = SliceMap::new(&mut pages, Pfn::ZERO).unwrap();
    map.initialise(map.range(), Default::default()).unwrap();
    let mut r = 1u32;
    let idx: Vec<u32> = (0..1 << 20)
        .map(|_| {
            r ^= r << 13;
            r ^= r >> 17;
            r ^= r << 5;
            r % 4096
        })
        .collect();
    let frames: Vec<Pfn> = idx.iter().map(|&n| Pfn::new(n as u64).unwrap()).collect();
    // make some compounds
    for b in (0..4096u64).step_by(64) {
        let mut v: Vec<_> = (b..b + 64).map(|n| map.claim(Pfn::new(n).unwrap()).unwrap()).collect();
        while v.len() > 1 {
            let mut it = v.into_iter();
            let mut w = vec![];
            while let (Some(a), Some(c)) = (it.next(), it.next()) {
                w.push(a.merge(c).unwrap());
            }
            v = w;
        }
        let _ = v.pop().unwrap().allocate().prep().unwrap().into_folio().into_raw();
    }
    let flat = vec![[0u64, 63, 0, 0, 0, 0, 0, 0]; 4096];
    let (mut best_a, mut best_b) = (f64::MAX, f64::MAX);
    for _ in 0..30 {
        let t = std::time::Instant::now();
        std::hint::black_box(head_sum(&map, &frames));
        best_a = best_a.min(t.elapsed().as_secs_f64());
        let t = std::time::Instant::now();
        std::hint::black_box(base_sum(&flat, &idx));
        best_b = best_b.min(t.elapsed().as_secs_f64());
    }
    println!(
        "head {:.3} ns base {:.3} ns ratio {:.3}",
        best_a * 1e9 / 1048576.,
        best_b * 1e9 / 1048576.,
        best_a / best_b
    );
}
