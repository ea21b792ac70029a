// SPDX-License-Identifier: MIT OR Apache-2.0
//! The figures of the crates that everything else stands on.

mod bit_lock;
pub(crate) mod head;
mod refcount;
mod vmemmap;

use std::error::Error;

use crate::figure::Figure;
use crate::pair::Effort;

/// Measures all of them. What this machine cannot do is skipped, with a reason.
pub(crate) fn run(effort: Effort, figures: &mut Vec<Figure>, skipped: &mut Vec<String>) {
    figures.extend(head::slice(effort).into_iter().flatten());
    figures.push(bit_lock::uncontended(effort));
    figures.push(refcount::try_get(effort));
    let mut add = |keys: &str, measured: Result<Vec<Figure>, Box<dyn Error>>| match measured {
        Ok(measured) => figures.extend(measured),
        Err(error) => skipped.push(format!("{keys}: {error}")),
    };
    add("sparse_lookup_ratio", vmemmap::lookup(effort).map(Vec::from));
    add("resident_2m_ratio", vmemmap::resident_2m().map(|figure| vec![figure]));
    add("resident_1g_ratio", vmemmap::resident_1g().map(|figure| vec![figure]));
}
