// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page sizes that the demo builds.

use std::str::FromStr;

use mmkit_addr::{Geometry, HugeKind, Order};

use crate::failure::Failure;
use crate::machine;
use crate::size::{Size, SizeError, short};

/// A page size on the command line: `base`, or a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageArg {
    Base,
    Bytes(Size),
}

impl FromStr for PageArg {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        if text == "base" { Ok(Self::Base) } else { text.parse().map(Self::Bytes) }
    }
}

/// A page size of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// `base`, `2M`, ..
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) order: Order,
}

impl Page {
    fn new(geometry: &Geometry, bytes: u64) -> Option<Self> {
        let order = geometry.order_of_bytes(bytes)?;
        let name = if order == Order::ZERO { "base".to_owned() } else { short(bytes) };
        Some(Self { name, bytes, order })
    }
}

/// The page sizes that were asked for, each once; by default the base page, and the huge pages that are one entry of a
/// page table and worth sharing the tails of.
pub(super) fn pages(geometry: &Geometry, asked: &[PageArg]) -> Result<Vec<Page>, Failure> {
    let sizes = machine::page_sizes(geometry);
    let mut pages: Vec<Page> = Vec::new();
    if asked.is_empty() {
        let order = |bytes| geometry.order_of_bytes(bytes).unwrap_or(Order::ZERO);
        let leaf =
            |bytes| geometry.huge_page(bytes).is_some_and(|huge| matches!(huge.kind(), HugeKind::Leaf(_)));
        let usual = |&bytes: &u64| {
            order(bytes) == Order::ZERO || leaf(bytes) && order(bytes) >= geometry.min_dedup_order()
        };
        return Ok(sizes.into_iter().filter(usual).filter_map(|bytes| Page::new(geometry, bytes)).collect());
    }
    for arg in asked {
        let bytes = match arg {
            PageArg::Base => geometry.base_bytes(),
            PageArg::Bytes(size) => size.0,
        };
        let page = Page::new(geometry, bytes).filter(|_| sizes.contains(&bytes)).ok_or_else(|| {
            let sizes: Vec<_> = sizes.iter().skip(1).copied().map(short).collect();
            let sizes = sizes.join(", ");
            Failure::usage(format_args!(
                "--page {} is not a page size of this machine ({geometry}); use base, {sizes}",
                short(bytes)
            ))
        })?;
        if !pages.contains(&page) {
            pages.push(page);
        }
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(geometry: &Geometry, asked: &[&str]) -> Result<Vec<String>, Failure> {
        let asked: Vec<_> = asked.iter().map(|text| text.parse().unwrap()).collect();
        Ok(pages(geometry, &asked)?.into_iter().map(|page| page.name).collect())
    }

    #[test]
    fn usual_pages_are_leaves_worth_it() {
        assert_eq!(names(&Geometry::X86_64, &[]).unwrap(), ["base", "2M", "1G"]);
        assert_eq!(names(&Geometry::ARM64_4K, &[]).unwrap(), ["base", "2M", "1G"]);
        assert_eq!(names(&Geometry::ARM64_64K, &[]).unwrap(), ["base", "512M"]);
    }

    #[test]
    fn others_can_be_asked_for() {
        assert_eq!(
            names(&Geometry::ARM64_4K, &["32M", "base", "4K", "64K"]).unwrap(),
            ["32M", "base", "64K"]
        );
        let Err(Failure::Usage(message)) = names(&Geometry::X86_64, &["4M"]) else { panic!("4M is no page") };
        assert!(message.contains("4M") && message.contains("base, 2M, 1G"), "{message}");
    }
}
