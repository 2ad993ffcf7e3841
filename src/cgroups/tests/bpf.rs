//! The program, run instruction by instruction, decides as the rules do.

use crate::cgroups::bpf::program;
use crate::cgroups::devices::{ALL, Device, Kind, MKNOD, READ, Rules, WRITE};
use crate::spec::config::DeviceRule;

/// Runs the few instructions that are used, as the kernel defines them
/// (Documentation/bpf/standardization/instruction-set.rst).
fn run(code: &[u64], kind: Kind, access: u8, major: u32, minor: u32) -> u64 {
    let kind = if kind == Kind::Block { 1u32 } else { 2 };
    let context = [kind | u32::from(access) << 16, major, minor];
    let mut r = [0u64; 11];
    let mut at = 0;
    for _ in 0..code.len() {
        let word = code[at];
        let (dst, src) = ((word >> 8 & 0xf) as usize, (word >> 12 & 0xf) as usize);
        let off = (word >> 16) as u16 as i16;
        let imm = (word >> 32) as u32;
        let wide = imm as i32 as i64 as u64;
        at += 1;
        match word as u8 {
            0x61 => {
                assert_eq!(src, 1, "only the context may be read");
                r[dst] = u64::from(context[off as usize / 4]);
            }
            0xbc => r[dst] = u64::from(r[src] as u32),
            0xb7 => r[dst] = wide,
            0x54 => r[dst] = u64::from(r[dst] as u32 & imm),
            0x74 => r[dst] = u64::from(r[dst] as u32 >> imm),
            0x55 if r[dst] != wide => at = (at as i64 + i64::from(off)) as usize,
            0x15 if r[dst] == wide => at = (at as i64 + i64::from(off)) as usize,
            0x55 | 0x15 => {}
            0x95 => return r[0],
            code => panic!("unknown instruction {code:#x}"),
        }
    }
    panic!("the program does not end");
}

/// What the rules mean: the last rule that matches decides on each access.
fn meaning(rules: &Rules, kind: Kind, access: u8, major: u32, minor: u32) -> bool {
    [READ, WRITE, MKNOD]
        .into_iter()
        .filter(|bit| access & bit != 0)
        .all(|bit| {
            let hit = rules.rules.iter().rev().find(|r| {
                let Device {
                    kind: k,
                    major: ma,
                    minor: mi,
                } = r.device;
                k == kind
                    && ma.is_none_or(|m| m == major)
                    && mi.is_none_or(|m| m == minor)
                    && r.access & bit != 0
            });
            hit.map_or(rules.default_allow, |r| r.allow)
        })
}

fn rules(json: &str) -> Rules {
    let list: Vec<DeviceRule> = serde_json::from_str(json).unwrap();
    Rules::new(&list).unwrap()
}

#[test]
fn the_program_means_what_the_rules_mean() {
    let lists = [
        "[]",
        r#"[{"allow":false}]"#,
        r#"[{"allow":true}]"#,
        r#"[{"allow":true},{"allow":false,"type":"b","major":8,"access":"w"}]"#,
        r#"[{"allow":true,"type":"c","major":10,"access":"rwm"},
            {"allow":false,"type":"c","major":10,"minor":200,"access":"rw"}]"#,
        r#"[{"allow":true,"type":"c","major":10,"minor":200,"access":"r"},
            {"allow":true,"type":"c","minor":200,"access":"w"}]"#,
        r#"[{"allow":true,"type":"a","major":8,"access":"r"},
            {"allow":false,"type":"b","minor":1,"access":"rm"},
            {"allow":true,"type":"b","major":8,"minor":1,"access":"m"}]"#,
    ];
    for list in lists {
        let rules = rules(list);
        let code = program(&rules);
        for kind in [Kind::Block, Kind::Char] {
            for access in 1..=ALL {
                for major in [0, 1, 5, 8, 10, 136, 4095] {
                    for minor in [0, 1, 3, 200, 1_048_575] {
                        let expected = meaning(&rules, kind, access, major, minor);
                        assert_eq!(
                            run(&code, kind, access, major, minor) == 1,
                            expected,
                            "{list} {kind:?} {major}:{minor} {access}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn null_may_be_used_and_a_disk_may_not() {
    let code = program(&rules(r#"[{"allow":false,"access":"rwm"}]"#));
    assert_eq!(run(&code, Kind::Char, READ | WRITE, 1, 3), 1);
    assert_eq!(run(&code, Kind::Block, READ, 8, 0), 0);
    assert_eq!(run(&code, Kind::Block, MKNOD, 8, 0), 1);
}
