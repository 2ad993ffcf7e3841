//! An ordinary user's network: a program of the user's own carries the container's packets over
//! ordinary sockets.
//!
//! pasta is taken where it is installed (ports of both families), and slirp4netns otherwise (IPv4,
//! ports by its own socket's protocol). Both run beside the container and end with it; what is left
//! of one is ended by [`end`].

use super::ports::{Port, Protocol};
use super::setup::Setup;
use super::trace;
use crate::sys::fd::Fd;
use crate::sys::process;
use crate::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Which program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Carrier {
    /// passt.top; pasta(1).
    Pasta(PathBuf),
    /// slirp4netns(1).
    Slirp4netns(PathBuf),
}

impl Carrier {
    /// Its path.
    pub fn program(&self) -> &Path {
        match self {
            Carrier::Pasta(path) | Carrier::Slirp4netns(path) => path,
        }
    }
}

/// The program that is installed.
///
/// # Errors
/// Neither is.
pub fn find() -> Result<Carrier> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    let find = |name: &str| {
        std::env::split_paths(&path)
            .map(|directory| directory.join(name))
            .find(|path| path.is_file())
    };
    find("pasta")
        .map(Carrier::Pasta)
        .or_else(|| find("slirp4netns").map(Carrier::Slirp4netns))
        .ok_or_else(|| {
            Error::new(
                "an ordinary user's network needs pasta (package passt) or slirp4netns, and \
            neither is installed; without: --network none",
            )
        })
}

/// Gives a container that waits its network.
///
/// # Errors
/// The program's own words.
pub fn attach(carrier: &Carrier, setup: &Setup, pid: i32, directory: &Path) -> Result<()> {
    trace::change(directory, |trace| {
        trace.carrier = Some(carrier.clone());
        trace.setup = Some(setup.clone());
    })?;
    match carrier {
        Carrier::Pasta(program) => pasta(program, &setup.ports, pid, directory),
        Carrier::Slirp4netns(program) => slirp4netns(program, &setup.ports, pid, directory),
    }
}

fn pid_path(directory: &Path) -> PathBuf {
    directory.join("carrier.pid")
}

/// pasta goes to the background when all is set up.
fn pasta(program: &Path, ports: &[Port], pid: i32, directory: &Path) -> Result<()> {
    let mut command = Command::new(program);
    // Without `--no-map-gw` the gateway's address leads to the host's own loopback.
    command
        .args([
            "--config-net",
            "--quiet",
            "--no-map-gw",
            "--tcp-ns",
            "none",
            "--udp-ns",
            "none",
            "--pid",
        ])
        .arg(pid_path(directory));
    for (option, protocol) in [
        ("--tcp-ports", Protocol::Tcp),
        ("--udp-ports", Protocol::Udp),
    ] {
        let mut mine = ports
            .iter()
            .filter(|port| port.protocol == protocol)
            .peekable();
        if mine.peek().is_none() {
            command.args([option, "none"]);
        }
        for port in mine {
            command.args([option, &pasta_ports(port)]);
        }
    }
    if ports.iter().any(|port| port.protocol == Protocol::Sctp) {
        return Err(Error::new(
            "an ordinary user cannot publish SCTP ports: pasta carries none",
        ));
    }
    command
        .arg(pid.to_string())
        .stdin(Stdio::null())
        .current_dir("/");
    let output = command.output().on("run", program.display())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(format!(
        "pasta: {}",
        said.lines()
            .last()
            .unwrap_or("it failed and did not say why")
            .trim()
    )))
}

/// `[ADDRESS/]HOST[-LAST]:CONTAINER[-LAST]` (pasta(1), --tcp-ports).
fn pasta_ports(port: &Port) -> String {
    let run = |first: u16| {
        if port.count == 1 {
            first.to_string()
        } else {
            format!("{first}-{}", first + (port.count - 1))
        }
    };
    let address = port.ip.map(|ip| format!("{ip}/")).unwrap_or_default();
    format!("{address}{}:{}", run(port.host), run(port.container))
}

