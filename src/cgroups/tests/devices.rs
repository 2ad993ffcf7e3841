use crate::cgroups::devices::{ALL, Device, MKNOD, READ, Rules, Table, WRITE};
use crate::spec::config::DeviceRule;

fn rules(json: &str) -> crate::Result<Rules> {
    let list: Vec<DeviceRule> = serde_json::from_str(json).unwrap();
    Rules::new(&list)
}

fn table(json: &str) -> crate::Result<Table> {
    rules(json)?.table()
}

fn text(writes: Vec<(&'static str, String)>) -> Vec<String> {
    writes
        .into_iter()
        .map(|(file, value)| format!("{file} {value}"))
        .collect()
}

#[test]
fn the_usual_spec_denies_all_and_allows_the_default_devices() {
    let table = table(r#"[{"allow":false,"access":"rwm"}]"#).unwrap();
    assert_eq!(
        text(table.writes()),
        [
            "devices.deny a",
            "devices.allow b *:* m",
            "devices.allow c *:* m",
            "devices.allow c 1:3 rwm",
            "devices.allow c 1:5 rwm",
            "devices.allow c 1:7 rwm",
            "devices.allow c 1:8 rwm",
            "devices.allow c 1:9 rwm",
            "devices.allow c 5:0 rwm",
            "devices.allow c 5:2 rwm",
            "devices.allow c 10:200 rwm",
            "devices.allow c 136:* rwm",
        ]
    );
}

#[test]
fn no_rules_at_all_is_the_same_as_deny_all() {
    assert_eq!(table("[]").unwrap(), table(r#"[{"allow":false}]"#).unwrap());
}

#[test]
fn privileged_is_one_write() {
    assert_eq!(
        text(
            table(r#"[{"allow":false,"access":"rwm"},{"allow":true,"access":"rwm"}]"#)
                .unwrap()
                .writes()
        ),
        ["devices.allow a"]
    );
}

#[test]
fn a_later_rule_takes_back_what_an_earlier_one_gave() {
    let t = table(
        r#"[{"allow":true,"type":"c","major":10,"minor":228,"access":"rwm"},
        {"allow":false,"type":"c","major":10,"access":"w"}]"#,
    )
    .unwrap();
    assert_eq!(
        t.exceptions[&Device::char(Some(10), Some(228))],
        READ | MKNOD
    );
}

#[test]
fn a_hole_in_a_wider_rule_is_refused_for_v1_in_words() {
    let json = r#"[{"allow":true,"type":"c","major":10,"access":"rwm"},
        {"allow":false,"type":"c","major":10,"minor":228,"access":"rw"}]"#;
    let error = table(json).unwrap_err().to_string();
    assert!(
        error.contains("c 10:228 rw cannot be denied within c 10:* rwm"),
        "{error}"
    );
    // v2's program can hold it.
    assert_eq!(rules(json).unwrap().rules.len(), 13);
}

#[test]
fn default_allow_with_exceptions() {
    let t = table(
        r#"[{"allow":true,"access":"rwm"},
        {"allow":false,"type":"b","major":8,"minor":-1,"access":"rw"}]"#,
    )
    .unwrap();
    assert_eq!(
        text(t.writes()),
        ["devices.allow a", "devices.deny b 8:* rw"]
    );
}

#[test]
fn any_kind_with_numbers_is_both_kinds() {
    let r = rules(r#"[{"allow":true,"type":"a","major":7,"access":"r"}]"#).unwrap();
    assert_eq!(
        r.rules[..2].iter().map(|r| r.device).collect::<Vec<_>>(),
        [Device::block(Some(7), None), Device::char(Some(7), None)]
    );
}

#[test]
fn bad_rules_say_which_one() {
    for (json, words) in [
        (
            r#"[{"allow":true,"access":"r"},{"allow":true,"type":"x"}]"#,
            "linux.resources.devices[1]: invalid cgroup device type \"x\"",
        ),
        (
            r#"[{"allow":true,"access":"q"}]"#,
            "invalid device access \"q\"",
        ),
        (
            r#"[{"allow":true,"major":-2,"access":"r"}]"#,
            "invalid device number -2",
        ),
    ] {
        let error = rules(json).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn an_update_writes_the_difference_only_and_gives_before_it_takes() {
    let old =
        table(r#"[{"allow":true,"type":"c","major":10,"minor":228,"access":"rwm"}]"#).unwrap();
    let new = table(
        r#"[{"allow":true,"type":"c","major":10,"minor":228,"access":"r"},
        {"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]"#,
    )
    .unwrap();
    assert_eq!(
        text(new.writes_from(&old)),
        ["devices.allow c 10:229 rw", "devices.deny c 10:228 wm"]
    );
    assert!(new.writes_from(&new).is_empty());
}

#[test]
fn the_kernels_list_is_read() {
    let t = Table::parse("c *:* m\nc 1:3 rwm\nb 8:* rw\n").unwrap();
    assert_eq!(
        t.exceptions.into_iter().collect::<Vec<_>>(),
        [
            (Device::block(Some(8), None), READ | WRITE),
            (Device::char(None, None), MKNOD),
            (Device::char(Some(1), Some(3)), ALL),
        ]
    );
    assert!(Table::parse("a *:* rwm\n").unwrap().default_allow);
}

#[test]
fn letters_without_a_meaning_are_ignored_as_in_runc() {
    let r = rules(r#"[{"allow":true,"type":"c","major":7,"access":"rwa"}]"#).unwrap();
    assert_eq!(r.rules[0].access, READ | WRITE);
}
