//! The rules of the house (docs/design.md) that neither the compiler nor clippy holds: where
//! `unsafe` may stand,
//! which module may import which, and where each field of `config.json` is handled.

#![allow(clippy::unwrap_used, clippy::expect_used)] // test code

mod attacks;
mod fields;
mod imports;
mod source;

use source::{File, files};
use std::path::Path;

/// Files outside `src/sys` that may hold `unsafe`, each with the reason.
const UNSAFE: [(&str, &str); 2] = [
    (
        "tests/child/trap.rs",
        "GlobalAlloc is an unsafe trait; test code",
    ),
    (
        "tests/integration/support/raw.rs",
        "calls that rustix does not have; test code",
    ),
];

fn is_low(file: &File) -> bool {
    file.name.starts_with("src/sys/") || UNSAFE.iter().any(|(name, _)| file.name == *name)
}

fn fail_on(wrong: Vec<String>, rule: &str) {
    assert!(wrong.is_empty(), "{rule}:\n{}", wrong.join("\n"));
}

#[test]
fn the_sources_are_found() {
    let files = files();
    for name in [
        "src/main.rs",
        "src/plan/mod.rs",
        "src/sys/process.rs",
        "tests/house/main.rs",
    ] {
        assert!(
            files.iter().any(|file| file.name == name),
            "{name} is not among {} files",
            files.len()
        );
    }
}

#[test]
fn unsafe_stands_at_the_bottom_only() {
    let mut wrong = Vec::new();
    for file in files().iter().filter(|file| !is_low(file)) {
        let lines = file
            .code_lines()
            .filter(|(_, line)| source::has_word(line, "unsafe"));
        wrong.extend(lines.map(|(at, _)| format!("{}:{at}", file.name)));
    }
    fail_on(wrong, "unsafe outside src/sys");
}

/// Macros that hide `unsafe` and are used above, each with the file and the reason.
const HIDING: [(&str, &str, &str); 1] = [(
    "src/main.rs",
    "entry!",
    "the program's entry point has to be exported by the binary itself",
)];

/// A macro that is defined at the bottom and hides `unsafe` is used there only.
#[test]
fn no_macro_carries_unsafe_upward() {
    let files = files();
    let mut hiding = Vec::new();
    for file in files.iter().filter(|file| is_low(file)) {
        for definition in file.code().split("macro_rules! ").skip(1) {
            let name = definition.split([' ', '{']).next().unwrap_or_default();
            let end = definition.find("\n}").unwrap_or(definition.len());
            if source::has_word(&definition[..end], "unsafe") {
                hiding.push(format!("{name}!"));
            }
        }
    }
    let mut wrong = Vec::new();
    for file in files.iter().filter(|file| !is_low(file)) {
        for (at, line) in file.code_lines() {
            let known = |name: &str| {
                let mut known = HIDING.iter();
                known.any(|(place, one, _)| *place == file.name && *one == name)
            };
            if hiding
                .iter()
                .any(|name| line.contains(name) && !known(name))
            {
                wrong.push(format!("{}:{at}: {}", file.name, line.trim()));
            }
        }
    }
    fail_on(wrong, "unsafe that a macro hides outside src/sys");
}

/// The compiler holds it too: each module of the library but `sys` forbids it, and what lies below
/// a module cannot allow it again.
#[test]
fn modules_forbid_unsafe() {
    let files = files();
    let text = |name: &str| {
        files
            .iter()
            .find(|file| file.name == name)
            .map(|file| file.text.clone())
    };
    let mut wrong = Vec::new();
    for line in text("src/lib.rs").unwrap().lines() {
        let Some(module) = line
            .strip_prefix("pub mod ")
            .and_then(|rest| rest.strip_suffix(';'))
        else {
            continue;
        };
        if module == "sys" {
            continue;
        }
        let found = text(&format!("src/{module}.rs"))
            .or_else(|| text(&format!("src/{module}/mod.rs")))
            .unwrap();
        if !found.contains("\n#![forbid(unsafe_code)]\n") {
            wrong.push(module.to_owned());
        }
    }
    fail_on(wrong, "modules without #![forbid(unsafe_code)]");
}

#[test]
fn nothing_is_left_for_later() {
    let mut wrong = Vec::new();
    for file in files() {
        for (at, line) in file.code_lines() {
            if ["todo!", "unimplemented!", "dbg!"]
                .iter()
                .any(|word| line.contains(word))
            {
                wrong.push(format!("{}:{at}: {}", file.name, line.trim()));
            }
        }
        for (at, line) in file.text.lines().enumerate() {
            // Put together, so that this line is none of them.
            if ["TO", "FIX", "XX"]
                .iter()
                .zip(["DO", "ME", "X"])
                .any(|(a, b)| source::has_word(line, &format!("{a}{b}")))
            {
                wrong.push(format!("{}:{}: {}", file.name, at + 1, line.trim()));
            }
        }
    }
    fail_on(wrong, "left for later");
}

/// What clippy and the compiler hold: turned on, and nowhere turned off but in test code.
#[test]
fn lints_are_on() {
    let manifest =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    for lint in [
        "missing_docs",
        "undocumented_unsafe_blocks",
        "too_many_lines",
        "unwrap_used",
        "expect_used",
    ] {
        assert!(
            manifest.contains(&format!("\n{lint} = ")),
            "the lint {lint} is not in Cargo.toml"
        );
    }
    let held = [
        "clippy::too_many_lines",
        "clippy::unwrap_used",
        "clippy::expect_used",
        "clippy::undocumented_unsafe_blocks",
        "unsafe_code",
    ];
    let mut wrong = Vec::new();
    for file in files()
        .iter()
        .filter(|file| file.name.starts_with("src/") && !file.name.contains("/tests"))
    {
        for (at, line) in file
            .code_lines()
            .filter(|(_, line)| line.contains("allow("))
        {
            if held.iter().any(|lint| line.contains(lint)) {
                wrong.push(format!("{}:{at}: {}", file.name, line.trim()));
            }
        }
    }
    fail_on(wrong, "lints that are turned off");
}
