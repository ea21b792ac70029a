// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happens when the kernel refuses in the middle. Children, because they use up what the process may have.
#![cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]

mod common;

use common::*;
use mmkit_addr::Order;
use mmkit_frame::DirectMap;
use mmkit_host::{HostSpace, mapping_budget};
use mmkit_page::{Place, Template};
use mmkit_vmemmap::{Backing, MapError};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

/// Mappings that use up those of the process: pages of alternating access, one mapping each.
struct Hog {
    base: *mut std::ffi::c_void,
    page: usize,
    bytes: usize,
    next: usize,
}

impl Hog {
    fn new() -> Option<Self> {
        let budget = mapping_budget().unwrap();
        let page = rustix::param::page_size();
        if budget.limit > 1 << 20 {
            println!("skipped: vm.max_map_count is {}, too many to use up", budget.limit);
            return None;
        }
        let bytes = budget.limit as usize * 2 * page;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: no address is asked for.
        let base =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::empty(), flags) };
        Some(Self { base: base.unwrap(), page, bytes, next: 1 })
    }

    /// Takes all mappings that the process may have, but for `left`.
    fn take_all_but(&mut self, left: u64) {
        // Each turn makes two mappings more, until the kernel refuses.
        while self.protect(self.next, MprotectFlags::READ) {
            self.next += 2;
        }
        self.give(left);
    }

    /// Gives `count` mappings back, an even number: a page that is joined with its neighbours again gives two.
    fn give(&mut self, count: u64) {
        for _ in 0..count / 2 {
            self.next -= 2;
            assert!(self.protect(self.next, MprotectFlags::empty()));
        }
    }

    fn protect(&self, index: usize, access: MprotectFlags) -> bool {
        // SAFETY: a page of this value's own mapping, which nobody accesses.
        unsafe { rustix::mm::mprotect(self.base.wrapping_byte_add(index * self.page), self.page, access) }
            .is_ok()
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        // SAFETY: this value's own mapping.
        unsafe { rustix::mm::munmap(self.base, self.bytes) }.unwrap();
    }
}

/// In a child: runs `body`, and reports. In the parent: runs the child.
fn in_child(name: &str, body: impl FnOnce()) {
    if std::env::var_os("ASAN_OPTIONS").is_some() {
        println!("skipped: without mappings left, the address sanitizer cannot work");
        return;
    }
    if is_child(name) {
        body();
        println!("the child is done");
        return;
    }
    let output = child(name);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("the child is done"), "{output:#?}");
    text.lines().filter(|line| line.starts_with("skipped")).for_each(|line| println!("{line}"));
}

/// However many of its mappings a call gets made, it makes all of them or none that anybody sees, and the space is as
/// good as before.
#[test]
fn a_call_that_fails_half_way_leaves_nothing() {
    in_child("a_call_that_fails_half_way_leaves_nothing", || {
        let Some((frames, _)) = host(1, 0) else { return };
        let compound = compound_order(&frames);
        let limit = 64 << (frames.base_shift() - 6);
        let tail = Template::tail(compound, Place::default()).words();
        let run = tails(&frames, order(2), compound);
        let Some(mut hog) = Hog::new() else { return };
        let (mut failures, mut leftovers) = (0, 0);
        // Mapping pages 1..64 in runs of 4 takes 16 mappings.
        for left in (0..24).step_by(4) {
            // A space that believes the process may have any number of mappings.
            let space = HostSpace::new(&frames, limit, Order::ZERO, unlimited()).unwrap();
            let (allocated, resident) = (frames.allocated(), frames.resident_bytes());
            hog.take_all_but(left);
            let result = map(&space, 1..64, Backing::Tails(run));
            let after: Vec<bool> = (0..64).map(|page| space.is_mapped(page)).collect();
            let mappings = space.mappings();
            let kernel = kernel_view(&space);
            hog.give(1000);
            assert_eq!((frames.allocated(), frames.resident_bytes()), (allocated, resident));
            assert!(mappings >= kernel.len() as u64, "{left} left: {mappings} by the books, {kernel:?}");
            if result.is_err() {
                failures += 1;
                leftovers += usize::from(mappings > 1);
                assert_eq!(result, Err(MapError::Os { errno: rustix::io::Errno::NOMEM.raw_os_error() }));
                assert!(after.iter().all(|mapped| !mapped), "{left} left: {after:?}");
                // Now it works, over whatever could not be taken back.
                assert_eq!(map(&space, 1..64, Backing::Tails(run)), Ok(()));
            }
            assert_eq!(space.mappings(), 17);
            assert_eq!(kernel_view(&space).len(), 17);
            for frame in (1 << (frames.base_shift() - 6))..limit {
                assert_eq!(words(&space, frame), Some(tail));
            }
            assert_eq!(unmap(&space, 1..64), Ok(vec![(63, Backing::Tails(run))]));
            assert_eq!(space.mappings(), 1);
        }
        assert!((2..6).contains(&failures), "{failures} of 6 failed: the hog does not do its work");
        assert!(leftovers > 0, "the kernel took back everything although no mappings were left");
    });
}

/// A process without mappings left: what is mapped stays so, readable, whatever is tried.
#[test]
fn without_mappings_left_nothing_is_lost() {
    in_child("without_mappings_left_nothing_is_lost", || {
        let Some((frames, _)) = host(1, 0) else { return };
        let space =
            HostSpace::new(&frames, 64 << (frames.base_shift() - 6), Order::ZERO, unlimited()).unwrap();
        let first = filled(&frames, 5);
        for _ in 0..7 {
            filled(&frames, 5);
        }
        let other = filled(&frames, 5);
        map(&space, 8..16, Backing::Own { first }).unwrap();
        let before = kernel_view(&space);
        let Some(mut hog) = Hog::new() else { return };
        hog.take_all_but(0);
        let refused = Err(MapError::Os { errno: rustix::io::Errno::NOMEM.raw_os_error() });
        // Each would split something.
        let results = [
            map(&space, 30..31, Backing::Own { first: other }),
            unmap(&space, 10..11).map(drop),
            // SAFETY: reads the same; nobody writes.
            unsafe { space.put_over(12..13, Backing::Own { first: other }) }.map(drop),
        ];
        let after = kernel_view(&space);
        drop(hog);
        assert_eq!(results, [refused, refused, refused]);
        assert_eq!(after, before);
        assert!((8..16).all(|page| first_word(&space, page) == Some(5)));
        assert_eq!(space.mappings(), 3);
        assert_eq!(unmap(&space, 8..16), Ok(vec![(8, Backing::Own { first })]));
    });
}
