// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel that this runs on spends on its own descriptors.

use std::collections::HashMap;

use super::Context;
use super::memory_map::Source;
use super::report::{Report, Run};
use crate::failure::Failure;
use crate::machine;
use crate::size::rough;

/// The part `kernel`.
pub(super) fn run(context: &Context, report: &mut Report) -> Result<String, Failure> {
    let counters = procfs::vmstat().unwrap_or_default();
    let Some(bytes) = memmap_bytes(&counters, machine::page_bytes()) else {
        report
            .skipped
            .push("/proc/vmstat has no nr_memmap_pages: what the kernel spends is not known".to_owned());
        return Ok(String::new());
    };
    report.kernel_memmap_bytes = Some(bytes);
    let mut text = format!(
        "\nkernel: the running one spends {} on the descriptors of this machine's memory\n",
        rough(bytes)
    );
    // A memory size of the user's own says nothing about the kernel's.
    if context.memory.source != Source::Given {
        for run in &report.runs {
            text += &saved(run, bytes);
        }
    }
    Ok(text)
}

/// `nr_memmap_pages` (allocated later) and `nr_memmap_boot_pages` (from boot) together; `None` before Linux 6.11.
fn memmap_bytes(counters: &HashMap<String, i64>, page: u64) -> Option<u64> {
    let counter = |name| counters.get(name).and_then(|&pages| u64::try_from(pages).ok());
    let (later, boot) = (counter("nr_memmap_pages")?, counter("nr_memmap_boot_pages")?);
    Some((later + boot) * page)
}

/// What the kernel would save if it kept its descriptors as this run did.
fn saved(run: &Run, bytes: u64) -> String {
    let ours = (run.flat_bytes as i64 - run.saved_bytes).unsigned_abs();
    match bytes.checked_sub(ours) {
        Some(saved) if saved > 0 => {
            format!("  all of it as {} pages: {} would be saved\n", run.page, rough(saved))
        }
        _ => format!("  all of it as {} pages: nothing would be saved\n", run.page),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_counters_count() {
        let counters =
            |pairs: &[(&str, i64)]| pairs.iter().map(|&(name, pages)| (name.to_owned(), pages)).collect();
        let both =
            counters(&[("nr_memmap_pages", 32_744), ("nr_memmap_boot_pages", 65_560), ("nr_free_pages", 1)]);
        assert_eq!(memmap_bytes(&both, 4096), Some(384 << 20));
        assert_eq!(memmap_bytes(&counters(&[("nr_memmap_pages", 1)]), 4096), None);
        assert_eq!(memmap_bytes(&counters(&[]), 4096), None);
    }
}
