//! `hull network capture`: the packets that pass a container's network device, in the pcap format
//! (draft-ietf-opsawg-pcap).

use super::netlink::{Namespace, Socket};
use crate::sys::fd::Fd;
use crate::sys::{netns, process, socket};
use crate::{Context, Error, Result};
use nix::errno::Errno;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::AsRawFd;
use std::time::{SystemTime, UNIX_EPOCH};

/// Length of the longest packet that is written whole, in bytes.
const SNAPLEN: usize = 262_144;

/// The container whose packets are captured.
pub struct Target<'a> {
    /// The id, for error messages.
    pub id: &'a str,
    /// The container's first process.
    pub pidfd: &'a Fd,
    /// The network namespace.
    pub namespace: &'a Namespace,
}

/// Writes the packets that pass a network device of a container to a file (`-` is stdout), until
/// the container ends or the reader of the file closes it.
///
/// # Errors
/// The container has no such device; the packet socket cannot be opened or read; the file cannot be
/// written.
pub fn capture(target: &Target, interface: &str, to: &str) -> Result<()> {
    let Target {
        id,
        pidfd,
        namespace,
    } = target;
    let device = Socket::open_in(namespace)?.link(interface)?;
    let device = device
        .ok_or_else(|| Error::new(format!("container {id} has no network device {interface}")))?;
    let packets = netns::socket_in(namespace.0.0, libc::AF_PACKET, libc::SOCK_RAW, 0).on(
        "open a packet socket in",
        "the container's network namespace",
    )?;
    // The socket was opened with protocol 0, so that no packet of another device is in its queue.
    netns::bind_packet(packets.as_raw_fd(), device.index).on("watch network device", interface)?;
    let out: Box<dyn Write> = match to {
        "-" => Box::new(std::io::stdout()),
        path => Box::new(File::create(path).on("make", path)?),
    };
    let mut out = BufWriter::new(out);
    let mut buffer = vec![0_u8; SNAPLEN];
    let written = header(&mut out).and_then(|()| out.flush());
    if is_closed(written, to)? {
        return Ok(());
    }
    loop {
        let (packet, ended) =
            process::poll2(packets.as_raw_fd(), pidfd.0, None).on("wait for", "packets")?;
        if packet {
            match socket::recv(packets.as_raw_fd(), &mut buffer) {
                Ok(length) => {
                    let written = record(&mut out, &buffer[..length]).and_then(|()| out.flush());
                    if is_closed(written, to)? {
                        return Ok(());
                    }
                }
                Err(Errno::ENETDOWN) => {}
                Err(errno) => return Err(Error::sys("read packets of", interface, errno)),
            }
        } else if ended {
            return Ok(());
        }
    }
}

/// Whether the reader has closed the file, which is not an error.
fn is_closed(written: std::io::Result<()>, to: &str) -> Result<bool> {
    match written {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(true),
        Err(error) => Err(Error::io("write", to, &error)),
    }
}

/// The file header: magic number of nanosecond times, version 2.4, link type 1 (Ethernet).
fn header(out: &mut impl Write) -> std::io::Result<()> {
    out.write_all(&0xa1b2_3c4d_u32.to_le_bytes())?;
    out.write_all(&[2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
    out.write_all(&(SNAPLEN as u32).to_le_bytes())?;
    out.write_all(&1_u32.to_le_bytes())
}

/// A packet with its time and length.
fn record(out: &mut impl Write, packet: &[u8]) -> std::io::Result<()> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let length = (packet.len() as u32).to_le_bytes();
    out.write_all(&(now.as_secs() as u32).to_le_bytes())?;
    out.write_all(&now.subsec_nanos().to_le_bytes())?;
    out.write_all(&length)?;
    out.write_all(&length)?;
    out.write_all(packet)
}
