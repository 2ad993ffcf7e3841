//! Showing a detached container's log.

use crate::adhoc::keeper::{LOG, OLD_LOG, is_kept};
use crate::container::{Container, Status};
use crate::store::Store;
use crate::{Error, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// How to show it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Go on until the container's end.
    pub follow: bool,
    /// Only that many lines of the end.
    pub tail: Option<usize>,
    /// Each line with its time.
    pub timestamps: bool,
}

/// One entry of the log.
struct Entry {
    time: String,
    is_error: bool,
    whole: bool,
    text: Vec<u8>,
}

/// Parses `<time> <stream> <P|F> <text>`.
fn parse(line: &[u8]) -> Option<Entry> {
    let mut fields = line.splitn(4, |&b| b == b' ');
    let (time, stream, tag) = (fields.next()?, fields.next()?, fields.next()?);
    let whole = tag == b"F";
    let known = matches!(stream, b"stdout" | b"stderr") && (whole || tag == b"P");
    let text = fields.next()?.to_vec();
    known.then(|| Entry {
        time: String::from_utf8_lossy(time).into_owned(),
        is_error: stream == b"stderr",
        whole,
        text,
    })
}

/// Prints the log: what was stdout to stdout, what was stderr to stderr.
///
/// # Errors
/// The container does not exist, or has no log.
pub fn show(store: &Store, id: &str, options: Options) -> Result<()> {
    let container = Container::open(store, id)?;
    let directory = container.directory();
    let Ok(mut log) = Reader::open(&directory) else {
        return Err(Error::new(format!(
            "container {id} has no log: only what hull run -d --rootfs makes has one"
        )));
    };
    let mut printer = Printer {
        timestamps: options.timestamps,
        begun: [false; 2],
    };
    let mut entries = Reader::old(&directory)
        .map(|mut old| old.entries())
        .unwrap_or_default();
    entries.extend(log.entries());
    let first = options
        .tail
        .map_or(0, |lines| begin_of_tail(&entries, lines));
    if !entries[first..].iter().all(|entry| printer.print(entry)) {
        return Ok(());
    }
    if !options.follow {
        return Ok(());
    }
    loop {
        // Asked before the log is read: what was written before the end is read after.
        let over = container.status() == Status::Stopped && !is_kept(&directory);
        let mut entries = log.entries();
        if let Some(next) = log.next(&directory) {
            entries.extend(log.entries());
            log = next;
            entries.extend(log.entries());
        }
        if !entries.iter().all(|entry| printer.print(entry)) || over {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(if entries.is_empty() {
            100
        } else {
            5
        }));
    }
}

/// The place of the entry with which the last `lines` lines begin. The parts of a line count as
/// one.
fn begin_of_tail(entries: &[Entry], lines: usize) -> usize {
    let mut left = lines;
    let mut open = [true; 2];
    for (index, entry) in entries.iter().enumerate().rev() {
        let stream = usize::from(entry.is_error);
        // Going backwards a line begins with its end, or with a part that has none yet.
        if entry.whole || open[stream] {
            if left == 0 {
                return index + 1;
            }
            left -= 1;
            open[stream] = false;
        }
    }
    0
}

struct Printer {
    timestamps: bool,
    /// A line is begun, on stdout and on stderr.
    begun: [bool; 2],
}

impl Printer {
    /// False when nobody reads any more.
    fn print(&mut self, entry: &Entry) -> bool {
        let mut text = Vec::with_capacity(entry.text.len() + 40);
        let begun = &mut self.begun[usize::from(entry.is_error)];
        if self.timestamps && !*begun {
            text.extend_from_slice(entry.time.as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(&entry.text);
        text.extend(entry.whole.then_some(b'\n'));
        *begun = !entry.whole;
        let written = if entry.is_error {
            std::io::stderr().write_all(&text)
        } else {
            let mut out = std::io::stdout();
            out.write_all(&text).and_then(|()| out.flush())
        };
        written.is_ok()
    }
}

/// A log being read; a line that is not whole yet waits.
struct Reader {
    file: BufReader<File>,
    inode: u64,
    rest: Vec<u8>,
}

impl Reader {
    fn open(directory: &Path) -> std::io::Result<Self> {
        let file = File::open(directory.join(LOG))?;
        Ok(Self {
            inode: file.metadata()?.ino(),
            file: BufReader::new(file),
            rest: Vec::new(),
        })
    }

    fn old(directory: &Path) -> Option<Self> {
        let file = File::open(directory.join(OLD_LOG)).ok()?;
        Some(Self {
            inode: 0,
            file: BufReader::new(file),
            rest: Vec::new(),
        })
    }

    /// All whole lines from here on.
    fn entries(&mut self) -> Vec<Entry> {
        let mut list = Vec::new();
        loop {
            match self.file.by_ref().read_until(b'\n', &mut self.rest) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Ok(count) if count > 0 && self.rest.ends_with(b"\n") => {
                    list.extend(parse(&self.rest[..self.rest.len() - 1]));
                    self.rest.clear();
                }
                _ => return list,
            }
        }
    }

    /// The log that took this one's place.
    fn next(&self, directory: &Path) -> Option<Self> {
        let next = Self::open(directory).ok()?;
        (next.inode != self.inode).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(lines: &[&str]) -> Vec<Entry> {
        lines
            .iter()
            .map(|line| parse(line.as_bytes()).unwrap())
            .collect()
    }

    #[test]
    fn the_parts_of_a_line_are_one() {
        let log = entries(&[
            "t stdout F one",
            "t stdout P tw",
            "t stderr F x",
            "t stdout F o",
            "t stdout P thr",
        ]);
        assert_eq!(begin_of_tail(&log, 1), 4);
        assert_eq!(begin_of_tail(&log, 2), 3);
        assert_eq!(begin_of_tail(&log, 0), 5);
        assert_eq!(begin_of_tail(&log, 9), 0);
        assert!(parse(b"t stdin F x").is_none() && parse(b"no").is_none() && parse(b"").is_none());
    }
}
