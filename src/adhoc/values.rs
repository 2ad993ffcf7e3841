//! Values of flags: sizes, CPUs, volumes, environment variables.

use crate::namespaces::subid::Layout;
use crate::{Context, Error, Result};
use std::path::{Path, PathBuf};

/// A bind mount (`--volume`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The path on the host: absolute and without symlinks.
    pub source: PathBuf,
    /// The path in the container.
    pub target: String,
    /// Whether the mount is read-only.
    pub read_only: bool,
}

/// Parses a size in bytes, at least one: see [`crate::spec::size::parse`]. `option` is the flag,
/// for the error message.
///
/// # Errors
/// The text is not a size, or the size is 0.
pub fn size(option: &str, text: &str) -> Result<i64> {
    let refuse = |error: Error| error.within(format_args!("{option} {text:?}"));
    match crate::spec::size::parse(text).map_err(refuse)? {
        0 => Err(refuse(Error::new("out of range"))),
        bytes => Ok(bytes.cast_signed()),
    }
}

/// Parses a number of CPUs, such as `0.5`, into a quota in microseconds per period of 100,000
/// microseconds.
///
/// # Errors
/// The text is not a number; less than 0.01 CPUs, since the kernel's least quota is 1,000
/// microseconds.
pub fn cpus(text: &str) -> Result<i64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let number = text
        .parse::<f64>()
        .ok()
        .filter(|number| plain && number.is_finite());
    match number {
        Some(number) if (0.01..=100_000.0).contains(&number) => {
            Ok((number * 100_000.0).round() as i64)
        }
        Some(_) => Err(Error::new(format!(
            "--cpus {text:?}: out of range; the least is 0.01"
        ))),
        None => Err(Error::new(format!(
            "--cpus {text:?}: not a number of CPUs, such as 2 or 0.5"
        ))),
    }
}

/// Parses a limit of processes; -1 is no limit.
///
/// # Errors
/// The text is neither -1 nor a positive number.
pub fn pids(text: &str) -> Result<i64> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(-1),
        Ok(number) if number > 0 => Ok(number),
        _ => Err(Error::new(format!(
            "--pids-limit {text:?}: not a number of processes, such as 100, or -1 for no limit"
        ))),
    }
}

/// Parses `keep-id[:uid=N,gid=N]` or `nomap`. Without N the caller's own ids are meant.
///
/// # Errors
/// The text is neither; an id is not a number.
pub fn layout(text: Option<&str>) -> Result<Layout> {
    let Some(text) = text else {
        return Ok(Layout::Root);
    };
    let refuse = |why: &str| Error::new(format!("--userns {text:?}: {why}"));
    let (kind, ids) = text.split_once(':').unwrap_or((text, ""));
    let (mut uid, mut gid) = (
        nix::unistd::geteuid().as_raw(),
        nix::unistd::getegid().as_raw(),
    );
    match kind {
        "nomap" if ids.is_empty() => return Ok(Layout::Unmapped),
        "keep-id" => {}
        _ => return Err(refuse("not keep-id, keep-id:uid=N,gid=N or nomap")),
    }
    for part in ids.split(',').filter(|part| !part.is_empty()) {
        let id = |digits: &str| {
            let number = digits.parse::<u32>().ok().filter(|id| *id != u32::MAX);
            number.ok_or_else(|| refuse("an id is a number from 0 to 4294967294"))
        };
        match part.split_once('=') {
            Some(("uid", digits)) => uid = id(digits)?,
            Some(("gid", digits)) => gid = id(digits)?,
            _ => return Err(refuse("keep-id takes uid=N and gid=N")),
        }
    }
    Ok(Layout::Keep { uid, gid })
}

