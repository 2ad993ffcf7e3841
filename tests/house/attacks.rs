//! The table of docs/threat-model.md: which rule holds which attack off, and which test attacks the
//! rule. A test says so in the line above it, `// Attack: KNOWN AS[, KNOWN AS]`; the rules are
//! here. `UPDATE_DOCS=1 cargo test --test house` writes the table.

use crate::source::{File, files};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

const BEGIN: &str = "<!-- Rules and tests: written by cargo test --test house. -->\n";
const END: &str = "<!-- End of rules and tests. -->";

/// What a test begins its comment with. Put together, so that this line is none.
const MARK: &str = concat!("// Attack", ": ");

/// Each attack, as the tests name it, with others of its kind and the rule against it.
const RULES: [(&str, &str, &str); 32] = [
    (
        "CVE-2016-9962",
        "",
        "a process that joins a container is not dumpable before its first setns(2); a created one is dumpable only until its id maps are written",
    ),
    (
        "CVE-2019-5736",
        "",
        "hull creates and enters containers from a binary on a filesystem that is mounted read-only as a whole, or from a sealed memfd; `/proc/self/exe` never leads to a writable file of the host",
    ),
    (
        "CVE-2019-14271",
        "",
        "no process with the host's rights loads a library or configuration from the image",
    ),
    (
        "CVE-2019-19921",
        "CVE-2019-16884, CVE-2023-27561, CVE-2023-28642",
        "only known files may be mounted over `/proc`, and `/proc` may not be a symbolic link; hull writes kernel parameters and labels below the host's own procfs, by descriptor",
    ),
    (
        "CVE-2019-18837",
        "CVE-2021-30465, CVE-2024-45310",
        "every mount target is resolved by openat2(2) inside the root and created by descriptor; in `races`, another process exchanges directories for links meanwhile",
    ),
    (
        "CVE-2021-43784",
        "",
        "lengths in the encoded plan are checked against the bytes that remain",
    ),
    (
        "CVE-2022-29162",
        "CVE-2022-24769, CVE-2022-27650",
        "inheritable capabilities are those of the config, and empty by default",
    ),
    (
        "CVE-2023-25809",
        "",
        "`/sys/fs/cgroup` is read-only unless the config asks for more",
    ),
    (
        "CVE-2024-21626",
        "",
        "every descriptor except those given is closed before the program is looked up; the working directory must have a name inside the root",
    ),
    (
        "CVE-2025-24965",
        "",
        "the VM backend writes nothing into the bundle",
    ),
    (
        "CVE-2025-31133",
        "",
        "hull checks that the file that masks another is the null device",
    ),
    (
        "CVE-2025-52565",
        "",
        "the terminal's peer is opened and mounted by descriptor; no test exchanges the pts meanwhile",
    ),
    (
        "CVE-2025-52881",
        "",
        "sysctls and labels are written through a procfs descriptor that no mount of the container can shadow; no test races a mount at create",
    ),
    (
        "CVE-2026-41579",
        "CVE-2026-47766, CVE-2026-88264, CVE-2026-88265",
        "a `/dev` in the image that is a symbolic link or whose nodes are symbolic links stays inside the root",
    ),
    (
        "CVE-2026-30892",
        "",
        "`exec --user` takes numbers and nothing else",
    ),
    (
        "CVE-2026-84042",
        "",
        "an image's annotations can ask for more isolation and never for less, unless hull's own config names the annotation",
    ),
    (
        "CVE-2020-8558",
        "CVE-2021-27853, CVE-2021-27862",
        "a container cannot send packets for the host's loopback addresses, nor pass the address filter by VLAN tags ([network.md](network.md))",
    ),
    (
        "crun issue 2262",
        "",
        "no path is resolved again after a switch of namespaces, and no error is dropped",
    ),
    (
        "youki issue 2144",
        "",
        "the child calls nothing but the kernel between clone and execve: its allocator aborts",
    ),
    (
        "youki hang of run",
        "",
        "the end of the program is seen by pidfd, however early it comes",
    ),
    (
        "planted files",
        "",
        "what hull makes in a directory of everybody has a name that cannot be known beforehand and is made anew, through no link; a store of another user is refused",
    ),
    (
        "locks of others",
        "",
        "no lock of hull can be opened by another user",
    ),
    (
        "files without end",
        "",
        "files that an image or a container controls are read without waiting, up to a limit, and only if they are regular; holes stay holes, and what a checkpoint file unpacks to has to fit into the free space",
    ),
    (
        "cgroup.procs",
        "",
        "`unified` sets limits and moves no process",
    ),
    (
        "control characters",
        "",
        "names are checked where they enter, and what hull prints is escaped in one place (`src/error.rs`)",
    ),
    (
        "a hostile guest",
        "",
        "the share server reads and writes nothing outside the shares; the monitor buffers a bounded amount and depends on no behaviour of the guest",
    ),
    (
        "QEMU taken over by its guest",
        "",
        "QEMU has no capabilities, a root of its own and only the descriptors that it needs",
    ),
    (
        "death at any point",
        "",
        "hull records what it makes before it makes it, or undoes it by guards: after SIGKILL before any call that changes something, `delete --force` removes all",
    ),
    (
        "a full disk",
        "",
        "every failed write is an error with a message, and nothing is left behind",
    ),
    (
        "old kernels",
        "",
        "a system call that the kernel lacks is replaced, or named in the error",
    ),
    (
        "bad input",
        "",
        "each field of the config with each wrong value is a plan or an error, never a panic",
    ),
    (
        "posture",
        "",
        "what each process between create and the program's end may do and holds is compared with a golden text",
    ),
];

