// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sizes in bytes: as they are typed, and as they are shown.

use std::fmt;
use std::str::FromStr;

/// Units by letter, each 1024 of the one before.
const UNITS: &str = "KMGTPE";

/// A number of bytes, not zero: `4096`, `0x1000`, `2M`, `16G`, `1TiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

/// Why a size was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SizeError {
    /// Not a whole number, perhaps with a unit.
    NotANumber,
    /// A unit that is none.
    Unit,
    /// 0 bytes.
    Zero,
    /// 2^64 bytes or more.
    TooLarge,
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotANumber => "not a whole number of bytes; write it as 1536M, 2GiB, 0x40000000 or 4096",
            Self::Unit => "no such unit; use K, M, G, T, P or E, which are powers of 1024, or none for bytes",
            Self::Zero => "zero bytes; give a size above 0",
            Self::TooLarge => "more than 64 bits can count; give a size below 16E",
        })
    }
}

impl std::error::Error for SizeError {}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let bytes = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) => number(digits, 16)?,
            None => {
                let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
                let (digits, unit) = text.split_at(digits);
                let number = number(digits, 10)?;
                number.checked_mul(factor(unit)?).ok_or(SizeError::TooLarge)?
            }
        };
        if bytes == 0 { Err(SizeError::Zero) } else { Ok(Self(bytes)) }
    }
}

fn number(digits: &str, radix: u32) -> Result<u64, SizeError> {
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(SizeError::NotANumber);
    }
    u64::from_str_radix(digits, radix).map_err(|_| SizeError::TooLarge)
}

/// `K`, `KiB`, `Ki`, in either case; nothing or `B` is bytes. `KB` is refused: it means 1000 to some.
fn factor(unit: &str) -> Result<u64, SizeError> {
    let unit = unit.to_ascii_uppercase();
    if unit.is_empty() || unit == "B" {
        return Ok(1);
    }
    if unit.starts_with(['.', ',']) {
        return Err(SizeError::NotANumber);
    }
    let letter = unit.strip_suffix("IB").or_else(|| unit.strip_suffix('I')).unwrap_or(&unit);
    let power = UNITS.find(letter).filter(|_| letter.len() == 1).ok_or(SizeError::Unit)?;
    Ok(1024 << (10 * power))
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&exact(self.0))
    }
}

/// The size without rounding, in the largest unit that does and is not a thousandth of another: `2080 MiB`.
pub(crate) fn exact(bytes: u64) -> String {
    let power = (bytes.trailing_zeros() / 10).min(6) as usize;
    match power {
        _ if bytes == 0 => "0".to_owned(),
        0 => format!("{bytes} B"),
        _ => format!("{} {}iB", bytes >> (10 * power), &UNITS[power - 1..power]),
    }
}

/// The size to one digit after the point: `50.4 MiB`.
pub(crate) fn rough(bytes: u64) -> String {
    let power = (bytes.checked_ilog2().unwrap_or(0) / 10) as usize;
    if power == 0 || bytes.trailing_zeros() as usize >= 10 * power {
        return exact(bytes);
    }
    format!("{:.1} {}iB", bytes as f64 / (1u64 << (10 * power)) as f64, &UNITS[power - 1..power])
}

/// The size as the field writes page sizes: `4K`, `2M`, `1G`.
pub(crate) fn short(bytes: u64) -> String {
    let power = (bytes.trailing_zeros() / 10).min(6) as usize;
    match power {
        0 => bytes.to_string(),
        _ => format!("{}{}", bytes >> (10 * power), &UNITS[power - 1..power]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<u64, SizeError> {
        text.parse().map(|Size(bytes)| bytes)
    }

    #[test]
    fn sizes_that_parse() {
        for (text, bytes) in [
            ("1", 1),
            ("4096", 4096),
            ("4096B", 4096),
            ("0x200000", 2 << 20),
            ("0Xffffffffffffffff", u64::MAX),
            ("2M", 2 << 20),
            ("2m", 2 << 20),
            ("2MiB", 2 << 20),
            ("2Mi", 2 << 20),
            ("16G", 16 << 30),
            ("1TiB", 1 << 40),
            ("1k", 1024),
            ("3P", 3 << 50),
            ("15E", 15 << 60),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn sizes_that_do_not() {
        for (text, error) in [
            ("", SizeError::NotANumber),
            ("G", SizeError::NotANumber),
            ("-1", SizeError::NotANumber),
            ("+1", SizeError::NotANumber),
            (" 1", SizeError::NotANumber),
            ("1.5G", SizeError::NotANumber),
            ("0x", SizeError::NotANumber),
            ("0x+1", SizeError::NotANumber),
            ("0x1G", SizeError::NotANumber),
            ("one", SizeError::NotANumber),
            ("1X", SizeError::Unit),
            ("1KB", SizeError::Unit),
            ("1KM", SizeError::Unit),
            ("1iB", SizeError::Unit),
            ("1 G", SizeError::Unit),
            ("1G2", SizeError::Unit),
            ("1µ", SizeError::Unit),
            ("0", SizeError::Zero),
            ("0x0", SizeError::Zero),
            ("0T", SizeError::Zero),
            ("16E", SizeError::TooLarge),
            ("18446744073709551616", SizeError::TooLarge),
            ("0x10000000000000000", SizeError::TooLarge),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_in_their_units() {
        for (bytes, text) in [
            (0, "0"),
            (1, "1 B"),
            (4096, "4 KiB"),
            (2080 << 20, "2080 MiB"),
            (8 << 20, "8 MiB"),
            (65_664 << 10, "65664 KiB"),
            (1 << 40, "1 TiB"),
            (u64::MAX, "18446744073709551615 B"),
        ] {
            assert_eq!(exact(bytes), text);
        }
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (384 << 20, "384 MiB"),
            ((48 << 20) + 1, "48.0 MiB"),
        ] {
            assert_eq!(rough(bytes), text);
        }
        assert_eq!([4096, 2 << 20, 1 << 30, 1000].map(short), ["4K", "2M", "1G", "1000"]);
    }
}
