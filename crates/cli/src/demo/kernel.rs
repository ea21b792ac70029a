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
pub(super) fn run(context: &Context, report: &mut Report) -> Result<(), Failure> {
    let counters = procfs::vmstat().unwrap_or_default();
    let Some(bytes) = memmap_bytes(&counters, machine::page_bytes()) else {
        report
            .skipped
            .push("/proc/vmstat has no nr_memmap_pages: what the kernel spends is not known".to_owned());
        return Ok(());
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
    context.say(&text)
}

/// `nr_memmap_pages` (allocated later) and `nr_memmap_boot_pages` (from boot) together; `None` before Linux 6.11.
fn memmap_bytes(counters: &HashMap<String, i64>, page: u64) -> Option<u64> {
    let counter = |name| counters.get(name).and_then(|&pages| u64::try_from(pages).ok());
    let (later, boot) = (counter("nr_memmap_pages")?, counter("nr_memmap_boot_pages")?);
    Some((later + boot) * page)
}

/// What the kernel would save if it kept its descriptors as this run did: the same share of them. (The run may be for
/// a little less memory than the kernel's, where only its size is known.)
fn saved(run: &Run, bytes: u64) -> String {
    let share = run.saved_bytes.max(0) as f64 / run.flat_bytes.max(1) as f64;
    let saved = (bytes as f64 * share) as u64;
    match saved {
        0 => format!("  all of it as {} pages: nothing would be saved\n", run.page),
        _ => format!("  all of it as {} pages: {} would be saved\n", run.page, rough(saved)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_saves_its_share() {
        let run = Run { page: "2M".into(), flat_bytes: 384, saved_bytes: 336, ..Run::default() };
        assert_eq!(saved(&run, 384 << 20), "  all of it as 2M pages: 336 MiB would be saved\n");
        let run = Run { saved_bytes: -1, ..run };
        assert_eq!(saved(&run, 384 << 20), "  all of it as 2M pages: nothing would be saved\n");
    }

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
