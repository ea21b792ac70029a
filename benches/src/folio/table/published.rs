// SPDX-License-Identifier: MIT OR Apache-2.0
//! What Linux measured: the tables of the series that introduced MM ids (29 August 2024, Xeon Silver 4210R, 1 GiB), as
//! change of run time against per-page counts without owners.

use super::ops::Op;

/// Sizes of folios, in KiB: the control row first.
pub(crate) const SIZES: [u64; 9] = [4, 16, 32, 64, 128, 256, 512, 1024, 2048];

/// Owners tracked with a count for each page, and without.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Published {
    pub(crate) mmid: f64,
    pub(crate) nomapcount: f64,
}

/// The published changes of a row, where there are.
///
/// Those of anon-cow are throughput, "up to", and without sizes: less throughput is more run time.
pub(crate) fn published(op: Op, size_kib: u64) -> Option<Published> {
    let row = SIZES.iter().skip(1).position(|&size| size == size_kib)?;
    let (mmid, nomapcount) = match op {
        Op::Munmap => ([2, 3, 4, 3, 1, 1, 0, 0][row], [-8, -9, -16, -17, -23, -26, -29, -31][row]),
        Op::Fork => ([4, 1, 0, 0, 0, 0, 0, -1][row], [-9, -12, -15, -15, -16, -16, -17, -21][row]),
        Op::CowByte => (0, 0),
        Op::ReuseByte | Op::ChildReuseByte => {
            let both = [-66, -65, -64, -64, -64, -64, -64, -64][row];
            (both, both)
        }
        Op::AnonCowSeq if size_kib == 2048 => (2, -3),
        Op::AnonCowRand if size_kib == 2048 => (0, 0),
        Op::AnonCowSeq | Op::AnonCowRand => return None,
    };
    let part = |percent: i32| f64::from(percent) / 100.0;
    Some(Published { mmid: part(mmid), nomapcount: part(nomapcount) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corners_of_the_published_tables() {
        let of = |op, size| published(op, size).map(|it| (it.mmid, it.nomapcount));
        assert_eq!(of(Op::Munmap, 16), Some((0.02, -0.08)));
        assert_eq!(of(Op::Munmap, 2048), Some((0.0, -0.31)));
        assert_eq!(of(Op::Fork, 16), Some((0.04, -0.09)));
        assert_eq!(of(Op::Fork, 2048), Some((-0.01, -0.21)));
        assert_eq!(of(Op::ReuseByte, 32), Some((-0.65, -0.65)));
        assert_eq!(of(Op::ChildReuseByte, 2048), Some((-0.64, -0.64)));
        assert_eq!(of(Op::CowByte, 512), Some((0.0, 0.0)));
        assert_eq!(of(Op::Munmap, 4), None, "the control row is ours");
        assert_eq!(of(Op::AnonCowSeq, 16), None);
    }
}
