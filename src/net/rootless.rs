//! The network of an unprivileged user's container: a program of that user forwards the packets
//! through ordinary sockets.
//!
//! hull uses pasta where it is installed, for IPv4 and IPv6, and otherwise slirp4netns, which has
//! IPv4 only and publishes ports by requests over its API socket. Both run until the container's
//! network namespace ends; [`stop`] ends one that is left.

use super::ports::{PortMapping, Protocol};
use crate::sys::fd::Fd;
use crate::sys::process;
use crate::sys::search::in_path_or_sbin;
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

/// The program that forwards the packets, with its path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// pasta(1), of the package passt.
    Pasta(PathBuf),
    /// slirp4netns(1).
    Slirp4netns(PathBuf),
}

impl Program {
    /// The path of the program.
    pub fn path(&self) -> &Path {
        match self {
            Program::Pasta(path) | Program::Slirp4netns(path) => path,
        }
    }
}

/// Finds the program in PATH, or in the directories that the PATH of cron or su lacks.
///
/// # Errors
/// Neither pasta nor slirp4netns is installed.
pub fn find() -> Result<Program> {
    in_path_or_sbin("pasta")
        .map(Program::Pasta)
        .or_else(|| in_path_or_sbin("slirp4netns").map(Program::Slirp4netns))
        .ok_or_else(|| {
            Error::new(
                "an unprivileged user's --network default needs pasta (package passt) or \
                slirp4netns, and neither is installed; --network none works without",
            )
        })
}

/// Starts the program for a container whose process `pid` waits at a barrier meanwhile.
///
/// # Errors
/// The program cannot be started or fails: then the last line of its message. An SCTP port cannot
/// be published.
pub fn start(program: &Program, ports: &[PortMapping], pid: i32, directory: &Path) -> Result<()> {
    match program {
        Program::Pasta(program) => pasta(program, ports, pid, directory),
        Program::Slirp4netns(program) => slirp4netns(program, ports, pid, directory),
    }
}

fn pid_path(directory: &Path) -> PathBuf {
    directory.join("carrier.pid")
}

/// pasta forks into the background when the network is set up.
fn pasta(program: &Path, ports: &[PortMapping], pid: i32, directory: &Path) -> Result<()> {
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
        let mut of_protocol = ports
            .iter()
            .filter(|port| port.protocol == protocol)
            .peekable();
        if of_protocol.peek().is_none() {
            command.args([option, "none"]);
        }
        for port in of_protocol {
            command.args([option, &pasta_ports(port)]);
        }
    }
    if ports.iter().any(|port| port.protocol == Protocol::Sctp) {
        return Err(Error::new(
            "an unprivileged user cannot publish SCTP ports: pasta does not support SCTP",
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
    let message = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(format!(
        "pasta: {}",
        message
            .lines()
            .last()
            .unwrap_or("it failed without a message")
            .trim()
    )))
}

/// `[ADDRESS/]HOST[-LAST]:CONTAINER[-LAST]` (pasta(1), --tcp-ports).
fn pasta_ports(port: &PortMapping) -> String {
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

/// slirp4netns stays a child process, and writes to a descriptor when it is ready: here its stdout.
fn slirp4netns(program: &Path, ports: &[PortMapping], pid: i32, directory: &Path) -> Result<()> {
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
        let mut message = String::new();
        if let Some(stderr) = &mut child.stderr {
            stderr
                .read_to_string(&mut message)
                .on("read", "the messages of slirp4netns")?;
        }
        child.wait().on("wait for", "slirp4netns")?;
        return Err(Error::new(format!(
            "slirp4netns: {}",
            message
                .lines()
                .last()
                .unwrap_or("it failed without a message")
                .trim()
        )));
    }
    for port in ports {
        for (host, container) in port.pairs() {
            let ip = port.ip.unwrap_or(IpAddr::from([0, 0, 0, 0]));
            let arguments = json!({
                "proto": port.protocol.word(),
                "host_addr": ip,
                "host_port": host,
                "guest_port": container,
            });
            forward(&socket, &arguments)
                .map_err(|error| error.within(format!("publish {port}")))?;
        }
    }
    Ok(())
}

/// Asks slirp4netns over its API socket to forward a port (slirp4netns(1), API SOCKET).
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

/// Ends a container's program, if it still runs. The kernel may have given its process id to
/// another process by now, so the process must have the program's name (`/proc/PID/comm`).
///
/// # Errors
/// pidfd_send_signal(2) fails for another reason than ESRCH.
pub fn stop(program: &Program, directory: &Path) -> Result<()> {
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
    let known = match program {
        Program::Pasta(_) => name.starts_with("pasta") || name.starts_with("passt"),
        Program::Slirp4netns(_) => name.starts_with("slirp4netns"),
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
    // Reaps the process where it is a child of this hull.
    let _ = process::wait(pidfd.0, true);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_the_syntax_of_pasta() {
        let show = |text: &str| pasta_ports(&text.parse().unwrap());
        assert_eq!(show("8080:80"), "8080:80");
        assert_eq!(
            show("127.0.0.1:8080-8082:80-82/udp"),
            "127.0.0.1/8080-8082:80-82"
        );
        assert_eq!(show("[::1]:8080:80"), "::1/8080:80");
    }
}
