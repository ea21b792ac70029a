// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mmkit pin`, with the kernel's side where this user may, and without it elsewhere.
#![cfg(all(target_os = "linux", target_pointer_width = "64"))]

mod common;

use common::{json, output, stdout};
use serde_json::Value;

fn shape<'r>(report: &'r Value, name: &str) -> &'r Value {
    let shapes = report["shapes"].as_array().unwrap();
    shapes.iter().find(|one| one["shape"] == name).unwrap_or_else(|| panic!("no {name} in {report}"))
}

#[test]
fn both_sides_pin_every_page() {
    let report = json(&["pin", "--size", "16M", "--repeat", "3", "--write", "--longterm", "--json"]);
    assert_eq!(
        (report["size"].as_u64(), &report["flags"]),
        (Some(16 << 20), &"PIN | WRITE | LONGTERM".into())
    );
    for (name, atomics) in [("pmd", 16), ("ptes", 16), ("base", 4096)] {
        let one = shape(&report, name);
        let kit = &one["kit"];
        if kit.is_null() {
            eprintln!("skipped: {}", report["skipped"]);
        } else {
            assert_eq!(
                (kit["pages"].as_u64(), kit["atomics"].as_u64()),
                (Some(4096), Some(atomics)),
                "{kit}"
            );
            for ns in ["extents_ns", "unpin_extents_ns", "pages_ns", "unpin_pages_ns"] {
                assert!(kit[ns].as_f64().unwrap() > 0.0, "{ns}: {kit}");
            }
        }
        let kernel = &one["kernel"];
        if kernel.is_null() {
            assert!(!report["skipped"].as_array().unwrap().is_empty());
            eprintln!("skipped: {}", report["skipped"]);
            continue;
        }
        let pages = (16 << 20) / rustix::param::page_size() as u64;
        assert_eq!((kernel["pages"].as_u64(), &kernel["by"]), (Some(pages), &"io_uring".into()), "{kernel}");
        assert!(kernel["ns"].as_f64().unwrap() > 0.0, "{kernel}");
    }
    let both = ["pmd", "ptes"].map(|name| shape(&report, name)["kit"]["pages_ns"].as_f64());
    if let [Some(pmd), Some(ptes)] = both {
        assert!((report["kit_walk_ns"].as_f64().unwrap() - (ptes - pmd)).abs() < 1e-9);
    }
}

#[test]
fn references_go_through_a_pipe_and_batches_end_runs() {
    let args = ["pin", "--size", "4M", "--page", "pte", "--repeat", "1", "--get", "--batch", "100", "--json"];
    let report = json(&args);
    assert_eq!(report["flags"], "GET");
    let one = shape(&report, "ptes");
    if let Some(atomics) = one["kit"]["atomics"].as_u64() {
        // 1024 pages in 11 calls, one of which passes from one folio to the other.
        assert_eq!(atomics, 12, "{one}");
    }
    if !one["kernel"].is_null() {
        assert_eq!(one["kernel"]["by"], "vmsplice");
        assert!(one["kernel"]["unpin_ns"].is_null() && one["kernel"]["acquired"].is_null(), "{one}");
    }
    assert!(report["shapes"].as_array().unwrap().len() == 1 && report["kit_walk_ns"].is_null());
}

#[test]
fn a_table_for_humans() {
    let said = stdout(&["pin", "--size", "4M", "--page", "2M", "--page", "base", "--repeat", "1"]);
    for words in [
        "4 MiB of memory, PIN, ns for each base page",
        "mmkit: extents",
        "huge folios behind PMDs",
        "base pages",
    ] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
}

#[test]
fn what_this_machine_has_not_is_skipped() {
    let report = json(&["pin", "--size", "1P", "--json"]);
    let skipped = report["skipped"].as_array().unwrap();
    assert_eq!(skipped.len(), 6, "{report}");
    assert!(skipped.iter().all(|why| why.as_str().unwrap().contains("base pages") || why.as_str().unwrap().contains("huge")));
    for one in report["shapes"].as_array().unwrap() {
        assert!(one["kernel"].is_null() && one["kit"].is_null());
    }
}

#[test]
fn what_makes_no_sense_is_an_error_of_usage() {
    for (args, words) in [
        (&["--size", "3M"][..], "give 2 MiB or 4 MiB"),
        (&["--size", "1M"], "give 2 MiB"),
        (&["--page", "3M"], "use base, 2M or pte"),
        (&["--get", "--pin"], "cannot be used with"),
        (&["--get", "--longterm"], "LONGTERM needs PIN"),
        (&["--batch", "0"], "--batch"),
        (&["--repeat", "0"], "--repeat"),
    ] {
        let output = output(&[&["pin"], args].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(words) && stderr.lines().count() == 1, "{args:?}: {stderr}");
    }
}
