// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two threads in both roles, for all loom models of this crate.

use loom::sync::Arc;
use loom::thread;
use mmkit_folio::MmId;

/// The MM with that id.
pub(crate) fn mm(id: u32) -> MmId {
    MmId::new(id).unwrap()
}

/// `one` and `other` at the same time on what `start` makes, in both roles; then `end`.
pub(crate) fn race<W: Send + Sync + 'static>(
    start: impl Fn() -> W + Send + Sync + Copy + 'static,
    one: impl Fn(&W) + Send + Sync + Copy + 'static,
    other: impl Fn(&W) + Send + Sync + Copy + 'static,
    end: impl Fn(&W) + Send + Sync + Copy + 'static,
) {
    for swapped in [false, true] {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(move || {
            let world = Arc::new(start());
            let thread = {
                let world = Arc::clone(&world);
                thread::spawn(move || if swapped { one(&world) } else { other(&world) })
            };
            if swapped {
                other(&world)
            } else {
                one(&world)
            }
            thread.join().unwrap();
            end(&world);
        });
    }
}