/// Parses `HOST:CONTAINER[:ro|rw]`. A relative path of the host starts from the working directory.
///
/// # Errors
/// A part is missing or empty; the host has no such path; the path in the container is not
/// absolute, or is the root.
pub fn volume(text: &str) -> Result<Volume> {
    let refuse = |why: &str| {
        Error::new(format!(
            "-v {text:?}: {why}; the form is HOST:CONTAINER[:ro]"
        ))
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (host, target, options) = match parts[..] {
        [host, target] => (host, target, ""),
        [host, target, options] => (host, target, options),
        _ => return Err(refuse("not two or three parts between colons")),
    };
    let read_only = match options {
        "ro" => true,
        "" if parts.len() == 2 => false,
        "rw" => false,
        _ => return Err(refuse(&format!("{options:?} is neither ro nor rw"))),
    };
    if host.is_empty() {
        return Err(refuse("the host's path is empty"));
    }
    if !target.starts_with('/') {
        return Err(refuse("the container's path must begin with /"));
    }
    if crate::spec::names::inside_path(target) == "/" {
        return Err(refuse("the container's root is the directory of --rootfs"));
    }
    let source = Path::new(host)
        .canonicalize()
        .on(&format!("-v {text:?}: open"), host)?;
    Ok(Volume {
        source,
        target: target.to_owned(),
        read_only,
    })
}

/// Parses an environment variable: `NAME=VALUE`, or `NAME` alone for the value that hull itself
/// has; `None` where hull has no such variable.
///
/// # Errors
/// The name is empty; hull's value is not UTF-8.
pub fn variable(text: &str) -> Result<Option<String>> {
    let name = text.split('=').next().unwrap_or_default();
    if name.is_empty() {
        return Err(Error::new(format!(
            "-e {text:?}: no name; the form is NAME=VALUE, or NAME for the caller's value"
        )));
    }
    if text.contains('=') {
        return Ok(Some(text.to_owned()));
    }
    match std::env::var(name) {
        Ok(value) => Ok(Some(format!("{name}={value}"))),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Error::new(format!("-e {text:?}: its value is not UTF-8")))
        }
    }
}

/// Checks a hostname: letters, digits, hyphens and dots (RFC 1123), or underscores, which are
/// common; at most 63 characters.
///
/// # Errors
/// The name is empty or too long, or has other characters.
pub fn hostname(text: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if text.is_empty()
        || text.len() > 63
        || !text.chars().all(plain)
        || text.starts_with(['-', '.'])
    {
        return Err(Error::new(format!(
            "--hostname {text:?}: a hostname has 1 to 63 letters, digits, hyphens and dots"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_more_than_nothing() {
        assert_eq!(size("--memory", "1.5g").unwrap(), 3 << 29);
        for text in ["0", "0k", "0.0001k", "9223372036854775808", "x"] {
            assert!(size("--memory", text).is_err(), "{text}");
        }
    }

    #[test]
    fn parts_of_a_cpu() {
        assert_eq!(cpus("0.5").unwrap(), 50_000);
        assert_eq!(cpus("2").unwrap(), 200_000);
        for text in ["", "0", "-1", "inf", "nan", "1e3", "x", "0.001"] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn volumes_have_two_or_three_parts() {
        let made = volume("/:/host:ro").unwrap();
        assert_eq!(
            (made.source.to_str(), made.target.as_str(), made.read_only),
            (Some("/"), "/host", true)
        );
        for text in [
            "",
            "/",
            "/:",
            ":/x",
            "/:x",
            "/:/",
            "/:/..",
            "/:/x:",
            "/:/x:z",
            "/:/x:ro:rw",
            "/nowhere-at-all:/x",
        ] {
            assert!(volume(text).is_err(), "{text}");
        }
    }

    #[test]
    fn variables_have_names() {
        assert_eq!(variable("A=b=c").unwrap().as_deref(), Some("A=b=c"));
        assert_eq!(variable("HULL_HAS_NO_SUCH_VARIABLE").unwrap(), None);
        assert!(variable("=x").is_err() && variable("").is_err());
    }

    #[test]
    fn names_of_hosts() {
        assert!(hostname("box-1.example").is_ok());
        for text in ["", "-x", "a b", "ä", &"x".repeat(64)] {
            assert!(hostname(text).is_err(), "{text}");
        }
    }
}
