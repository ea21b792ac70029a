// SPDX-License-Identifier: MIT OR Apache-2.0
//! Settings that come back, over copies of the files that have them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::fixture::Fixture;

const NODE_1: &str = "sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages";
const SWITCH: &str = pool::OPTIMISE;

fn options(tree: &Fixture, pages: Option<u64>) -> Options {
    Options { pages, repeats: 2, state_file: tree.path("state"), ..Options::new(2 << 20) }
}

/// Files do as they are told, and count nothing: all but the numbers of the kernel can be seen on them.
#[test]
fn a_run_leaves_no_trace() {
    let tree = Fixture::two_nodes("run");
    let signals = Signals::catch().unwrap();
    let Outcome::Measured(result) = measure(tree.root(), &options(&tree, Some(16)), &signals).unwrap() else {
        panic!("skipped")
    };
    assert_eq!((result.page_bytes, result.node, result.pages(), result.on.len()), (2 << 20, Some(1), 16, 2));
    assert_eq!(result.freed_per_page(), Freed::Exactly(0));
    assert_eq!((tree.read(NODE_1).trim(), tree.read(SWITCH).trim()), ("1024", "1"));
    assert!(!tree.path("state").exists());
    assert_eq!(fs::read_dir(tree.path("")).unwrap().count(), 2, "no other file either");
}

#[test]
fn a_run_that_was_killed_is_put_back_later() {
    let tree = Fixture::two_nodes("killed");
    let name = PoolName { page_bytes: 2 << 20, node: Some(1) };
    let state_file = tree.path("state");
    let settings = Settings::take(tree.root(), name, &state_file).unwrap().unwrap();
    assert_eq!(fs::metadata(&state_file).unwrap().permissions().mode() & 0o777, 0o600);
    settings.optimise(false).unwrap();
    settings.resize(1300).unwrap();
    let saved = fs::read(&state_file).unwrap();
    // While it runs nobody else may.
    let signals = Signals::catch().unwrap();
    let refused = measure(tree.root(), &options(&tree, Some(16)), &signals).unwrap_err();
    assert!(matches!(refused, Error::InProgress), "{refused}");
    assert!(matches!(restore(tree.root(), &state_file), Err(Error::InProgress)));
    // As after a kill: changed settings, the file, and nobody.
    drop(settings);
    tree.write(NODE_1, "1300\n");
    tree.write(SWITCH, "0\n");
    fs::write(&state_file, saved).unwrap();
    fs::set_permissions(&state_file, fs::Permissions::from_mode(0o600)).unwrap();

    let refused = measure(tree.root(), &options(&tree, Some(16)), &signals).unwrap_err();
    assert!(matches!(&refused, Error::Stale { path } if *path == state_file), "{refused}");
    let restored = restore(tree.root(), &state_file).unwrap();
    let expected = Restored::PutBack { optimise: true, page_bytes: 2 << 20, node: Some(1), pages: 1024 };
    assert_eq!(restored, expected);
    assert_eq!((tree.read(NODE_1).trim(), tree.read(SWITCH).trim()), ("1024", "1"));
    assert_eq!(restore(tree.root(), &state_file).unwrap(), Restored::NoStateFile);
    assert!(measure(tree.root(), &options(&tree, Some(16)), &signals).is_ok());
}

#[test]
fn a_drop_puts_back_too() {
    let tree = Fixture::two_nodes("drop");
    let name = PoolName { page_bytes: 1 << 30, node: Some(0) };
    let settings = Settings::take(tree.root(), name, &tree.path("state")).unwrap().unwrap();
    settings.optimise(false).unwrap();
    settings.resize(9).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _settings = settings;
        std::panic::resume_unwind(Box::new(()));
    }));
    assert!(panicked.is_err() && !tree.path("state").exists());
    assert_eq!(
        tree.read("sys/devices/system/node/node0/hugepages/hugepages-1048576kB/nr_hugepages").trim(),
        "4"
    );
    assert_eq!(tree.read(SWITCH).trim(), "1");
}

