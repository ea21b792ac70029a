// SPDX-License-Identifier: MIT OR Apache-2.0
//! What kind of machine this is, and which sizes fit a geometry.

use mmkit_addr::Geometry;

use crate::failure::Failure;
use crate::size::{Size, exact, short};

/// The geometry of a machine of architecture `arch` (as Rust calls it) with base pages of `page` bytes.
fn geometry_of(arch: &str, page: u64) -> Option<&'static Geometry> {
    let mut known = Geometry::ALL.iter();
    known.find(|known| {
        known.base_bytes() == page && family(arch).is_some_and(|name| known.name().starts_with(name))
    })
}

/// How the names of an architecture's geometries begin.
fn family(arch: &str) -> Option<&'static str> {
    Some(match arch {
        "x86_64" => "x86-64",
        "aarch64" => "arm64",
        "riscv64" => "riscv64",
        "powerpc64" => "ppc64",
        "loongarch64" => "loongarch64",
        "s390x" => "s390x",
        _ => return None,
    })
}

/// This machine's geometry, or `None` where it is none of those that are known.
pub(crate) fn geometry() -> Option<&'static Geometry> {
    geometry_of(std::env::consts::ARCH, page_bytes())
}

/// This machine's geometry, or else that of x86-64.
pub(crate) fn geometry_or_default() -> &'static Geometry {
    geometry().unwrap_or(&Geometry::X86_64)
}

/// Bytes of a base page of this machine.
#[cfg(unix)]
pub(crate) fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

/// Bytes of a base page of this machine.
#[cfg(not(unix))]
pub(crate) fn page_bytes() -> u64 {
    4096
}

/// The sizes of pages that a geometry has, base page first.
pub(crate) fn page_sizes(geometry: &Geometry) -> Vec<u64> {
    let huge = geometry.huge_pages().iter().map(|huge| huge.bytes());
    std::iter::once(geometry.base_bytes()).chain(huge).collect()
}

/// Whether memory of that size, from address 0 on, has physical addresses.
pub(crate) fn check_memory(geometry: &Geometry, memory: Size) -> Result<(), Failure> {
    let most = geometry.max_frames() << geometry.base_shift();
    if memory.0 <= most {
        return Ok(());
    }
    let most = exact(most);
    Err(Failure::usage(format_args!(
        "--memory {memory} is more than {geometry} can address; give at most {most}"
    )))
}

/// Whether memory is made of whole pages.
pub(crate) fn check_multiple(memory: Size, page: Size) -> Result<(), Failure> {
    let over = memory.0 % page.0;
    if over == 0 {
        return Ok(());
    }
    let below = memory.0 - over;
    let near = [Some(below).filter(|&below| below > 0), below.checked_add(page.0)];
    let near: Vec<_> = near.into_iter().flatten().map(exact).collect();
    Err(Failure::usage(format_args!(
        "--memory {memory} is not a multiple of the page size {}; give {}",
        short(page.0),
        near.join(" or "),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_told_apart_by_architecture_and_page() {
        let name = |arch, page| geometry_of(arch, page).map(Geometry::name);
        assert_eq!(name("x86_64", 4096), Some("x86-64"));
        assert_eq!(name("aarch64", 65536), Some("arm64-64k"));
        assert_eq!(name("aarch64", 4096), Some("arm64-4k"));
        assert_eq!(name("loongarch64", 16384), Some("loongarch64-16k"));
        assert_eq!(name("powerpc64", 65536), Some("ppc64-radix-64k"));
        assert_eq!(name("s390x", 4096), Some("s390x"));
        assert_eq!(name("x86_64", 65536), None);
        assert_eq!(name("wasm32", 65536), None);
    }
}