/// slirp4netns stays where it is started, and says on a descriptor that it is ready: its stdout
/// here.
fn slirp4netns(program: &Path, ports: &[Port], pid: i32, directory: &Path) -> Result<()> {
    let socket = directory.join("slirp.sock");
    let mut command = Command::new(program);
    command
        .args([
            "--configure",
            "--mtu=65520",
            "--disable-host-loopback",
            "--ready-fd=1",
            "--api-socket",
        ])
        .arg(&socket);
    command
        .arg(pid.to_string())
        .arg("tap0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir("/")
        .process_group(0);
    let mut child = command.spawn().on("run", program.display())?;
    std::fs::write(pid_path(directory), child.id().to_string())
        .on("write", pid_path(directory).display())?;
    let mut byte = [0_u8; 1];
    let ready = child.stdout.as_mut().map(|out| out.read(&mut byte));
    if !matches!(ready, Some(Ok(1))) {
        let mut said = String::new();
        if let Some(stderr) = &mut child.stderr {
            stderr
                .read_to_string(&mut said)
                .on("read", "what slirp4netns said")?;
        }
        child.wait().on("wait for", "slirp4netns")?;
        return Err(Error::new(format!(
            "slirp4netns: {}",
            said.lines()
                .last()
                .unwrap_or("it failed and did not say why")
                .trim()
        )));
    }
    for port in ports {
        for (host, container) in port.pairs() {
            let ip = port.ip.unwrap_or(IpAddr::from([0, 0, 0, 0]));
            let arguments = json!({"proto": port.protocol.word(), "host_addr": ip, "host_port": host, "guest_port": container});
            forward(&socket, &arguments)
                .map_err(|error| error.within(format!("publish {port}")))?;
        }
    }
    Ok(())
}

fn forward(socket: &Path, arguments: &Value) -> Result<()> {
    let mut stream = UnixStream::connect(socket).on("connect to", socket.display())?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .on("set up", socket.display())?;
    let request = json!({"execute": "add_hostfwd", "arguments": arguments});
    stream
        .write_all(request.to_string().as_bytes())
        .on("write to", socket.display())?;
    stream
        .shutdown(std::net::Shutdown::Write)
        .on("write to", socket.display())?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .on("read from", socket.display())?;
    match serde_json::from_str::<Value>(&answer) {
        Ok(answer) if answer.get("error").is_none() => Ok(()),
        _ => Err(Error::new(format!("slirp4netns: {}", answer.trim()))),
    }
}

/// Ends a container's program, if it is still there. Its name is asked, as its id may be another's
/// by now.
///
/// # Errors
/// The kernel's.
pub fn end(carrier: &Carrier, directory: &Path) -> Result<()> {
    let Some(pid) = std::fs::read_to_string(pid_path(directory))
        .ok()
        .and_then(|text| text.trim().parse::<i32>().ok())
    else {
        return Ok(());
    };
    let Ok(pidfd) = process::pidfd_open(pid).map(Fd) else {
        return Ok(());
    };
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let known = match carrier {
        Carrier::Pasta(_) => name.starts_with("pasta") || name.starts_with("passt"),
        Carrier::Slirp4netns(_) => name.starts_with("slirp4netns"),
    };
    if !known {
        return Ok(());
    }
    match process::pidfd_send_signal(pidfd.0, libc::SIGTERM) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(errno) => return Err(Error::sys("end", name.trim(), errno)),
    }
    if !crate::sys::process::wait_gone(pidfd.0, Duration::from_secs(2)) {
        let _ = process::pidfd_send_signal(pidfd.0, libc::SIGKILL);
    }
    // A child of this hull's own is reaped here; another's by its parent.
    let _ = process::wait(pidfd.0, true);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_pastas_words() {
        let words = |text: &str| pasta_ports(&text.parse().unwrap());
        assert_eq!(words("8080:80"), "8080:80");
        assert_eq!(
            words("127.0.0.1:8080-8082:80-82/udp"),
            "127.0.0.1/8080-8082:80-82"
        );
        assert_eq!(words("[::1]:8080:80"), "::1/8080:80");
    }
}
