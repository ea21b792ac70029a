// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mmkit plan`: its numbers are those of the published tables.

mod common;

use common::{json, mmkit, stdout};
use serde_json::Value;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

fn total<'a>(plan: &'a Value, scheme: &str) -> &'a Value {
    let schemes = plan["schemes"].as_array().unwrap();
    &schemes.iter().find(|cost| cost["scheme"] == scheme).unwrap()["total_bytes"]
}

/// Flat, keep-2, keep-1 and keep-1 with shared tables, of 1 TiB.
fn totals(plan: &Value) -> [Option<u64>; 4] {
    ["flat", "keep-2", "keep-1", "keep-1-shared-tables"].map(|scheme| total(plan, scheme).as_u64())
}

#[test]
fn a_tib_of_each_page() {
    for (arch, page, expected) in [
        ("x86-64", "2M", [16 * GIB, 4128 * MIB, 2080 * MIB, 2080 * MIB]),
        ("x86-64", "1G", [16 * GIB, 40 * MIB, 36 * MIB, 8 * MIB]),
        ("arm64-4k", "32M", [16 * GIB, 288 * MIB, 160 * MIB, 160 * MIB]),
        ("arm64-16k", "1G", [4 * GIB, 34 * MIB, 18 * MIB, 18 * MIB]),
        ("arm64-64k", "512M", [GIB, 262_272 * KIB, 131_200 * KIB, 131_200 * KIB]),
        ("ppc64-radix-64k", "1G", [GIB, 131_200 * KIB, 65_664 * KIB, 65_664 * KIB]),
        ("s390x", "1M", [16 * GIB, 8224 * MIB, 4128 * MIB, 4128 * MIB]),
    ] {
        let plan = json(&["plan", "--memory", "1T", "--page", page, "--arch", arch, "--json"]);
        assert_eq!(totals(&plan), expected.map(Some), "{arch} {page}");
        assert_eq!((plan["memory_bytes"].as_u64(), &plan["optimisable"]), (Some(TIB), &Value::Bool(true)));
        for cost in plan["schemes"].as_array().unwrap() {
            let number = |key: &str| cost[key].as_u64().unwrap();
            assert_eq!(number("data_bytes") + number("table_bytes"), number("total_bytes"));
            assert_eq!(expected[0] - number("total_bytes"), number("saved_bytes"));
            let percent = number("total_bytes") as f64 * 100.0 / TIB as f64;
            assert!((cost["percent_of_memory"].as_f64().unwrap() - percent).abs() < 1e-9);
        }
    }
}

#[test]
fn pages_that_cannot_be_optimised_say_so() {
    for (arch, page) in [("arm64-4k", "64K"), ("ppc64-hash-64k", "16M"), ("x86-64", "4K")] {
        let args = ["plan", "--memory", "1T", "--page", page, "--arch", arch];
        assert!(stdout(&args).contains("not optimisable"), "{arch} {page}");
        let plan = json(&[&args[..], &["--json"]].concat());
        assert_eq!(plan["optimisable"], Value::Bool(false));
        assert!(totals(&plan)[0].is_some() && totals(&plan)[1..].iter().all(Option::is_none));
    }
}

#[test]
fn humans_get_a_table() {
    let text = stdout(&["plan", "--memory", "1T", "--page", "1G", "--arch", "x86-64"]);
    for word in ["flat", "keep-2", "keep-1-shared-tables", "16 GiB", "36 MiB", "8 MiB", "0.00076 %"] {
        assert!(text.contains(word), "{word} is not in\n{text}");
    }
}

#[test]
fn all_is_every_huge_page_there_is() {
    let all = json(&["plan", "--all", "--json"]);
    let plans = all["plans"].as_array().unwrap();
    let known: usize = mmkit_addr::Geometry::ALL.iter().map(|geometry| geometry.huge_pages().len()).sum();
    assert_eq!(plans.len(), known);
    let x86: Vec<_> = plans.iter().filter(|plan| plan["arch"] == "x86-64").map(totals).collect();
    assert_eq!(x86[1], [16 * GIB, 40 * MIB, 36 * MIB, 8 * MIB].map(Some));

    let text = stdout(&["plan", "--all"]);
    assert_eq!(text.lines().count(), 2 + known);
    assert!(text.contains("s390x") && text.contains("not optimisable") && text.contains("131200 KiB"));
    let some = json(&["plan", "--all", "--arch", "S390", "--json"]);
    assert!(some["plans"].as_array().unwrap().iter().all(|plan| plan["arch"] == "s390x"));
}

#[test]
fn a_command_is_all_that_is_missing() {
    for args in [&[][..], &["--help"], &["-h"]] {
        assert!(stdout(args).contains("Usage: mmkit"), "{args:?}");
    }
    assert_eq!(stdout(&["--version"]), format!("mmkit {}\n", env!("CARGO_PKG_VERSION")));
    assert!(!stdout(&["--help"]).contains("child"), "the hidden command stays hidden");
}

/// A reader that has seen enough is no failure.
#[test]
fn output_that_nobody_reads_is_no_failure() {
    let mut child = mmkit(&["plan", "--all", "--json"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}
