// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a pin of 1 GiB costs in each shape, against the least that could do it.

use std::cell::RefCell;
use std::error::Error;
use std::hint::black_box;

use mmkit_gup::{Flags, Request};
use mmkit_sync::atomic::AtomicU64;

use super::sim::{FRAMES, PAGES, Scene, Shape, World, bare_adds, bare_pins};
use crate::figure::Figure;
use crate::pair::{Effort, each_part, pair, pair_parts, quantile};

/// What the walk into a page array takes for each page, for the comparison with the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ArrayNs {
    pub(super) pmd: f64,
    pub(super) ptes: f64,
    pub(super) base: f64,
}

/// All figures of shapes, and what page arrays take. Each is measured in `worlds` worlds, and the middle one is told: where the
/// system puts descriptors and tables is another place each time, and takes another time.
pub(super) fn run(
    effort: Effort,
    worlds: usize,
    figures: &mut Vec<Figure>,
    notes: &mut Vec<String>,
) -> Result<ArrayNs, Box<dyn Error>> {
    let (mut all, mut arrays, mut said) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..worlds {
        said.clear();
        arrays.push(once(effort, &mut all, &mut said)?);
    }
    notes.append(&mut said);
    figures.extend(middle(all));
    let middle = |ns: fn(&ArrayNs) -> f64| quantile(&mut arrays.iter().map(ns).collect::<Vec<_>>(), 0.5);
    Ok(ArrayNs { pmd: middle(|it| it.pmd), ptes: middle(|it| it.ptes), base: middle(|it| it.base) })
}

/// Of the figures with each key, in the order of the keys' first ones, that with the middle value.
fn middle(mut figures: Vec<Figure>) -> Vec<Figure> {
    let mut told = Vec::new();
    while let Some(key) = figures.first().map(|figure| figure.key) {
        let mut same: Vec<Figure> = figures.extract_if(.., |figure| figure.key == key).collect();
        same.sort_by(|a, b| a.value.total_cmp(&b.value));
        told.push(same.swap_remove(same.len() / 2));
    }
    told
}

/// All of them in one world.
fn once(
    effort: Effort,
    figures: &mut Vec<Figure>,
    notes: &mut Vec<String>,
) -> Result<ArrayNs, Box<dyn Error>> {
    let write = Request::new(Flags::PIN | Flags::WRITE | Flags::FAST_ONLY)?;
    let read = Request::new(Flags::PIN | Flags::FAST_ONLY)?;
    let mut arrays = ArrayNs::default();
    in_shape(Shape::Pmd, |scene| {
        pmd(effort, scene, write, figures);
        arrays.pmd = array_ns(effort, scene, write);
    })?;
    let mut timed = Timed { effort, figures, notes };
    arrays.ptes = timed.shape(
        Shape::Ptes,
        write,
        "pin_pte_ns_per_page",
        "pin 1 GiB of 2M folios behind PTEs to write, lockless, into extents, ns for each page",
        Some(2.0),
    )?;
    timed.shape(
        Shape::PtesReadOnly,
        read,
        "pin_pte_ro_ns_per_page",
        "the same read-only, so that each page's exclusive flag is read",
        None,
    )?;
    arrays.base = timed.shape(
        Shape::Base,
        write,
        "pin_4k_ns_per_page",
        "pin 1 GiB of base pages to write, lockless, into extents, ns for each page",
        Some(15.0),
    )?;
    timed.shape(
        Shape::Scattered,
        write,
        "pin_4k_scattered_ns_per_page",
        "the same where neighbours have frames far from each other",
        None,
    )?;
    for (shape, key, what) in [
        (
            Shape::Base,
            "pin_4k_vs_atomics",
            "pin 1 GiB of base pages to write / one atomic addition on the same words, in the same order",
        ),
        (Shape::Scattered, "pin_4k_scattered_vs_atomics", "the same of scattered frames"),
    ] {
        figures.extend(in_shape(shape, |scene| against_atomics(effort, scene, write, key, what))?);
    }
    Ok(arrays)
}

/// Figures that are times of one shape.
struct Timed<'r> {
    effort: Effort,
    figures: &'r mut Vec<Figure>,
    notes: &'r mut Vec<String>,
}