/// `hardening::NAME` for the integration suite, `NAME (FILE)` for another test.
fn shown(file: &File, name: &str) -> String {
    let suite = file.name.strip_prefix("tests/integration/");
    match suite.and_then(|rest| rest.strip_suffix(".rs")) {
        Some(module) => format!("`{module}::{name}`"),
        None => format!("`{name}` in `{}`", file.name),
    }
}

/// The tests of each attack; and the marks that stand above no test.
fn marked() -> (BTreeMap<String, Vec<String>>, Vec<String>) {
    let (mut tests, mut wrong) = (BTreeMap::<String, Vec<String>>::new(), Vec::new());
    for file in files() {
        let lines: Vec<&str> = file.text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let Some(attacks) = line.trim_start().strip_prefix(MARK) else {
                continue;
            };
            let mut below = lines[at + 1..].iter().map(|line| line.trim_start());
            let name = below
                .find(|line| !line.starts_with("#["))
                .and_then(|line| line.strip_prefix("fn ")?.split('(').next());
            let Some(name) = name else {
                wrong.push(format!("{}:{}: no test below", file.name, at + 1));
                continue;
            };
            for attack in attacks.split(", ") {
                let known = tests.entry(attack.to_owned()).or_default();
                known.push(shown(&file, name));
            }
        }
    }
    (tests, wrong)
}

#[test]
fn each_rule_has_a_test_that_attacks_it() {
    let (tests, mut wrong) = marked();
    let without = RULES.iter().filter(|(name, ..)| !tests.contains_key(*name));
    wrong.extend(without.map(|(name, ..)| format!("{name}: no test attacks the rule")));
    let unknown = tests
        .keys()
        .filter(|name| !RULES.iter().any(|(known, ..)| known == name));
    wrong.extend(unknown.map(|name| format!("{name}: no rule in tests/house/attacks.rs")));
    crate::fail_on(wrong, "attacks and rules");
}

#[test]
fn the_table_of_attacks_is_not_stale() {
    let (tests, _) = marked();
    let mut table = String::from("| known as | rule | test |\n|---|---|---|\n");
    for (name, others, rule) in RULES {
        let names = if others.is_empty() {
            name.to_owned()
        } else {
            format!("{name}, {others}")
        };
        let tests = tests.get(name).map(|tests| tests.join(", "));
        let tests = tests.unwrap_or_default();
        let _ = writeln!(table, "| {names} | {rule} | {tests} |");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/threat-model.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let begin = text.find(BEGIN).expect("docs/threat-model.md has no table") + BEGIN.len();
    let end = begin + text[begin..].find(END).expect("the table has no end");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let new = format!("{}{table}{}", &text[..begin], &text[end..]);
        std::fs::write(&path, new).unwrap();
        return;
    }
    assert!(
        text[begin..end] == table,
        "docs/threat-model.md: the table is not as the tests' marks; UPDATE_DOCS=1 writes it"
    );
}
