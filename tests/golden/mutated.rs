//! Bad input: for every changed config the planner returns a plan or a clear error, and never
//! panics; and init can decode the steps of every plan.

use crate::barriers;
use crate::cases::{self, Bundle};
use crate::fields::full_document;
use crate::hosts::{ALL, Host};
use hull::compile::{CreateOptions, request};
use hull::plan::plan;
use hull::spec::Spec;
use serde_json::{Value, json};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// xorshift64*: the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as usize % limit.max(1)
    }
}

/// Values of every type, at the limits of their ranges, and strings that have a meaning in some
/// fields.
fn wrong_values() -> Vec<Value> {
    let deep = (0..100).fold(json!(1), |value, _| json!([value]));
    let strings = [
        "",
        "\0",
        "a\0b",
        "/",
        "..",
        "../../..",
        "/proc/self/exe",
        "SCMP_ACT_ALLOW",
        "rbind",
        "%s",
        "-1",
        "🐚\n\u{7f}",
    ];
    let numbers = [
        json!(-1),
        json!(0),
        json!(1),
        json!(4_294_967_296_u64),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e300),
        json!(0.5),
    ];
    let others = [
        Value::Null,
        json!(true),
        json!(false),
        json!([]),
        json!({}),
        json!([null]),
        json!([""]),
        json!([{}]),
        json!({"": {}}),
        deep,
    ];
    let long = json!("x".repeat(5000));
    strings
        .iter()
        .map(|text| json!(text))
        .chain(numbers)
        .chain(others)
        .chain([long])
        .collect()
}

/// The JSON pointers of all values in a document.
fn pointers(value: &Value, path: &str, out: &mut Vec<String>) {
    out.push(path.to_owned());
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            pointers(
                value,
                &format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")),
                out,
            )
        }),
        // Further items of a list are like the first two.
        Value::Array(items) => items
            .iter()
            .take(2)
            .enumerate()
            .for_each(|(at, value)| pointers(value, &format!("{path}/{at}"), out)),
        _ => {}
    }
}

/// Removes a key or an item, or doubles an item.
fn restructure(document: &mut Value, pointer: &str, twice: bool) {
    let Some((parent, last)) = pointer.rsplit_once('/') else {
        return;
    };
    match document.pointer_mut(parent) {
        Some(Value::Object(map)) => {
            map.remove(&last.replace("~1", "/").replace("~0", "~"));
        }
        Some(Value::Array(items)) => {
            let at: usize = last.parse().unwrap();
            match (items.get(at).cloned(), twice) {
                (Some(item), true) => items.push(item),
                (Some(_), false) => drop(items.remove(at)),
                _ => {}
            }
        }
        _ => {}
    }
}

/// The results for the documents.
#[derive(Default)]
struct Outcomes {
    planned: usize,
    refused: usize,
    wrong: Vec<String>,
    /// The error of the last document.
    last: String,
}

impl Outcomes {
    /// Loads, validates and plans one document as `create` does.
    fn take(&mut self, bundle: &Bundle, text: &[u8], host: Host, what: &str) {
        std::fs::write(bundle.0.join("config.json"), text).unwrap();
        let tried = catch_unwind(AssertUnwindSafe(|| {
            let spec = Spec::load(&bundle.0)?;
            let facts = host.facts(spec.config());
            let plan = plan(
                &spec,
                &facts,
                &request(
                    &bundle.store(),
                    &spec,
                    &facts,
                    "c1",
                    &CreateOptions::default(),
                )?,
            )?;
            barriers::check(&plan, what);
            Ok::<(), hull::Error>(())
        }));
        match tried {
            Ok(Ok(())) => self.planned += 1,
            Ok(Err(error)) => {
                self.refused += 1;
                let words = error.to_string();
                if words.is_empty()
                    || words.contains('\n')
                    || words.contains('\0')
                    || words.len() > 6000
                {
                    self.wrong.push(format!(
                        "{what}: not a clear error: {:?}",
                        words.chars().take(300).collect::<String>()
                    ));
                }
                self.last = words;
            }
            Err(panic) => {
                let words = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                self.wrong
                    .push(format!("{what}: panic: {}", words.unwrap_or_default()));
            }
        }
    }