impl Timed<'_> {
    /// A pin into extents; returns what it takes into a page array.
    fn shape(
        &mut self,
        shape: Shape,
        request: Request,
        key: &'static str,
        what: &'static str,
        goal: Option<f64>,
    ) -> Result<f64, Box<dyn Error>> {
        in_shape(shape, |scene| {
            let (_, unpin, extents) = scene.extents(request);
            let unpin = unpin / PAGES as f64;
            self.notes.push(format!("{key}: {extents} extents, given back in {unpin:.2} ns for each page"));
            let each = each_part(self.effort, PAGES, || scene.extents(request).0);
            self.figures.push(nanoseconds(key, what, goal, each));
            array_ns(self.effort, scene, request)
        })
    }
}

fn against_atomics(
    effort: Effort,
    scene: &mut Scene<'_, '_>,
    request: Request,
    key: &'static str,
    what: &'static str,
) -> Option<Figure> {
    let words = scene.references_of_pages(request)?;
    let bare = || bare_pins(black_box(&words));
    Some(Figure::timed(key, what, None, pair_parts(effort, PAGES, || scene.extents(request).0, bare)))
}

/// A world of its own for each shape: the memory is real.
fn in_shape<T>(shape: Shape, measure: impl FnOnce(&mut Scene<'_, '_>) -> T) -> Result<T, Box<dyn Error>> {
    let mut ids = [AtomicU64::new(0)];
    let world = World::new(FRAMES, &mut ids)?;
    let mut scene = Scene::new(&world, shape)?;
    Ok(measure(&mut scene))
}

fn pmd(effort: Effort, scene: &mut Scene<'_, '_>, request: Request, figures: &mut Vec<Figure>) {
    if let Some(lines) = scene.lines(request) {
        let thing = || scene.there_and_back(request);
        figures.push(Figure::timed(
            "pin_2m_extents_ratio",
            "pin and unpin 512 2M leaves, extents / 2048 atomic additions on the same words, in the same order",
            Some(2.0),
            pair(effort, 1, thing, || bare_adds(black_box(&lines))),
        ));
    }
    // Both sides use one scene, in turn.
    let scene = RefCell::new(scene);
    figures.push(Figure::timed(
        "pin_2m_pages_ratio",
        "pin 512 2M leaves into a page array / writing the same 262144 words to it",
        Some(1.5),
        pair_parts(
            effort,
            PAGES,
            || scene.borrow_mut().pages(request).0,
            || scene.borrow_mut().write_array(request),
        ),
    ));
    figures.push(Figure::timed(
        "unpin_pages_ratio",
        "unpin that array / reading it once and comparing neighbours",
        Some(1.5),
        pair_parts(
            effort,
            PAGES,
            || scene.borrow_mut().pages(request).1,
            || scene.borrow_mut().read_array(request),
        ),
    ));
}

/// Nanoseconds for each page of a pin into a page array.
fn array_ns(effort: Effort, scene: &mut Scene<'_, '_>, request: Request) -> f64 {
    quantile(&mut each_part(effort, PAGES, || scene.pages(request).0), 0.5)
}

/// A time that is a figure by itself.
pub(super) fn nanoseconds(
    key: &'static str,
    what: &'static str,
    at_most: Option<f64>,
    mut each: Vec<f64>,
) -> Figure {
    let value = quantile(&mut each, 0.5);
    let quartiles = (quantile(&mut each, 0.25), quantile(&mut each, 0.75));
    Figure { quartiles: Some(quartiles), ..Figure::counted(key, what, at_most, value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_each_key_is_told() {
        let figure = |key, value| Figure::counted(key, "", None, value);
        let all = [("a", 3.0), ("b", 1.0), ("a", 1.0), ("b", 9.0), ("a", 2.0)];
        let told = middle(all.map(|(key, value)| figure(key, value)).to_vec());
        assert_eq!(told.iter().map(|it| (it.key, it.value)).collect::<Vec<_>>(), [("a", 2.0), ("b", 9.0)]);
        assert!(middle(Vec::new()).is_empty());
    }
}
