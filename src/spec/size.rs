//! Sizes in bytes as they are written on command lines and in the defaults' file.

use crate::{Error, Result};

/// A size in bytes: a number with a unit of 1024 (`b`, `k`, `m`, `g`, `t`, in either case), also as
/// `MiB` or `MB`; a fraction such as `1.5g` is rounded down.
///
/// # Errors
/// It is not a number, its unit is another, or it is more than the kernel counts (2^63 bytes).
pub fn parse(text: &str) -> Result<u64> {
    let refuse = || Error::new("not a size; say a number and a unit, as 512m or 2g");
    let range = || Error::new("out of range");
    let (number, unit) = text.split_at(
        text.find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len()),
    );
    let unit = unit.to_ascii_lowercase();
    let factor = match unit.trim_end_matches('b') {
        "" => 1,
        "k" | "ki" => 1_u64 << 10,
        "m" | "mi" => 1 << 20,
        "g" | "gi" => 1 << 30,
        "t" | "ti" => 1 << 40,
        _ => return Err(refuse()),
    };
    let bytes = if number.contains('.') {
        let number: f64 = number.parse().map_err(|_| refuse())?;
        (number * factor as f64) as u64
    } else if number.is_empty() {
        return Err(refuse());
    } else {
        let number: u64 = number.parse().map_err(|_| range())?;
        number.checked_mul(factor).ok_or_else(range)?
    };
    if bytes > i64::MAX as u64 {
        return Err(range());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("1", 1),
            ("10b", 10),
            ("4k", 4096),
            ("64M", 64 << 20),
            ("512mb", 512 << 20),
            ("1.5g", 3 << 29),
            (".5k", 512),
            ("2GiB", 2 << 30),
            ("1TB", 1 << 40),
            ("9223372036854775807", i64::MAX as u64),
        ] {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
        for text in [
            "",
            "m",
            ".",
            "-1",
            "1q",
            "1.2.3m",
            "1 m",
            "999999999t",
            "99999999999999999999",
            "9223372036854775808",
            "0x10",
            "inf",
            "nan",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