    fn finish(self) {
        println!("{} planned, {} refused", self.planned, self.refused);
        assert!(
            self.wrong.is_empty(),
            "{} documents:\n{}",
            self.wrong.len(),
            self.wrong
                .iter()
                .take(40)
                .cloned()
                .collect::<Vec<_>>()
                .join("\n")
        );
        assert!(
            self.planned > 50 && self.refused > 50,
            "{} planned and {} refused: the changes should lead to both",
            self.planned,
            self.refused
        );
    }
}

/// Keeps three rules of the seccomp filter, which is compiled for each document.
fn shorten_filter(document: &mut Value) {
    if let Some(Value::Array(rules)) = document.pointer_mut("/linux/seccomp/syscalls") {
        rules.truncate(3);
        rules
            .iter_mut()
            .for_each(|rule| rule["names"].as_array_mut().unwrap().truncate(3));
    }
}

/// A document with as many sections as one plan can have.
fn rich_document() -> Value {
    let mut rich: Value = serde_json::from_str(
        &cases::configs()
            .into_iter()
            .find(|case| case.name == "docker-run-limits")
            .unwrap()
            .text,
    )
    .unwrap();
    let full = full_document();
    rich["root"] = json!({ "path": "rootfs", "readonly": true });
    rich["annotations"] = json!({ "org.systemd.property.TimeoutStopUSec": "uint64 1", "run.oci.keep_original_groups": "1" });
    rich["hooks"] = json!({ "prestart": [], "createRuntime": [], "createContainer": [], "startContainer": [], "poststart": [], "poststop": [] });
    for list in [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
        "poststop",
    ] {
        rich["hooks"][list] =
            json!([{ "path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 5 }]);
    }
    rich["vm"] = full["vm"].clone();
    let process = &mut rich["process"];
    process["terminal"] = json!(true);
    process["consoleSize"] = json!({ "height": 10, "width": 20 });
    process["ioPriority"] = json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 4 });
    process["scheduler"] =
        json!({ "policy": "SCHED_BATCH", "nice": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"] });
    process["execCPUAffinity"] = json!({ "initial": "0-1", "final": "1" });
    process["user"] =
        json!({ "uid": 1, "gid": 2, "umask": 18, "additionalGids": [3, 4], "username": "x" });
    let linux = &mut rich["linux"];
    linux["personality"] = json!({ "domain": "LINUX", "flags": [] });
    linux["memoryPolicy"] =
        json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"] });
    linux["netDevices"] = json!({ "eth9": { "name": "eth0" } });
    linux["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "type": "time" }));
    linux["timeOffsets"] = json!({ "monotonic": { "secs": 1, "nanosecs": 2 }, "boottime": { "secs": 3, "nanosecs": 4 } });
    linux["resources"]["unified"] = json!({ "memory.high": "max" });
    linux["rootfsPropagation"] = json!("rprivate");
    linux["devices"] = json!([{ "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0 }]);
    rich
}

/// Every field of a rich document with every wrong value, removed, and doubled.
// Attack: bad input
#[test]
fn every_field_with_every_value() {
    let bundle = Bundle::new("values");
    let mut rich = rich_document();
    shorten_filter(&mut rich);
    let mut outcomes = Outcomes::default();
    outcomes.take(
        &bundle,
        rich.to_string().as_bytes(),
        Host::RootUnified,
        "unchanged",
    );
    assert_eq!(
        (outcomes.planned, outcomes.wrong.len()),
        (1, 0),
        "the document itself is refused: {} {:?}",
        outcomes.last,
        outcomes.wrong
    );
    let mut all = Vec::new();
    pointers(&rich, "", &mut all);
    let values = wrong_values();
    for pointer in &all {
        for value in &values {
            let mut document = rich.clone();
            *document.pointer_mut(pointer).unwrap() = value.clone();
            let short: String = value.to_string().chars().take(40).collect();
            outcomes.take(
                &bundle,
                document.to_string().as_bytes(),
                Host::RootUnified,
                &format!("{pointer} = {short}"),
            );
        }
        for twice in [false, true] {
            let mut document = rich.clone();
            restructure(&mut document, pointer, twice);
            let change = if twice { "doubled" } else { "removed" };
            outcomes.take(
                &bundle,
                document.to_string().as_bytes(),
                Host::RootUnified,
                &format!("{pointer} {change}"),
            );
        }
    }
    outcomes.finish();
}

/// Fields of one real config get values of others: each value is valid, but may contradict the
/// rest.
// Attack: bad input
#[test]
fn real_configs_mixed() {
    let bundle = Bundle::new("mixed");
    let mut random = Random(11);
    let mut documents: Vec<Value> = cases::configs()
        .iter()
        .map(|case| serde_json::from_str(&case.text).unwrap())
        .collect();
    documents.iter_mut().for_each(shorten_filter);
    let values = wrong_values();
    let mut outcomes = Outcomes::default();
    for round in 0..1500 {
        let mut document = documents[random.below(documents.len())].clone();
        document["root"]["path"] = json!("rootfs");
        for _ in 0..=random.below(3) {
            let other = &documents[random.below(documents.len())];
            let mut all = Vec::new();
            pointers(other, "", &mut all);
            let pointer = all[random.below(all.len())].clone();
            match (random.below(4), document.pointer_mut(&pointer)) {
                (0, Some(place)) => *place = values[random.below(values.len())].clone(),
                (1, Some(_)) => restructure(&mut document, &pointer, round % 2 == 0),
                (_, Some(place)) => *place = other.pointer(&pointer).unwrap().clone(),
                _ => {}
            }
        }
        if document.get("root").is_some_and(|root| root.is_object()) {
            document["root"]["path"] = json!("rootfs");
        }
        let host = ALL[random.below(ALL.len())];
        outcomes.take(
            &bundle,
            document.to_string().as_bytes(),
            host,
            &format!("round {round} as {}", host.name()),
        );
    }
    outcomes.finish();
}

/// Changes of the text itself: truncated, with changed bytes, deeply nested, with numbers beyond
/// any type.
// Attack: bad input
#[test]
fn text_that_is_hardly_json() {
    let bundle = Bundle::new("text");
    let mut random = Random(12);
    let mut outcomes = Outcomes::default();
    let text = cases::configs()
        .into_iter()
        .find(|case| case.name == "runc-spec")
        .unwrap()
        .text
        .into_bytes();
    for round in 0..1500 {
        let mut text = text.clone();
        let at = random.below(text.len());
        match random.below(4) {
            0 => text.truncate(at),
            1 => text[at] = random.below(256) as u8,
            2 => text[at] ^= 1 << random.below(8),
            _ => drop(text.splice(
                at..at,
                b"\"\\{[,:0".iter().copied().take(1 + random.below(7)),
            )),
        }
        outcomes.take(&bundle, &text, Host::RootHybrid, &format!("text {round}"));
    }
    let deep = |open: &str, close: &str| {
        format!(
            "{{\"ociVersion\":{}1{}}}",
            open.repeat(100_000),
            close.repeat(100_000)
        )
    };
    let huge = format!(
        "{{\"linux\":{{\"resources\":{{\"memory\":{{\"limit\":{}}}}}}}}}",
        "9".repeat(10_000)
    );
    for text in [
        deep("[", "]"),
        deep("{\"a\":", "}"),
        huge,
        String::new(),
        "\u{feff}{}".into(),
        "{}{}".into(),
        "null".into(),
        "[]".into(),
    ] {
        outcomes.take(
            &bundle,
            text.as_bytes(),
            Host::RootHybrid,
            &text.chars().take(40).collect::<String>(),
        );
    }
    outcomes.take(&bundle, &[0xff, 0xfe, 0], Host::RootHybrid, "no UTF-8");
    outcomes.finish();
}
