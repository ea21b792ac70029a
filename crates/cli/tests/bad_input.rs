// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that can be wrong about the command line: one line on stderr that says what, and how to mend it.

mod common;

use common::output;

/// Runs it, and returns the line on stderr.
fn refused(args: &[&str], code: i32) -> String {
    let output = output(args);
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(stderr.starts_with("mmkit: ") && stderr.ends_with('\n'), "{args:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    stderr
}

/// It is an error of usage, and the line has all these words.
#[track_caller]
fn usage(args: &[&str], words: &[&str]) {
    let line = refused(args, 2);
    for word in words {
        assert!(line.contains(word), "{args:?}: no {word:?} in {line}");
    }
    assert_eq!(output(args).stdout, b"", "{args:?}");
}

#[test]
fn sizes() {
    let demo = |size| ["demo", "--memory", size];
    for (size, words) in [
        ("lots", ["--memory", "not a whole number of bytes", "write it as 1536M"]),
        ("1.5G", ["--memory", "not a whole number of bytes", "write it as 1536M"]),
        ("1X", ["--memory", "no such unit", "use K, M, G, T, P or E"]),
        ("1GB", ["--memory", "no such unit", "powers of 1024"]),
        ("0", ["--memory", "zero bytes", "give a size above 0"]),
        ("0x0", ["--memory", "zero bytes", "give a size above 0"]),
        ("16E", ["--memory", "more than 64 bits", "give a size below 16E"]),
        ("99999999999999999999", ["--memory", "more than 64 bits", "give a size below 16E"]),
    ] {
        usage(&["plan", "--memory", size, "--page", "2M"], &words);
        if cfg!(target_os = "linux") {
            usage(&demo(size), &words);
        }
    }
    usage(&["plan", "--memory", "1T", "--page", "0"], &["--page", "zero bytes"]);
    usage(&["plan", "--memory=-1", "--page", "2M"], &["--memory", "not a whole number"]);
}

#[test]
fn memory_that_is_not_whole_pages() {
    let plan = |memory, page| ["plan", "--arch", "x86-64", "--memory", memory, "--page", page];
    usage(&plan("3M", "2M"), &["3 MiB is not a multiple", "2M", "give 2 MiB or 4 MiB"]);
    usage(&plan("1M", "2M"), &["1 MiB is not a multiple", "give 2 MiB"]);
    usage(&plan("8P", "2M"), &["8 PiB", "x86-64 can address", "at most 4 PiB"]);
}

#[test]
fn pages_and_architectures_that_are_none() {
    let plan = |page, arch| ["plan", "--memory", "1T", "--page", page, "--arch", arch];
    usage(&plan("3M", "x86-64"), &["3 MiB is not a page size of x86-64", "4K, 2M, 1G"]);
    usage(&plan("2M", "s390x"), &["2 MiB is not a page size of s390x", "1M, 2G"]);
    usage(&plan("2M", "vax"), &["'vax'", "unknown architecture", "use one of x86-64"]);
    usage(&plan("2M", ""), &["unknown architecture"]);
}

#[test]
fn arguments() {
    usage(&["plan"], &["--memory <SIZE>", "--page <SIZE>", "not provided"]);
    usage(&["plan", "--memory", "1T"], &["--page <SIZE>", "not provided"]);
    usage(&["plan", "--all", "--memory", "1T"], &["--all", "cannot be used with"]);
    usage(&["plan", "--memory", "1T", "--memory", "2T", "--page", "2M"], &["--memory", "multiple times"]);
    usage(&["plan", "--memroy", "1T"], &["--memroy", "--memory"]);
    usage(&["plant"], &["plant", "plan"]);
}

#[cfg(target_os = "linux")]
mod demo {
    use super::{refused, usage};

    #[test]
    fn what_makes_no_sense() {
        usage(&["demo", "--memory", "6K"], &["6 KiB is not a multiple", "give"]);
        usage(
            &["demo", "--memory", "1G", "--page", "3M"],
            &["3M is not a page size of this machine", "use base, "],
        );
        usage(&["demo", "--page", "big"], &["--page", "not a whole number"]);
        usage(
            &["demo", "--only", "nothing"],
            &["nothing", "build, tail-write, optimise, owners, device, pins, kernel"],
        );
        if cfg!(target_arch = "x86_64") {
            usage(
                &["demo", "--memory", "3M", "--page", "2M"],
                &["3 MiB is not a multiple", "give 2 MiB or 4 MiB"],
            );
            usage(&["demo", "--memory", "8P"], &["8 PiB", "can address", "at most 4 PiB"]);
        }
    }

    /// More 2M pages than the process may have mappings.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn more_mappings_than_there_may_be() {
        let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
        let limit = limit.trim();
        let memory = format!("{}", limit.parse::<u64>().unwrap() * (2 << 20));
        for args in [&[][..], &["--json"]] {
            let line = refused(&[&["demo", "--page", "2M", "--memory", &memory], args].concat(), 1);
            for word in [
                &format!("vm.max_map_count = {limit}"),
                "give less --memory",
                "set sysctl vm.max_map_count to",
            ] {
                assert!(line.contains(word), "no {word:?} in {line}");
            }
        }
    }

    /// 64 TiB of descriptors.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn more_memory_than_there_is() {
        let line = refused(&["demo", "--page", "base", "--memory", "4P"], 1);
        for word in ["of memory", "may be used", "give less --memory or a larger --page"] {
            assert!(line.contains(word), "no {word:?} in {line}");
        }
    }
}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod kernel {
    use super::{refused, usage};

    #[test]
    fn what_makes_no_sense() {
        usage(&["hvo", "--pages", "0"], &["--pages", "0 is not in 1.."]);
        usage(&["hvo", "--repeat", "0"], &["--repeat", "1..=1000"]);
        usage(&["hvo", "--page", "big"], &["--page", "not a whole number"]);
        usage(&["hvo", "--restore", "--pages", "3"], &["--restore", "cannot be used with"]);
        usage(&["report", "--memory", "1G"], &["--memory"]);
        if cfg!(target_arch = "x86_64") {
            usage(&["hvo", "--page", "4K"], &["4 KiB", "use one of 2M, 1G"]);
        }
    }

    /// What is restored must be what a run has written.
    #[test]
    fn a_state_file_that_is_none() {
        let path = std::env::temp_dir().join(format!("mmkit-not-a-state-{}", std::process::id()));
        std::fs::write(&path, "{}").unwrap();
        let line = refused(&["hvo", "--restore", "--state-file", path.to_str().unwrap()], 1);
        std::fs::remove_file(&path).unwrap();
        assert!(line.contains("not a state file"), "{line}");
        let directory = std::env::temp_dir();
        let line = refused(&["hvo", "--restore", "--state-file", directory.to_str().unwrap()], 1);
        assert!(line.contains("not trusted"), "{line}");
    }
}
