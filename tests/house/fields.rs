//! The table "field of config.json → file" of docs/design.md is what src/plan/fields.rs says, and
//! the functions that it names are there. `UPDATE_DOCS=1 cargo test --test house` writes it.

use crate::source::files;
use std::fmt::Write;
use std::path::Path;

const BEGIN: &str = "<!-- The fields of config.json: written by cargo test --test house. -->\n";
const END: &str = "<!-- End of the fields. -->";

/// One field, and where it is planned and executed: `FILE FUNCTION`, or `-`.
struct Row {
    field: String,
    planned: String,
    executed: String,
}

/// `maskedPaths` of `masked_paths`.
fn camel_case(name: &str) -> String {
    if name == "exec_cpu_affinity" {
        return "execCPUAffinity".into();
    }
    let mut parts = name.split('_');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(&part[..1].to_uppercase());
        out.push_str(&part[1..]);
    }
    out
}

/// Reads the structs that src/plan/fields.rs takes apart.
fn rows() -> Vec<Row> {
    let files = files();
    let file = files.iter().find(|file| file.name == "src/plan/fields.rs");
    let mut prefix = "";
    let mut rows = Vec::new();
    for line in file.unwrap().text.lines() {
        for (name, word) in [
            ("Config", ""),
            ("Process", "process."),
            ("Linux", "linux."),
            ("Hooks", "hooks."),
        ] {
            if line.trim() == format!("let {name} {{") {
                prefix = word;
            }
        }
        let Some((field, rest)) = line.trim().split_once(": _,") else {
            continue;
        };
        let Some(comment) = rest.trim().strip_prefix("// ") else {
            continue;
        };
        let (planned, executed) = comment.split_once(" | ").unwrap_or_else(|| {
            panic!("src/plan/fields.rs: {field}: the comment is not FILE FUNCTION | FILE FUNCTION")
        });
        rows.push(Row {
            field: format!("{prefix}{}", camel_case(field)),
            planned: planned.to_owned(),
            executed: executed.to_owned(),
        });
    }
    rows
}

/// `FILE FUNCTION` as the table has it.
fn place(text: &str) -> String {
    match text.split_once(' ') {
        Some((file, function)) => format!("`src/{file}` `{function}`"),
        None => "–".to_owned(),
    }
}

#[test]
fn each_field_is_where_the_table_says() {
    let files = files();
    let rows = rows();
    assert!(rows.len() > 35, "only {} fields are named", rows.len());
    let mut wrong = Vec::new();
    for row in &rows {
        for text in [&row.planned, &row.executed] {
            let Some((name, function)) = text.split_once(' ') else {
                continue;
            };
            let file = files.iter().find(|file| file.name == format!("src/{name}"));
            let signature = [format!("fn {function}("), format!("fn {function}<")];
            let has = |text: &str| signature.iter().any(|one| text.contains(one));
            if !file.is_some_and(|file| has(&file.text)) {
                wrong.push(format!("{}: src/{name} has no {function}", row.field));
            }
        }
    }
    crate::fail_on(wrong, "fields of config.json whose place is not there");
}

#[test]
fn the_table_of_fields_is_not_stale() {
    let mut table = String::from("| field | planned in | executed in |\n|---|---|---|\n");
    for row in rows() {
        let (planned, executed) = (place(&row.planned), place(&row.executed));
        let _ = writeln!(table, "| `{}` | {planned} | {executed} |", row.field);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/design.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let begin = text
        .find(BEGIN)
        .expect("docs/design.md has no table of fields")
        + BEGIN.len();
    let end = begin
        + text[begin..]
            .find(END)
            .expect("docs/design.md: the table has no end");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let new = format!("{}{table}{}", &text[..begin], &text[end..]);
        std::fs::write(&path, new).unwrap();
        return;
    }
    assert!(
        text[begin..end] == table,
        "docs/design.md: the table of fields is not as src/plan/fields.rs; UPDATE_DOCS=1 writes it"
    );
}
