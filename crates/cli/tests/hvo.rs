// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mmkit hvo`, on the running kernel. It changes settings of the machine, so all of it is one test, and tests of other
//! checkouts are waited for.
#![cfg(all(target_os = "linux", target_pointer_width = "64"))]

mod common;

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{json, mmkit, output, stdout};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;

const SWITCH: &str = "/proc/sys/vm/hugetlb_optimize_vmemmap";

/// Everything that could be changed: the switch, and the length of every pool.
fn settings() -> Vec<(PathBuf, String)> {
    let mut files = vec![PathBuf::from(SWITCH)];
    let mut pools = vec![PathBuf::from("/sys/kernel/mm/hugepages")];
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    pools.extend(entries(Path::new("/sys/devices/system/node")).map(|node| node.join("hugepages")));
    files.extend(pools.iter().flat_map(|pool| entries(pool)).map(|pool| pool.join("nr_hugepages")));
    files.sort();
    files.into_iter().filter_map(|file| Some((file.clone(), fs::read_to_string(file).ok()?))).collect()
}

/// A lock among tests; `None` where others hold it for too long.
fn lock() -> Option<File> {
    let path = std::env::temp_dir().join("mmkit-hvo-test.lock");
    let file = File::options().create(true).append(true).open(path).ok()?;
    let begun = Instant::now();
    while file.try_lock().is_err() {
        if begun.elapsed() > Duration::from_secs(20) {
            return None;
        }
        sleep(Duration::from_millis(20));
    }
    Some(file)
}

/// A run that goes on for long, once it has begun to change settings; `None` where it does not begin.
fn long_run(state_file: &Path) -> Option<Child> {
    let path = state_file.to_str().unwrap();
    let mut command = mmkit(&["hvo", "--pages", "16", "--repeat", "1000", "--state-file", path]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while !state_file.exists() {
        if child.try_wait().unwrap().is_some() || begun.elapsed() > Duration::from_secs(10) {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        sleep(Duration::from_millis(1));
    }
    // Into the middle of it.
    sleep(Duration::from_millis(60));
    Some(child)
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

#[test]
fn the_kernel_is_measured_and_left_as_it_was() {
    let Some(_lock) = lock() else {
        return eprintln!("skipped: another test is changing huge pages");
    };
    let directory = std::env::temp_dir().join(format!("mmkit-hvo-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let state_file = directory.join("state");
    let state = state_file.to_str().unwrap();
    let before = settings();

    a_measurement(state);
    assert_eq!(settings(), before, "after a run");
    assert!(!state_file.exists());
    if geteuid().is_root() && File::options().write(true).open(SWITCH).is_ok() {
        an_interrupt(&state_file);
        assert_eq!(settings(), before, "after an interrupt");
        a_kill(&state_file);
        assert_eq!(settings(), before, "after a kill and --restore");
        nobody(state);
    } else {
        eprintln!("skipped: not root, or no HVO here");
    }
    assert_eq!(settings(), before);
    let said = stdout(&["hvo", "--restore", "--state-file", state]);
    assert!(said.starts_with("nothing to restore: there is no "), "{said}");
    fs::remove_dir_all(directory).unwrap();
}

fn a_measurement(state: &str) {
    let report = json(&["hvo", "--pages", "16", "--repeat", "3", "--json", "--state-file", state]);
    let can = report["can_be_freed_per_page"].as_i64().unwrap();
    if cfg!(target_arch = "x86_64") {
        assert_eq!((can, report["page"].as_u64()), (7, Some(2 << 20)));
    }
    let kit = &report["kit"];
    if kit.is_null() {
        eprintln!("skipped: {}", report["skipped"]);
    } else {
        assert_eq!((kit["freed_per_page"].as_i64(), kit["taken_per_page"].as_i64()), (Some(can), Some(can)));
        assert!(kit["net_freed_per_page"].as_f64().unwrap() <= can as f64);
        assert!(kit["optimise_us"].as_f64().unwrap() > 0.0 && kit["restore_us"].as_f64().unwrap() > 0.0);
    }
    let kernel = &report["kernel"];
    if kernel.is_null() {
        assert!(!report["skipped"].as_array().unwrap().is_empty());
        return eprintln!("skipped: {}", report["skipped"]);
    }
    let pages = kernel["pages"].as_u64().unwrap();
    assert!((1..=16).contains(&pages), "{kernel}");
    assert!(kernel["grow_on_us"].as_f64().unwrap() > 0.0 && kernel["shrink_off_us"].as_f64().unwrap() > 0.0);
    match kernel["freed_per_page"].as_i64() {
        // Nothing was optimised (memory that holds its own descriptors), or the counters do not tell.
        None | Some(0) => eprintln!("skipped: what the kernel frees cannot be told here: {kernel}"),
        Some(freed) => assert_eq!(freed, can, "{kernel}"),
    }
    if let (Some(freed), Some(taken)) = (kernel["freed_per_page"].as_i64(), kernel["taken_per_page"].as_i64())
    {
        assert_eq!(freed, taken, "{kernel}");
    }
}

fn an_interrupt(state_file: &Path) {
    for signal in [Signal::INT, Signal::TERM] {
        let Some(mut child) = long_run(state_file) else {
            return eprintln!("skipped: no long run here");
        };
        kill_process(pid(&child), signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(signal.as_raw()), "{status}");
        assert!(!state_file.exists());
    }
}

fn a_kill(state_file: &Path) {
    let Some(mut child) = long_run(state_file) else {
        return eprintln!("skipped: no long run here");
    };
    let state = state_file.to_str().unwrap();
    // Nobody else gets at it meanwhile.
    let other = state_file.with_extension("other");
    let refused = output(&["hvo", "--pages", "16", "--state-file", other.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("another run"), "{refused:?}");
    assert!(!other.exists());

    child.kill().unwrap();
    child.wait().unwrap();
    let saved: Value = serde_json::from_slice(&fs::read(state_file).unwrap()).unwrap();
    let refused = output(&["hvo", "--pages", "16", "--state-file", state]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("`mmkit hvo --restore --state-file {state}`")), "{said}");
    let said = stdout(&["hvo", "--restore", "--state-file", state]);
    let wanted = format!("vm.hugetlb_optimize_vmemmap = {}", u8::from(saved["optimise"].as_bool().unwrap()));
    assert!(said.contains(&wanted) && said.contains("removed"), "{said}");
    assert!(!state_file.exists());
}

/// Whoever is not root is told so, and that is no failure.
fn nobody(state: &str) {
    let mut command = mmkit(&["hvo", "--pages", "16", "--repeat", "1", "--json", "--state-file", state]);
    let Ok(output) = command.uid(65534).gid(65534).output() else {
        return eprintln!("skipped: the program cannot be started as nobody");
    };
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["kernel"].is_null());
    assert!(report["skipped"][0].as_str().unwrap().contains("run it as root"), "{report}");
}