#[test]
fn files_that_no_run_wrote_are_refused() {
    let tree = Fixture::two_nodes("foreign");
    let state_file = tree.path("state");
    let write = |text: &str, mode| {
        fs::write(&state_file, text).unwrap();
        fs::set_permissions(&state_file, fs::Permissions::from_mode(mode)).unwrap();
    };
    let good = |page_bytes: u64, version| {
        format!(
            "{{\"version\":{version},\"pid\":1,\"boot_id\":\"elsewhere\",\"optimise\":true,\
             \"page_bytes\":{page_bytes},\"node\":null,\"pages\":3}}"
        )
    };
    for (text, mode) in [
        ("", 0o600),
        ("{}", 0o600),
        (&good(3, 1), 0o600),
        (&good(2 << 20, 2), 0o600),
        (&good(2 << 20, 1).replace("3}", "3,\"path\":\"/etc\"}"), 0o600),
        (&good(2 << 20, 1).replace("3}", "-3}"), 0o600),
        (&good(2 << 20, 1), 0o666),
    ] {
        write(text, mode);
        let refused = restore(tree.root(), &state_file).unwrap_err();
        assert!(matches!(refused, Error::State { .. }), "{text}: {refused}");
        assert!(state_file.exists());
    }
    // One of before the machine was started says nothing about it, and goes.
    write(&good(2 << 20, 1), 0o600);
    assert_eq!(restore(tree.root(), &state_file).unwrap(), Restored::EarlierBoot);
    assert_eq!((tree.read(NODE_1).trim(), state_file.exists()), ("1024", false));
    // A link is not followed.
    std::os::unix::fs::symlink(tree.path("proc/vmstat"), &state_file).unwrap();
    let refused = restore(tree.root(), &state_file).unwrap_err();
    assert!(matches!(refused, Error::State { fault: StateFault::Foreign, .. }), "{refused}");
}

#[test]
fn a_state_file_that_cannot_be_written_changes_nothing() {
    let tree = Fixture::two_nodes("unwritable");
    let options = Options { state_file: tree.path("none/state"), ..options(&tree, Some(16)) };
    let refused = measure(tree.root(), &options, &Signals::catch().unwrap()).unwrap_err();
    assert!(matches!(refused, Error::State { fault: StateFault::Io(_), .. }), "{refused}");
    assert_eq!((tree.read(NODE_1).trim(), tree.read(SWITCH).trim()), ("1024", "1"));
}

#[test]
fn what_the_machine_cannot_do_is_skipped() {
    let tree = Fixture::two_nodes("skips");
    let signals = Signals::catch().unwrap();
    let skipped = |options: &Options| match measure(tree.root(), options, &signals).unwrap() {
        Outcome::Skipped(skip) => skip,
        Outcome::Measured(_) => panic!("measured"),
    };
    // Node 1 has 24 GiB free, a quarter of which are 3072 pages.
    let skip = skipped(&options(&tree, Some(3073)));
    assert_eq!(skip, Skip::NotEnoughMemory { page_bytes: 2 << 20, pages: 3073, most: 3072 });
    assert!(skip.to_string().ends_with("use at most 3072"), "{skip}");
    let skip = skipped(&Options { page_bytes: 16 << 20, ..options(&tree, None) });
    assert_eq!(skip, Skip::NoPool { page_bytes: 16 << 20 });
    fs::remove_file(tree.path(SWITCH)).unwrap();
    assert_eq!(skipped(&options(&tree, Some(16))), Skip::NotSupported { path: tree.path(SWITCH) });
    assert!(!tree.path("state").exists());
}

/// A setting that is not what was written: the file stays, and says what to do.
#[test]
fn what_cannot_be_put_back_keeps_its_state_file() {
    let tree = Fixture::two_nodes("stuck");
    let name = PoolName { page_bytes: 2 << 20, node: Some(1) };
    let settings = Settings::take(tree.root(), name, &tree.path("state")).unwrap().unwrap();
    settings.resize(1300).unwrap();
    settings.optimise(false).unwrap();
    fs::remove_file(tree.path("sys/devices/system/node/node1/hugepages/hugepages-2048kB/surplus_hugepages"))
        .unwrap();
    assert!(matches!(settings.put_back(), Err(Error::Read(_))));
    assert!(tree.path("state").exists());
    assert_eq!(tree.read(SWITCH).trim(), "1", "what can be put back is");
}

/// Where it is not said, as many as 2 GiB, and not more than a quarter.
#[test]
fn the_usual_number_of_pages() {
    let tree = Fixture::two_nodes("default");
    let signals = Signals::catch().unwrap();
    let pages = |page_bytes| {
        let options = Options { page_bytes, ..options(&tree, None) };
        match measure(tree.root(), &options, &signals).unwrap() {
            Outcome::Measured(result) => result.pages_wanted,
            Outcome::Skipped(skip) => panic!("{skip}"),
        }
    };
    assert_eq!((pages(2 << 20), pages(1 << 30)), (1024, 2));
    tree.write(
        "sys/devices/system/node/node1/meminfo",
        "Node 1 MemTotal: 4194304 kB\nNode 1 MemFree: 40960 kB\n",
    );
    tree.write(
        "sys/devices/system/node/node0/meminfo",
        "Node 0 MemTotal: 4194304 kB\nNode 0 MemFree: 40959 kB\n",
    );
    assert_eq!(pages(2 << 20), 5);
}
