// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mmkit demo`, small.
#![cfg(target_os = "linux")]

mod common;

use common::{json, stdout};
use serde_json::Value;

const GIB: u64 = 1 << 30;

#[test]
fn a_gib_of_every_page_size() {
    let report = json(&["demo", "--memory", "1G", "--json"]);
    assert_eq!(report["memory_map"], serde_json::json!([{ "start": 0, "end": GIB }]));
    assert_eq!(report["tail_write_faulted"], Value::Bool(true));
    assert!(report["tail_write_address"].as_u64().unwrap() > 0);
    let vmstat = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    assert_eq!(report["kernel_memmap_bytes"].is_u64(), vmstat.contains("nr_memmap_boot_pages"));

    let runs = report["runs"].as_array().unwrap();
    assert!(runs.len() >= 2 && runs[0]["page"] == "base");
    for run in runs {
        let number = |key: &str| run[key].as_u64().unwrap_or_else(|| panic!("no {key} in {run}"));
        let frames = GIB / rustix::param::page_size() as u64;
        assert_eq!(number("memory_bytes"), GIB);
        assert_eq!(number("flat_bytes"), frames * 64);
        assert_eq!(number("software_bytes"), 0);
        for what in ["lookups", "descriptors"] {
            assert_eq!(number(&format!("{what}_checked")), frames, "{run}");
        }
        for what in ["lookups", "descriptors", "holes", "references"] {
            assert_eq!(number(&format!("{what}_wrong")), 0, "{run}");
        }
        assert!(
            number("references_checked") > 0 && number("resident_bytes") > 0 && number("table_bytes") > 0
        );
        assert!(run["build_seconds"].as_f64().unwrap() > 0.0 && run["lookup_ns"].as_f64().unwrap() > 0.0);
    }
}

/// One page of eight at 2M, one of 4096 at 1G; beside it a run of tails, and a page or two of the section table.
#[test]
#[cfg(target_arch = "x86_64")]
fn resident_bytes_are_those_of_the_pages_kept() {
    let report =
        json(&["demo", "--memory", "4G", "--page", "2M", "--page", "1G", "--only", "build", "--json"]);
    let run = |page: usize| &report["runs"][page];
    let (small, large) =
        (run(0)["resident_bytes"].as_u64().unwrap(), run(1)["resident_bytes"].as_u64().unwrap());
    let tails = |page: usize| run(page)["tail_run_frames"].as_u64().unwrap();
    assert!((2048 + tails(0)..2048 + tails(0) + 4).contains(&(small / 4096)), "{small}");
    assert!((4 + tails(1)..4 + tails(1) + 4).contains(&(large / 4096)), "{large}");
    assert_eq!(
        (run(0)["references_checked"].as_u64(), run(1)["references_checked"].as_u64()),
        (Some(2048), Some(4))
    );
    // Parts that were not asked for were not done.
    assert!(report["tail_write_faulted"].is_null() && report["kernel_memmap_bytes"].is_null());
}

/// 1.5 GiB as 1G pages, by default sizes: one of them, and a half that is used as the next smaller order.
#[test]
#[cfg(target_arch = "x86_64")]
fn edges_go_to_the_next_smaller_order() {
    let report = json(&["demo", "--memory", "1536M", "--only", "build", "--json"]);
    let runs = report["runs"].as_array().unwrap();
    let large = runs.iter().find(|run| run["page"] == "1G").unwrap();
    assert_eq!(large["references_checked"].as_u64(), Some(2));
    assert_eq!(large["lookups_checked"].as_u64(), Some(3 << 17));
    assert!(runs.iter().all(|run| run["lookups_wrong"] == 0 && run["descriptors_wrong"] == 0));
}

#[test]
fn pins_come_in_three_shapes() {
    let report = json(&["demo", "--memory", "1G", "--only", "pins", "--json"]);
    let pins = report["pins"].as_array().unwrap();
    if pins.is_empty() {
        return eprintln!("skipped: {}", report["skipped"]);
    }
    let counts =
        pins.iter().map(|one| (one["shape"].as_str(), one["pages"].as_u64(), one["atomics"].as_u64()));
    let expected = [("pmd", 1024), ("ptes", 1024), ("base", 1 << 18)];
    assert!(
        counts.eq(expected.map(|(shape, atomics)| (Some(shape), Some(1 << 18), Some(atomics)))),
        "{report}"
    );
    assert!(
        pins.iter()
            .all(|one| one["extents"].as_u64() < Some(1 << 12) && one["pages_ns"].as_f64() > Some(0.0))
    );
}

