//! `/etc/hosts` and `/etc/resolv.conf` of a container.
//!
//! Containers of a network find each other by `/etc/hosts`, which hull rewrites in every container
//! when one comes or goes. There is no DNS server, since hull has no daemon that could answer;
//! every C library reads the file, and the container keeps the name servers that it has.

use super::endpoint::Endpoint;
use crate::sys::file;
use crate::{Context, Result};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The path of the hosts file in a container's directory, which is bound on `/etc/hosts`.
pub fn hosts_path(directory: &Path) -> PathBuf {
    directory.join("hosts")
}

/// The path of the resolver's file in a container's directory, which is bound on
/// `/etc/resolv.conf`.
pub fn resolv_path(directory: &Path) -> PathBuf {
    directory.join("resolv.conf")
}

/// Makes both files, before they are bound into the container. The hosts file has only the lines
/// given here until the container's addresses are known.
///
/// # Errors
/// A file cannot be written, or its mode not be changed.
pub fn prepare(
    directory: &Path,
    lines: &[(String, IpAddr)],
    dns: &[IpAddr],
    search: &[String],
) -> Result<()> {
    let (hosts, resolv) = (hosts_path(directory), resolv_path(directory));
    make(&hosts, &hosts_text(&[], &[], lines))?;
    make(&resolv, &resolv_text(&host_resolv(), dns, search))
}

/// Every user of the container may read the file, whatever hull's umask.
fn make(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).on("write", path.display())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
        .on("change the mode of", path.display())
}

/// The host's resolv.conf. Where that names systemd's local stub resolver, the file with the
/// servers that the stub itself uses (systemd-resolved.service(8)).
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

/// The text of a container's resolv.conf: the host's, without servers on the host's loopback, which
/// the container could not reach. `dns` and `search` replace the host's servers and search domains.
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

/// The text of a container's hosts file: its own names, those of the other containers on its
/// networks, and the lines of `--add-host`.
pub fn hosts_text(
    own: &[(IpAddr, Vec<String>)],
    others: &[(IpAddr, Vec<String>)],
    extra: &[(String, IpAddr)],
) -> String {
    let mut text =
        String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in extra {
        let _ = writeln!(text, "{address}\t{name}");
    }
    for (address, names) in own.iter().chain(others) {
        let _ = writeln!(text, "{address}\t{}", names.join(" "));
    }
    text
}

/// Rewrites the hosts files of all containers on the networks `changed`. `all` are the endpoints of
/// every network.
///
/// # Errors
/// A file cannot be read or written. The other files are still rewritten; the first error is
/// returned.
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
        let own_endpoints: Vec<&Endpoint> =
            all.iter().filter(|other| other.id == endpoint.id).collect();
        let lines = |endpoint: &Endpoint| {
            endpoint
                .addresses
                .iter()
                .map(|prefix| (prefix.addr(), endpoint.names.clone()))
                .collect::<Vec<_>>()
        };
        let own: Vec<_> = own_endpoints.iter().flat_map(|e| lines(e)).collect();
        let shared = |other: &&Endpoint| {
            other.id != endpoint.id && own_endpoints.iter().any(|own| own.network == other.network)
        };
        let others: Vec<_> = all.iter().filter(shared).flat_map(lines).collect();
        let written = rewrite(path, &hosts_text(&own, &others, &endpoint.extra_hosts));
        result = result.and(written);
    }
    result
}

/// Rewrites the file in place: it is bound into the container, which would not see a new file of
/// the same name. The file of a removed container does not exist any more.
fn rewrite(path: &Path, text: &str) -> Result<()> {
    let name = crate::sys::fd::c_path(path)?;
    // The container may have taken a lease on it (fcntl(2), F_SETLEASE): its neighbours, whose start
    // or end this is, do not wait for it.
    let flags = libc::O_RDWR | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let raw = match file::openat(libc::AT_FDCWD, &name, flags, 0) {
        Err(nix::errno::Errno::ENOENT) => return Ok(()),
        Err(nix::errno::Errno::EAGAIN) => {
            let path = path.display();
            crate::log::warn(&format!(
                "{path} is left as it is: its container has a lease on it"
            ));
            return Ok(());
        }
        other => other.on("open", path.display())?,
    };
    let mut file = std::fs::File::from(crate::sys::socket::owned(raw));
    // It may be of any size: no more is read than can be equal.
    let mut old = Vec::new();
    let most = text.len() as u64 + 1;
    if (&mut file).take(most).read_to_end(&mut old).is_ok() && old == text.as_bytes() {
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
