// SPDX-License-Identifier: MIT OR Apache-2.0
//! The running kernel, as far as it lets this user: what it pins, and what it refuses to.

use rustix::mm::MprotectFlags;

use super::*;
use crate::fixture::Fixture;

const MIB: u64 = 1 << 20;

/// The result, or the reason aloud.
fn measured(options: &Options) -> Option<Measurement> {
    match measure(&Root::system(), options, || true).unwrap() {
        Outcome::Measured(result) => Some(result),
        Outcome::Skipped(why) => {
            eprintln!("skipped: {why}");
            None
        }
    }
}

/// A ring and a buffer of base pages, or the reason aloud.
fn ring_and_buffer(bytes: usize) -> Option<(Ring, Buffer)> {
    let both =
        Ring::new().and_then(|ring| Buffer::new(bytes, 2 << 20, Shape::Base).map(|buffer| (ring, buffer)));
    match both {
        Ok(both) => Some(both),
        Err(Stop::Skip(why)) => {
            eprintln!("skipped: {why}");
            None
        }
        Err(Stop::Error(error)) => panic!("{error}"),
    }
}

/// Registers a part of `buffer`: whether the kernel did, or its number of the error.
fn register(ring: &Ring, buffer: &Buffer, offset: usize, bytes: usize) -> Result<(), Option<i32>> {
    let registered = ring
        .register(buffer, offset..offset + bytes, ring::MOST_BYTES)
        .map_err(|error| error.raw_os_error())?;
    registered.unregister().map_err(|error| error.raw_os_error())
}

#[test]
fn each_shape_is_what_it_says_and_every_page_is_pinned() {
    let bytes = 8 * MIB;
    for shape in Shape::ALL {
        let Some(result) = measured(&Options { repeats: 3, ..Options::new(bytes, shape) }) else { continue };
        let pages = bytes / rustix::param::page_size() as u64;
        assert_eq!((result.pages(), result.samples.len()), (pages, 3));
        assert_eq!(result.mapped.by_pmd, if shape == Shape::Pmd { pages } else { 0 });
        let pin = result.pin_ns().unwrap();
        assert!(pin > 0.0 && result.best_pin_ns().unwrap() <= pin, "{result:?}");
        for pins in result.samples.iter().filter_map(|sample| sample.pins) {
            // Whoever else pins on this machine is in it as well, and processors keep some for themselves.
            eprintln!("{shape}: {pins:?} of {pages} pages");
        }
    }
}

#[test]
fn what_cannot_be_is_skipped_with_the_numbers() {
    let skip = |bytes, shape| match measure(&Root::system(), &Options::new(bytes, shape), || true).unwrap() {
        Outcome::Skipped(skip) => skip,
        Outcome::Measured(_) => panic!("measured"),
    };
    let page = rustix::param::page_size() as u64;
    for bytes in [0, 1, page + 1, u64::MAX] {
        assert_eq!(skip(bytes, Shape::Base), Skip::BadSize { bytes, multiple: page });
    }
    let options = Options { batch_bytes: Some(page), ..Options::new(20_000 * page, Shape::Base) };
    let skipped = measure(&Root::system(), &options, || true).unwrap();
    assert_eq!(skipped, Outcome::Skipped(Skip::TooManyPieces { pieces: 20_000, most: 16_384 }));
    for batch in [0, page - 1] {
        let options = Options { batch_bytes: Some(batch), ..options.clone() };
        let skipped = measure(&Root::system(), &options, || true).unwrap();
        assert_eq!(skipped, Outcome::Skipped(Skip::BadSize { bytes: batch, multiple: page }));
    }
    let huge = huge_bytes(&Root::system());
    assert_eq!(skip(huge / 2, Shape::Pmd), Skip::BadSize { bytes: huge / 2, multiple: huge });
    let bytes = 1 << 60;
    assert!(
        matches!(skip(bytes, Shape::Ptes), Skip::NotEnoughMemory { bytes: refused, most } if refused == bytes && most < bytes)
    );
    let tree = Fixture::two_nodes("pin");
    let options = Options::new(20 * 1024 * MIB + page, Shape::Base);
    let skipped = measure(tree.root(), &options, || true).unwrap();
    let most = 20 * 1024 * MIB;
    assert_eq!(skipped, Outcome::Skipped(Skip::NotEnoughMemory { bytes: most + page, most }));
    let shape = Skip::Shape { wanted: Shape::Pmd, got: Mapped { pages: 4, by_pmd: 0, large: Some(2) } };
    assert!(shape.to_string().contains("0 of 4 pages are mapped by PMDs, 2 belong to"), "{shape}");
}

#[test]
fn it_ends_when_it_is_told_to() {
    for steps in 0..3 {
        let mut left = steps;
        let go_on = || {
            left -= 1;
            left >= 0
        };
        match measure(&Root::system(), &Options::new(MIB, Shape::Base), go_on) {
            Err(Error::Stopped) => {}
            Ok(Outcome::Skipped(why)) => eprintln!("skipped: {why}"),
            other => panic!("{other:?}"),
        }
    }
}

/// Corner cases of a pin that writes, as Linux 6.18 has them.
#[test]
fn what_a_pin_accepts_and_refuses() {
    let page = rustix::param::page_size();
    let Some((ring, buffer)) = ring_and_buffer(8 * page) else { return };
    let fault = Err(Some(libc::EFAULT));
    if register(&ring, &buffer, 0, page).is_err() {
        return eprintln!("skipped: this user may not lock one page");
    }
    assert_eq!(register(&ring, &buffer, 17, 3 * page - 29), Ok(()), "rounded out to pages");
    assert_eq!(register(&ring, &buffer, 0, 0), fault, "nothing");
    assert_eq!(register(&ring, &buffer, 0, 8 * page), Ok(()));
    // One page in the middle that a write may not touch: nothing stays pinned.
    for flags in [MprotectFlags::READ, MprotectFlags::empty()] {
        buffer.protect(3 * page, page, flags).unwrap();
        assert_eq!(register(&ring, &buffer, 0, 8 * page), fault);
        assert_eq!(register(&ring, &buffer, 0, 3 * page), Ok(()));
        assert_eq!(register(&ring, &buffer, 4 * page, 4 * page), Ok(()));
    }
    buffer.protect(3 * page, page, MprotectFlags::READ | MprotectFlags::WRITE).unwrap();
    assert_eq!(register(&ring, &buffer, 0, 8 * page), Ok(()));
}

/// A prefix, and no error: what is got before the page that is not there.
#[test]
fn a_get_ends_before_what_is_not_there() {
    let page = rustix::param::page_size();
    let Some((_, buffer)) = ring_and_buffer(8 * page) else { return };
    let pipe = match Pipe::new() {
        Ok(pipe) => pipe,
        Err(Stop::Skip(why)) => return eprintln!("skipped: {why}"),
        Err(Stop::Error(error)) => panic!("{error}"),
    };
    assert!(pipe.pass(&buffer, 3 * page).is_ok());
    buffer.protect(3 * page, page, MprotectFlags::empty()).unwrap();
    assert_eq!(pipe.pass_once(&buffer, 0, usize::MAX).unwrap(), 3 * page);
    let refused = pipe.pass_once(&buffer, 3 * page, usize::MAX).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EFAULT));
}
