//! Rust sources without their comments and strings.

use std::path::{Path, PathBuf};

/// One source file.
pub struct File {
    /// From the top of the tree.
    pub name: String,
    /// As it is.
    pub text: String,
    /// With blanks for comments, strings and characters; the lines are the same.
    code: String,
}

/// Every source of the tree: the library, its tests, the benches.
pub fn files() -> Vec<File> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for directory in ["src", "tests", "benches", "conformance"] {
        collect(&top.join(directory), &mut found);
    }
    found.sort();
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        let code = without_words(&text);
        File {
            name: path.strip_prefix(top).unwrap().to_str().unwrap().to_owned(),
            text,
            code,
        }
    };
    found.iter().map(read).collect()
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for path in entries.map(|entry| entry.unwrap().path()) {
        match path.file_name().and_then(|name| name.to_str()) {
            Some("target") => {}
            _ if path.is_dir() => collect(&path, found),
            Some(name) if name.ends_with(".rs") => found.push(path),
            _ => {}
        }
    }
}

/// Whether a line has a word that is not part of another.
pub fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part)
    })
}

impl File {
    /// The whole code.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The lines of code with their numbers.
    pub fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code
            .lines()
            .enumerate()
            .map(|(at, line)| (at + 1, line))
    }
}

/// Blanks for everything that is not code.
fn without_words(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => {
                text[at..].find('\n').map_or(bytes.len(), |n| at + n)
            }
            b'/' if bytes[at..].starts_with(b"/*") => {
                text[at..].find("*/").map_or(bytes.len(), |n| at + n + 2)
            }
            b'r' if !is_word(bytes, at) && raw_string(&bytes[at..]).is_some() => {
                at + raw_string(&bytes[at..]).unwrap()
            }
            b'"' => string_end(bytes, at),
            b'\'' => character_end(bytes, at),
            _ => at,
        };
        code[at..end]
            .iter_mut()
            .filter(|byte| **byte != b'\n')
            .for_each(|byte| *byte = b' ');
        at = end.max(at + 1);
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// Whether the byte continues a word; `br` begins a raw string too.
fn is_word(bytes: &[u8], at: usize) -> bool {
    at > 0
        && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
        && bytes[at - 1] != b'b'
}

/// How long the raw string is that begins here.
fn raw_string(bytes: &[u8]) -> Option<usize> {
    let marks = bytes[1..].iter().take_while(|byte| **byte == b'#').count();
    if bytes.get(1 + marks) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), &b"#".repeat(marks)].concat();
    let from = marks + 2;
    bytes[from..]
        .windows(close.len())
        .position(|window| window == close)
        .map(|n| from + n + close.len())
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// A character, or nothing where the quote begins a lifetime.
fn character_end(bytes: &[u8], start: usize) -> usize {
    match bytes[start + 1..] {
        [b'\\', ..] => bytes[start + 3..]
            .iter()
            .position(|byte| *byte == b'\'')
            .map_or(start, |n| start + 4 + n),
        [first, b'\'', ..] if first.is_ascii() => start + 3,
        [first, ..] if !first.is_ascii() => bytes[start + 1..]
            .iter()
            .take(6)
            .position(|byte| *byte == b'\'')
            .map_or(start, |n| start + 2 + n),
        _ => start,
    }
}

#[test]
fn words_are_taken_out() {
    let code = without_words(
        "let a = \"unsafe { \\\" \"; // todo!\nlet b = 'x'; let c: &'static str = r#\"fn \"f\" \
            {\"#; let d = '\\''; /* { */ fn f() {}\n",
    );
    assert!(
        !code.contains("unsafe")
            && !code.contains("todo")
            && code.contains("let b")
            && code.contains("&'static"),
        "{code}"
    );
    assert!(
        code.contains("fn f() {}") && code.matches('{').count() == 1,
        "{code}"
    );
}