#[test]
fn parts_can_be_chosen() {
    let report = json(&["demo", "--memory", "1G", "--only", "tail-write", "--only", "kernel", "--json"]);
    assert_eq!(report["runs"], Value::Array(vec![]));
    assert_eq!(report["tail_write_faulted"], Value::Bool(true));
}

#[test]
fn humans_get_a_table_and_no_bars() {
    let text = stdout(&["demo", "--memory", "256M", "--page", "base"]);
    for word in
        ["the memory that --memory says: 256 MiB", "all of it for real", "resident", "wrong", "SIGSEGV"]
    {
        assert!(text.contains(word), "{word} is not in\n{text}");
    }
}

/// In both places every huge page gives back what is not its own, and all bytes are what they must be.
#[test]
fn huge_pages_are_optimised_and_restored() {
    let report = json(&["demo", "--memory", "1G", "--only", "optimise", "--json"]);
    let places = report["optimised"].as_array().unwrap();
    assert_eq!(
        places.iter().map(|one| one["place"].as_str().unwrap()).collect::<Vec<_>>(),
        ["mappings", "tables"]
    );
    for one in places {
        let number = |key: &str| one[key].as_u64().unwrap_or_else(|| panic!("no {key} in {one}"));
        for what in ["descriptors", "heads"] {
            assert!(number(&format!("{what}_checked")) > 0 && number(&format!("{what}_wrong")) == 0, "{one}");
        }
        assert_eq!(number("bytes_wrong"), 0, "{one}");
        assert!(one["optimise_us"].as_f64().unwrap() > 0.0 && one["restore_us"].as_f64().unwrap() > 0.0);
        // With 4K base pages seven of eight, less what all of them share.
        if cfg!(target_arch = "x86_64") {
            let freed = one["freed_bytes_per_page"].as_f64().unwrap() / 4096.0;
            assert!((6.9..7.0).contains(&freed), "{one}");
        }
    }
}

/// A device of 2 GiB, in tables as 2M pages and in this process as 1G pages.
#[test]
fn a_device_is_usable_from_its_first_part_on() {
    let report = json(&["demo", "--device", "2G", "--only", "device", "--json"]);
    let devices = report["devices"].as_array().unwrap();
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let places: Vec<_> = devices.iter().map(|one| (one["page"].as_str(), one["place"].as_str())).collect();
    assert_eq!(places, [(Some("2M"), Some("tables")), (Some("1G"), Some("mappings"))]);
    for (one, parts) in devices.iter().zip([16, 2]) {
        let number = |key: &str| one[key].as_u64().unwrap_or_else(|| panic!("no {key} in {one}"));
        let seconds = |key: &str| one[key].as_f64().unwrap_or_else(|| panic!("no {key} in {one}"));
        assert_eq!((number("device_bytes"), number("parts"), number("lookups_wrong")), (2 * GIB, parts, 0));
        assert!(number("lookups_checked") > 200 && number("threads") > 0 && number("resident_bytes") > 0);
        assert!(seconds("first_use_seconds") > 0.0);
        assert!(seconds("first_use_seconds") <= seconds("one_thread_seconds"));
        assert!(seconds("reserve_seconds") < seconds("all_threads_seconds"));
    }
    let removal = &report["removal"];
    assert_eq!((removal["pages_read"].as_u64(), removal["wrong"].as_u64()), (Some(64), Some(0)), "{removal}");
    // A page for each of 1024, and tables; a page for each of two, and a run of tails.
    let bytes = |one: usize| devices[one]["metadata_bytes"].as_u64().unwrap();
    assert!((1024 * 4096..1100 * 4096).contains(&bytes(0)), "{}", bytes(0));
    assert!(bytes(1) < 100 * 4096, "{}", bytes(1));
}
