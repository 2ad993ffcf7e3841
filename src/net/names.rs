//! `/etc/hosts` and `/etc/resolv.conf` of a container.
//!
//! Neighbours are found by `/etc/hosts`, which hull keeps current on every container of a network,
//! and not by a resolver: there is no daemon to answer, every C library reads the file, and the
//! container's own name servers stay what they are.

use super::endpoint::Endpoint;
use super::setup::Setup;
use crate::sys::file;
use crate::{Context, Result};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The hosts file in a container's directory.
pub fn hosts_path(directory: &Path) -> PathBuf {
    directory.join("hosts")
}

/// The resolver's file in a container's directory.
pub fn resolv_path(directory: &Path) -> PathBuf {
    directory.join("resolv.conf")
}

/// Makes both files, before they are bound into the container. The hosts file gets its lines when
/// the addresses are known.
///
/// # Errors
/// A full disk, and the like.
pub fn prepare(directory: &Path, setup: &Setup) -> Result<()> {
    let (hosts, resolv) = (hosts_path(directory), resolv_path(directory));
    make(&hosts, &hosts_text(&[], &[], &setup.hosts))?;
    make(
        &resolv,
        &resolv_text(&host_resolv(), &setup.dns, &setup.search),
    )
}

/// Everybody in the container may read them, whatever hull's own file mode mask.
fn make(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).on("write", path.display())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
        .on("change the mode of", path.display())
}

/// The host's resolv.conf. One that names the local stub resolver stands for the list that the stub
/// itself asks (systemd-resolved.service(8)).
fn host_resolv() -> String {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    if text
        .lines()
        .any(|line| line.split_whitespace().eq(["nameserver", "127.0.0.53"]))
    {
        return std::fs::read_to_string("/run/systemd/resolve/resolv.conf").unwrap_or(text);
    }
    text
}

/// A container's resolv.conf: the host's, without servers on the host's loopback, which the
/// container could not reach; what was asked for takes the place of the host's.
pub fn resolv_text(host: &str, dns: &[IpAddr], search: &[String]) -> String {
    let mut text = String::new();
    for line in host.lines() {
        let mut words = line.split_whitespace();
        let (key, value) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let keep = match key {
            "nameserver" => {
                dns.is_empty()
                    && value
                        .split('%')
                        .next()
                        .and_then(|v| v.parse::<IpAddr>().ok())
                        .is_none_or(|ip| !ip.is_loopback())
            }
            "search" | "domain" => search.is_empty(),
            _ => !line.trim().is_empty() && !line.starts_with(['#', ';']),
        };
        if keep {
            let _ = writeln!(text, "{line}");
        }
    }
    if !search.is_empty() {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    for server in dns {
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}

/// A container's hosts file: its own names, its neighbours' and the lines it was given.
pub fn hosts_text(
    own: &[(IpAddr, Vec<String>)],
    neighbours: &[(IpAddr, Vec<String>)],
    extra: &[(String, IpAddr)],
) -> String {
    let mut text =
        String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in extra {
        let _ = writeln!(text, "{address}\t{name}");
    }
    for (address, names) in own.iter().chain(neighbours) {
        let _ = writeln!(text, "{address}\t{}", names.join(" "));
    }
    text
}

/// Writes anew the hosts file of everyone who is on one of the networks changed. `all` are the
/// endpoints of every network.
///
/// # Errors
/// The first file that could not be written; the rest are.
pub fn refresh(all: &[Endpoint], changed: &BTreeSet<String>) -> Result<()> {
    let mut result = Ok(());
    let mut seen = BTreeSet::new();
    for endpoint in all
        .iter()
        .filter(|endpoint| changed.contains(&endpoint.network))
    {
        let Some(path) = endpoint
            .hosts
            .as_ref()
            .filter(|path| seen.insert(path.to_path_buf()))
        else {
            continue;
        };
        let mine: Vec<&Endpoint> = all.iter().filter(|other| other.id == endpoint.id).collect();
        let lines = |endpoint: &Endpoint| {
            endpoint
                .addresses
                .iter()
                .map(|prefix| (prefix.address, endpoint.names.clone()))
                .collect::<Vec<_>>()
        };
        let own: Vec<_> = mine.iter().flat_map(|e| lines(e)).collect();
        let shared = |other: &&Endpoint| {
            other.id != endpoint.id && mine.iter().any(|m| m.network == other.network)
        };
        let neighbours: Vec<_> = all.iter().filter(shared).flat_map(lines).collect();
        let written = rewrite(path, &hosts_text(&own, &neighbours, &endpoint.extra_hosts));
        result = result.and(written);
    }
    result
}

/// In place: the file is bound into the container, and a new one by the same name would not be seen
/// there. A container that is gone has no file any more.
fn rewrite(path: &Path, text: &str) -> Result<()> {
    let name = crate::sys::fd::c_path(path)?;
    let raw = match file::openat(libc::AT_FDCWD, &name, libc::O_RDWR | libc::O_NOFOLLOW, 0) {
        Err(nix::errno::Errno::ENOENT) => return Ok(()),
        other => other.on("open", path.display())?,
    };
    let mut file = std::fs::File::from(crate::sys::socket::owned(raw));
    let mut old = String::new();
    if file.read_to_string(&mut old).is_ok() && old == text {
        return Ok(());
    }
    file.seek(SeekFrom::Start(0)).on("write", path.display())?;
    file.write_all(text.as_bytes())
        .on("write", path.display())?;
    file.set_len(text.len() as u64).on("write", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_resolver_is_one_it_can_reach() {
        let host = "# generated\nsearch lan\nnameserver 127.0.0.1\nnameserver 192.0.2.1\noptions \
            ndots:2\n";
        assert_eq!(
            resolv_text(host, &[], &[]),
            "search lan\nnameserver 192.0.2.1\noptions ndots:2\n"
        );
        let asked = resolv_text(host, &["9.9.9.9".parse().unwrap()], &["x.test".to_owned()]);
        assert_eq!(
            asked,
            "options ndots:2\nsearch x.test\nnameserver 9.9.9.9\n"
        );
    }
}
