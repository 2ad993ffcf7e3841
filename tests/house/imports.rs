//! The order of the top-level modules, and who imports whom.

use crate::source::{File, files};
use std::collections::{BTreeMap, BTreeSet};

/// The top-level modules, from the top down: each imports only from those below it.
///
/// | modules | what they are |
/// |---|---|
/// | `cli` | one file a command |
/// | `checkpoint`, `adhoc`, `container` | a container's life, saved and restored, made from flags |
/// | `guest`, `vm` | VMs: the guest's half, the host's half |
/// | `backend` | the one executor of host steps, and the namespace backend |
/// | `compile`, `state`, `plan` | from bundle to plan; the record |
/// | `init` | the one executor of container steps |
/// | `rootfs` to `stdio` | the subjects: planning half beside executing half |
/// | `step`, `net` | the language of plans; hull's own networks |
/// | `features`, `facts`, `binfmt` | what the host can do |
/// | `security` to `settings` | filters, masks and labels; resource control; the store |
/// | `spec`, `sys`, `error` | the config; system calls; errors |
pub const FLOORS: [&str; 33] = [
    "main",
    "cli",
    "checkpoint",
    "adhoc",
    "container",
    "guest",
    "vm",
    "backend",
    "compile",
    "state",
    "plan",
    "init",
    "rootfs",
    "namespaces",
    "process",
    "hooks",
    "foreign",
    "stdio",
    "step",
    "net",
    "features",
    "facts",
    "binfmt",
    "security",
    "cgroups",
    "store",
    "log",
    "settings",
    "spec",
    "sys",
    "error",
    "lib",
    "tests",
];

fn floor(module: &str) -> usize {
    let place = FLOORS.iter().position(|name| *name == module);
    place.unwrap_or_else(|| panic!("src/{module} is not in the list of floors"))
}

/// `src/a/b.rs` and `src/a/b/mod.rs` as `["a", "b"]`.
fn module(name: &str) -> Vec<String> {
    let path = name.trim_start_matches("src/").trim_end_matches(".rs");
    let mut parts: Vec<String> = path.split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

fn is_test(file: &File) -> bool {
    file.name.contains("/tests") || file.name.ends_with("/tests.rs")
}

/// The library's files, by module.
fn library() -> BTreeMap<Vec<String>, File> {
    let sources = files().into_iter();
    let sources = sources.filter(|file| file.name.starts_with("src/") && !is_test(file));
    sources.map(|file| (module(&file.name), file)).collect()
}

/// The code without its inline tests.
fn code(file: &File) -> &str {
    let code = file.code();
    code.find("#[cfg(test)]\nmod tests")
        .map_or(code, |at| &code[..at])
}

/// Every path that begins with `crate`, `super` or `self`, those in braces one by one, as
/// the file means it.
fn paths(module: &[String], code: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            let (trees, _) = tree(&code[at..]);
            found.extend(
                trees
                    .into_iter()
                    .map(|path| (line, absolute(module, &path))),
            );
        }
    }
    found
}

/// The paths of a use tree at the beginning of a text, and where it ends.
fn tree(text: &str) -> (Vec<Vec<String>>, usize) {
    let mut prefix = Vec::new();
    let mut at = 0;
    loop {
        let rest = &text[at..];
        if rest.starts_with('{') {
            let mut all = Vec::new();
            at += 1;
            while !text[at..].starts_with('}') {
                let skipped = text[at..].find(|c: char| !c.is_whitespace() && c != ',');
                at += skipped.unwrap_or(0);
                if text[at..].starts_with('}') {
                    break;
                }
                let (inner, length) = tree(&text[at..]);
                let joined = |path: Vec<String>| [prefix.clone(), path].concat();
                all.extend(inner.into_iter().map(joined));
                at += length.max(1);
            }
            return (all, at + 1);
        }
        let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_'));
        let length = length.unwrap_or(rest.len());
        prefix.push(rest[..length].to_owned());
        at += length;
        match text[at..].strip_prefix("::") {
            Some(next) if next.starts_with(|c: char| c.is_alphabetic() || "{_".contains(c)) => {
                at += 2;
            }
            _ => return (vec![prefix], at),
        }
    }
}

fn absolute(module: &[String], path: &[String]) -> Vec<String> {
    let mut base = module.to_vec();
    let mut rest = path;
    match path.first().map(String::as_str) {
        Some("crate") => (base, rest) = (Vec::new(), &path[1..]),
        Some("self") => rest = &path[1..],
        _ => {
            while let Some("super") = rest.first().map(String::as_str) {
                base.pop();
                rest = &rest[1..];
            }
        }
    }
    [base, rest.to_vec()].concat()
}

#[test]
fn no_import_runs_upward() {
    let library = library();
    let mut wrong = Vec::new();
    for (module, file) in &library {
        let own = &module[0];
        if own == "lib" {
            continue;
        }
        for (line, path) in paths(module, code(file)) {
            let Some(top) = path
                .first()
                .filter(|top| library.contains_key(&vec![(*top).clone()]))
            else {
                continue;
            };
            if floor(top) < floor(own) {
                wrong.push(format!("{}:{line}: {}", file.name, path.join("::")));
            }
        }
    }
    crate::fail_on(wrong, "imports from above");
}

/// Files of one directory may name each other where that is said here with its reason; files of
/// different top-level modules cannot, as no import runs upward.
const CIRCLES: [(&str, &str); 0] = [];

#[test]
fn no_files_import_each_other_in_a_circle() {
    let library = library();
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (module, file) in &library {
        for (_, path) in paths(module, code(file)) {
            let target = (1..=path.len()).rev().find_map(|n| library.get(&path[..n]));
            if let Some(target) = target.filter(|target| target.name != file.name) {
                edges.entry(&file.name).or_default().insert(&target.name);
            }
        }
    }
    let mut wrong = Vec::new();
    for file in edges.keys().copied() {
        let reached = reach(&edges, file);
        if reached.contains(file) && !CIRCLES.iter().any(|(known, _)| *known == file) {
            let back = reached
                .iter()
                .filter(|other| reach(&edges, other).contains(file));
            let back: Vec<&str> = back.copied().collect();
            wrong.push(format!("{file}: {}", back.join(" ")));
        }
    }
    crate::fail_on(wrong, "files that import each other in a circle");
}

/// Every file to which imports lead from one.
fn reach<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>, from: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&str> = edges.get(from).into_iter().flatten().copied().collect();
    while let Some(file) = next.pop() {
        if reached.insert(file) {
            next.extend(edges.get(file).into_iter().flatten().copied());
        }
    }
    reached
}

#[test]
fn paths_are_read() {
    let code = "use crate::{Error, a::{self, b::C}};\nfn f() { super::x::y(); self::z }";
    let module = ["m".to_owned(), "n".to_owned()];
    let found: Vec<String> = paths(&module, code)
        .into_iter()
        .map(|(line, path)| format!("{line} {}", path.join("::")))
        .collect();
    assert_eq!(
        found,
        [
            "1 Error",
            "1 a::self",
            "1 a::b::C",
            "2 m::x::y",
            "2 m::n::z"
        ]
    );
}
