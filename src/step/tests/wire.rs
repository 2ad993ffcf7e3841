//! Encoded steps are decoded to the same steps, and malformed bytes are an error: never a panic,
//! and never a field that reaches beyond the bytes (CVE-2021-43784 was an overflowing length in a
//! runtime's encoded bootstrap).

use crate::step::child::Buffers;
use crate::step::container::{Step, StepRef};
use crate::step::tests::Random;
use crate::step::wire::{Bytes, Field, Malformed, Reader, Str, Strs, U32s};

fn encode(steps: &[Step]) -> Vec<u8> {
    let mut bytes = Vec::new();
    steps.iter().for_each(|step| step.put(&mut bytes));
    bytes
}

fn decode(bytes: &[u8]) -> Result<Vec<Step>, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut steps = Vec::new();
    while !reader.is_empty() {
        steps.push(StepRef::get(&mut reader)?.own());
    }
    Ok(steps)
}

fn shuffled(random: &mut Random) -> Vec<Step> {
    let mut steps = Step::any_of_each(random);
    for at in (1..steps.len()).rev() {
        steps.swap(at, random.below(at + 1));
    }
    steps
}

// Attack: CVE-2021-43784
#[test]
fn every_step_is_decoded_as_it_was_encoded() {
    let mut random = Random::new(1);
    for _ in 0..300 {
        let steps = shuffled(&mut random);
        let bytes = encode(&steps);
        assert_eq!(decode(&bytes), Ok(steps));
        assert!(Buffers::for_steps(&bytes).is_ok());
    }
}

#[test]
fn each_step_has_its_own_tag() {
    let steps = Step::any_of_each(&mut Random::new(2));
    let mut tags: Vec<u8> = steps
        .iter()
        .map(|step| encode(std::slice::from_ref(step))[0])
        .collect();
    tags.sort_unstable();
    tags.dedup();
    assert_eq!(tags.len(), steps.len());
}

/// Bytes that are cut within a step are malformed.
#[test]
fn truncated_steps() {
    let mut random = Random::new(3);
    for step in (0..8)
        .flat_map(|_| Step::any_of_each(&mut random))
        .collect::<Vec<_>>()
    {
        let bytes = encode(std::slice::from_ref(&step));
        for cut in (1..bytes.len()).take(600) {
            assert_eq!(
                decode(&bytes[..cut]),
                Err(Malformed),
                "{step:?} cut at {cut}"
            );
        }
    }
}

/// Bytes are changed, inserted and removed: the result is a list of steps or `Malformed`. The steps
/// that are decoded encode to the same bytes again, which shows that the decoder used every byte.
// Attack: CVE-2021-43784
#[test]
fn mutated_steps() {
    let mut random = Random::new(4);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..200 {
        let whole = encode(&shuffled(&mut random));
        for _ in 0..40 {
            let mut bytes = whole.clone();
            for _ in 0..=random.below(3) {
                mutate(&mut bytes, &mut random);
            }
            match decode(&bytes) {
                Ok(steps) if is_text(&bytes) => {
                    assert_eq!(encode(&steps), bytes);
                    read += 1;
                }
                Ok(_) => read += 1,
                Err(Malformed) => refused += 1,
            }
            assert_eq!(Buffers::for_steps(&bytes).is_ok(), decode(&bytes).is_ok());
        }
    }
    assert!(
        read > 100 && refused > 100,
        "{read} read, {refused} refused: the mutations do not reach both"
    );
}

/// Whether all strings are UTF-8. `own` replaces other bytes, so the steps would encode
/// differently.
fn is_text(bytes: &[u8]) -> bool {
    let mut reader = Reader::new(bytes);
    while !reader.is_empty() {
        match StepRef::get(&mut reader).map(StepRef::own) {
            Ok(step) if format!("{step:?}").contains(char::REPLACEMENT_CHARACTER) => return false,
            Ok(_) => {}
            Err(Malformed) => return false,
        }
    }
    true
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len());
    match random.below(5) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.number() as u8,
        2 => {
            bytes.remove(at);
        }
        3 => bytes.insert(at, random.number() as u8),
        // A length at its maximum.
        _ => bytes
            .iter_mut()
            .skip(at)
            .take(4)
            .for_each(|byte| *byte = 0xff),
    }
}

/// Random bytes.
#[test]
fn garbage() {
    let mut random = Random::new(5);
    for _ in 0..20_000 {
        let bytes = random.bytes();
        assert_eq!(Buffers::for_steps(&bytes).is_ok(), decode(&bytes).is_ok());
    }
}

/// Lengths and counts that overflow, or exceed the number of bytes left, are malformed.
#[test]
fn lengths_beyond_the_end() {
    for length in [
        1,
        2,
        3,
        4,
        5,
        0x3fff_ffff,
        0x4000_0000,
        0x7fff_ffff,
        0x8000_0000,
        u32::MAX - 1,
        u32::MAX,
    ] {
        let bytes = length.to_le_bytes();
        assert!(
            Bytes::get(&mut Reader::new(&bytes)).is_err(),
            "bytes of length {length}"
        );
        assert!(
            Str::get(&mut Reader::new(&bytes)).is_err(),
            "a string of length {length}"
        );
        assert!(
            Strs::get(&mut Reader::new(&bytes)).is_err(),
            "{length} strings"
        );
        assert!(
            U32s::get(&mut Reader::new(&bytes)).is_err(),
            "{length} numbers"
        );
    }
}

/// The kernel would read a string with a NUL byte shorter than it was validated.
#[test]
fn strings_end_where_they_say() {
    let read =
        |bytes: &[u8]| Str::get(&mut Reader::new(bytes)).map(|text| text.to_bytes().to_vec());
    assert_eq!(read(b"\x03\0\0\0abc\0"), Ok(b"abc".to_vec()));
    assert_eq!(read(b"\x03\0\0\0a\0c\0"), Err(Malformed));
    assert_eq!(read(b"\x03\0\0\0abcd"), Err(Malformed));
    assert_eq!(read(b"\x03\0\0\0abc"), Err(Malformed));
}
