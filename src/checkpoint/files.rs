//! Files of the host that are a container's stdin, stdout or stderr. At restore the caller's own
//! stand in for them, whatever has become of the old ones: so criu's images must not say how long
//! such a file is, what mode it has, nor where in it to go on.
//!
//! `files.img` is two magic numbers and then, for each open file, a length and a `file_entry`
//! (criu's `images/fdinfo.proto` and `regfile.proto`); only the fields that are named here are
//! touched, all others are copied as they are.

use super::images;
use crate::{Context, Error, Result};
use prost::encoding::{decode_varint, encode_varint};
use std::path::Path;

const IMAGE: &str = "files.img";
/// `IMG_COMMON_MAGIC` and `FILES_MAGIC`.
const MAGIC: [u32; 2] = [0x5456_4319, 0x5630_3138];
/// `file_entry.reg`.
const REGULAR: u64 = 3;
/// `reg_file_entry.flags`, as of open(2).
const FLAGS: u64 = 2;
/// `reg_file_entry.pos`; all ones is none.
const POSITION: u64 = 3;
/// `reg_file_entry.name`: the key, where the file is an external one.
const NAME: u64 = 6;
/// `reg_file_entry.size`.
const SIZE: u64 = 8;
/// `reg_file_entry.mode`.
const MODE: u64 = 10;

/// One field of a message (protocol buffers, Encoding).
pub struct Field<'a> {
    /// Its number.
    pub number: u64,
    /// As it stands in the message, tag and all.
    whole: &'a [u8],
    /// Of a number.
    value: u64,
    /// Of bytes.
    pub bytes: &'a [u8],
}

/// The message's fields; none where it is not well formed.
pub fn fields(message: &[u8]) -> Option<Vec<Field<'_>>> {
    let (mut rest, mut found) = (message, Vec::new());
    while !rest.is_empty() {
        let begin = rest;
        let tag = decode_varint(&mut rest).ok()?;
        let (mut value, mut bytes) = (0, &message[..0]);
        match tag & 7 {
            0 => value = decode_varint(&mut rest).ok()?,
            1 => rest = rest.get(8..)?,
            2 => {
                let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
                (bytes, rest) = rest.split_at_checked(length)?;
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
        found.push(Field {
            number: tag >> 3,
            whole: &begin[..begin.len() - rest.len()],
            value,
            bytes,
        });
    }
    Some(found)
}

/// Where a file was read, which goes on there: the number of the stream, and the position in bytes.
pub type ReadAt = (i32, u64);

/// Loosens the files of these keys in the images from what they were. Answers where those that are
/// only read from were.
///
/// # Errors
/// The image cannot be read or written, or is none of criu's.
pub fn loosen(directory: &Path, keys: &[(String, i32)]) -> Result<Vec<ReadAt>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let path = directory.join(IMAGE);
    let image = std::fs::read(&path).on("read", path.display())?;
    let (out, read) = loosened(&image, keys).ok_or_else(|| {
        Error::new(format!(
            "{} is no image of open files that hull knows",
            path.display()
        ))
    })?;
    images::write_private(&path, &out)?;
    Ok(read)
}

fn loosened(image: &[u8], keys: &[(String, i32)]) -> Option<(Vec<u8>, Vec<ReadAt>)> {
    let word = |at: usize| {
        image
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_le_bytes)
    };
    if [word(0)?, word(4)?] != MAGIC {
        return None;
    }
    let (mut out, mut read, mut at) = (image[..8].to_vec(), Vec::new(), 8);
    while at < image.len() {
        let length = word(at)? as usize;
        let entry = image.get(at + 4..at + 4 + length)?;
        at += 4 + length;
        let mut new = Vec::with_capacity(length + 8);
        for field in fields(entry)? {
            let known = if field.number == REGULAR {
                of_keys(field.bytes, keys)?
            } else {
                None
            };
            let Some(stream) = known else {
                new.extend(field.whole);
                continue;
            };
            let (file, position) = without_state(field.bytes)?;
            encode_varint(REGULAR << 3 | 2, &mut new);
            encode_varint(file.len() as u64, &mut new);
            new.extend(file);
            read.extend(position.map(|position| (stream, position)));
        }
        out.extend(u32::try_from(new.len()).ok()?.to_le_bytes());
        out.extend(new);
    }
    Some((out, read))
}

/// Which stream a regular file is, if it is one of the keys'.
fn of_keys(file: &[u8], keys: &[(String, i32)]) -> Option<Option<i32>> {
    let fields = fields(file)?;
    let name = fields
        .iter()
        .find(|field| field.number == NAME)
        .map(|field| field.bytes);
    Some(
        keys.iter()
            .find(|(key, _)| name == Some(key.as_bytes()))
            .map(|(_, stream)| *stream),
    )
}

/// The file without size, mode and position, and the position if it is only read from.
fn without_state(file: &[u8]) -> Option<(Vec<u8>, Option<u64>)> {
    let (mut out, mut position, mut flags) = (Vec::with_capacity(file.len() + 8), 0, 0);
    for field in fields(file)? {
        match field.number {
            SIZE | MODE => {}
            POSITION => {
                position = field.value;
                encode_varint(POSITION << 3, &mut out);
                encode_varint(u64::MAX, &mut out);
            }
            number => {
                if number == FLAGS {
                    flags = field.value as i32;
                }
                out.extend(field.whole);
            }
        }
    }
    Some((
        out,
        (flags & libc::O_ACCMODE == libc::O_RDONLY).then_some(position),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `reg_file_entry`: id 1, flags, pos, name, size, mode.
    fn regular(name: &str, flags: u8, position: u8) -> Vec<u8> {
        let mut file = vec![0x08, 1, 0x10, flags, 0x18, position, 0x32, name.len() as u8];
        file.extend(name.as_bytes());
        file.extend([0x40, 99, 0x50, 0xa4, 0x83, 0x02]);
        file
    }

    fn image(files: &[Vec<u8>]) -> Vec<u8> {
        let mut image: Vec<u8> = MAGIC.iter().flat_map(|word| word.to_le_bytes()).collect();
        for file in files {
            let entry = [&[0x08, 1, 0x10, 7, 0x1a, file.len() as u8], &file[..]].concat();
            image.extend((entry.len() as u32).to_le_bytes());
            image.extend(entry);
        }
        image
    }

    #[test]
    fn only_the_named_files_lose_their_state() {
        let keys = [("file[1:2]".to_owned(), 1), ("file[1:3]".to_owned(), 0)];
        let before = image(&[
            regular("/etc/passwd", 0, 5),
            regular("file[1:2]", 1, 6),
            regular("file[1:3]", 0, 7),
        ]);
        let (after, read) = loosened(&before, &keys).unwrap();
        assert_eq!(read, [(0, 7)]);
        let loose = |name: &str, flags: u8| {
            let mut file = vec![0x08, 1, 0x10, flags, 0x18];
            encode_varint(u64::MAX, &mut file);
            file.extend([0x32, name.len() as u8]);
            file.extend(name.as_bytes());
            file
        };
        assert_eq!(
            after,
            image(&[
                regular("/etc/passwd", 0, 5),
                loose("file[1:2]", 1),
                loose("file[1:3]", 0)
            ])
        );
    }

    #[test]
    fn what_is_no_such_image_is_refused() {
        let whole = image(&[regular("file[1:2]", 1, 6)]);
        let keys = [("file[1:2]".to_owned(), 1)];
        for bad in [&whole[..4], &whole[..20], &[0; 16]] {
            assert!(loosened(bad, &keys).is_none());
        }
    }
}
