#![cfg(mmkit_loom)]
use loom::sync::Arc;
use loom::thread;
use loom::sync::atomic::{AtomicU64, Ordering::*};
fn mp(order: core::sync::atomic::Ordering, fence: bool, extra: bool) -> Vec<(u64,u64,u64)> {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(std::collections::BTreeSet::new()));
    let s2 = seen.clone();
    loom::model(move || {
        let v = Arc::new((AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)));
        let w = v.clone();
        let t = thread::spawn(move || { w.1.store(1, Relaxed); w.2.store(1, Relaxed); w.0.store(2, Release); });
        let a = v.0.load(order);
        let l = v.1.load(Relaxed); let h = v.2.load(Relaxed);
        if fence { loom::sync::atomic::fence(Acquire); }
        let b = v.0.load(Relaxed);
        if extra && a != b { t.join().unwrap(); return; }
        s2.lock().unwrap().insert((a, l, h));
        t.join().unwrap();
    });
    let x: Vec<_> = seen.lock().unwrap().iter().copied().collect(); x
}
#[test] fn t() {
    eprintln!("acq {:?}", mp(Acquire, true, false));
    eprintln!("rlx {:?}", mp(Relaxed, true, false));
    eprintln!("rlx nof {:?}", mp(Relaxed, false, false));
    eprintln!("rlx {:?}", mp(Relaxed, true, true));
}
