//! The prefix of a filter that answers ENOSYS for calls newer than the profile.
//!
//! It has a section for each architecture of the filter, with forward jumps only:
//!
//! ```text
//!     load arch
//!     is it ARCH?            no: next section
//!     load number
//!     (x86_64) has it the x32 bit?
//!                            yes: compare with the last x32 call, if x32 is in the filter,
//!                                 else go to the filter
//!     above the last call?   yes: return ENOSYS, no: go to the filter
//!     ... next section ...
//! filter:
//! ```
//!
//! The last call is the one with the largest number that any rule names for that architecture.
//! Numbers below it that no rule names go to the filter.

use crate::spec::config::Seccomp;
use libseccomp::{ScmpArch, ScmpSyscall};

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const ABOVE: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const HAS_BITS: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;

/// `__X32_SYSCALL_BIT` of asm/unistd.h: x32 shares AUDIT_ARCH_X86_64 and is told apart by its
/// numbers.
const X32_BIT: u32 = 1 << 30;
/// AUDIT_ARCH_X86_64 and the two of s390, linux/audit.h.
const X86_64: u32 = 0xc000_003e;
const S390: u32 = 0x16;
const S390X: u32 = 0x8000_0016;

const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// The largest call that the profile names, for one value of `seccomp_data.arch`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Last {
    /// AUDIT_ARCH_*.
    arch: u32,
    number: Option<u32>,
    /// x86_64 only; with [`X32_BIT`].
    x32: Option<u32>,
}

/// The largest calls by architecture, in the order of `archs`. Rules of every action count, and
/// names that have no number on an architecture do not.
pub(super) fn last_calls(seccomp: &Seccomp, archs: &[ScmpArch]) -> Vec<Last> {
    let mut last: Vec<Last> = Vec::new();
    for &arch in archs {
        let number = seccomp
            .syscalls
            .iter()
            .flat_map(|entry| &entry.names)
            .filter_map(|name| ScmpSyscall::from_name_by_arch(name, arch).ok())
            // Negative: known, but not on this architecture.
            .filter_map(|call| u32::try_from(call.as_raw_syscall()).ok())
            .max();
        let token = if arch == ScmpArch::X32 {
            X86_64
        } else {
            audit_arch(arch)
        };
        let index = last
            .iter()
            .position(|l| l.arch == token)
            .unwrap_or_else(|| {
                last.push(Last {
                    arch: token,
                    number: None,
                    x32: None,
                });
                last.len() - 1
            });
        let slot = if arch == ScmpArch::X32 {
            &mut last[index].x32
        } else {
            &mut last[index].number
        };
        *slot = number;
    }
    last
}

/// AUDIT_ARCH_* of linux/audit.h: the number of elf.h (`EM_*`), and bits for 64 bits, little endian
/// and the n32 calling convention.
fn audit_arch(arch: ScmpArch) -> u32 {
    const WIDE: u32 = 0x8000_0000;
    const LITTLE: u32 = 0x4000_0000;
    const N32: u32 = 0x2000_0000;
    match arch {
        ScmpArch::Native => audit_arch(ScmpArch::native()),
        ScmpArch::X86 => 3 | LITTLE,
        ScmpArch::X8664 | ScmpArch::X32 => X86_64,
        ScmpArch::Arm => 40 | LITTLE,
        ScmpArch::Aarch64 => 183 | WIDE | LITTLE,
        ScmpArch::Loongarch64 => 258 | WIDE | LITTLE,
        ScmpArch::M68k => 4,
        ScmpArch::Mips => 8,
        ScmpArch::Mips64 => 8 | WIDE,
        ScmpArch::Mips64N32 => 8 | WIDE | N32,
        ScmpArch::Mipsel => 8 | LITTLE,
        ScmpArch::Mipsel64 => 8 | WIDE | LITTLE,
        ScmpArch::Mipsel64N32 => 8 | WIDE | LITTLE | N32,
        ScmpArch::Ppc => 20,
        ScmpArch::Ppc64 => 21 | WIDE,
        ScmpArch::Ppc64Le => 21 | WIDE | LITTLE,
        ScmpArch::S390 => S390,
        ScmpArch::S390X => S390X,
        ScmpArch::Parisc => 15,
        ScmpArch::Parisc64 => 15 | WIDE,
        ScmpArch::Riscv64 => 243 | WIDE | LITTLE,
        ScmpArch::Sheb => 42,
        ScmpArch::Sh => 42 | LITTLE,
        _ => 0, // of a later libseccomp: no seccomp_data carries 0, and the section never matches
    }
}

/// The prefix as bytes; empty if no architecture has a named call.
pub(super) fn prefix(last: &[Last]) -> Vec<u8> {
    let sections: Vec<Vec<Instruction>> = last.iter().filter_map(section).collect();
    let mut left: usize = sections.iter().map(Vec::len).sum();
    if left == 0 {
        return Vec::new();
    }
    let mut bytes = Instruction::load(ARCH_AT).bytes().to_vec();
    for section in sections {
        for mut instruction in section {
            left -= 1;
            if instruction.code == JUMP {
                instruction.k = left as u32; // to the filter: over all that is left of the prefix
            }
            bytes.extend(instruction.bytes());
        }
    }
    bytes
}

/// One architecture's section; jumps to the filter are filled in later.
fn section(last: &Last) -> Option<Vec<Instruction>> {
    let to_filter = Instruction {
        code: JUMP,
        jt: 0,
        jf: 0,
        k: 0,
    };
    let refuse_above = |number: u32| {
        [
            Instruction::test(ABOVE, number, 0, 1),
            Instruction {
                code: RETURN,
                jt: 0,
                jf: 0,
                k: ENOSYS,
            },
            to_filter,
        ]
    };
    let mut body = vec![Instruction::load(NUMBER_AT)];
    match (last.number, last.x32) {
        (None, None) => return None,
        _ if last.arch == X86_64 => {
            let plain = last
                .number
                .map_or_else(|| vec![to_filter], |number| refuse_above(number).to_vec());
            body.push(Instruction::test(HAS_BITS, X32_BIT, plain.len() as u8, 0));
            body.extend(plain);
            // Without x32 in the filter, libseccomp's program refuses x32 numbers as a foreign
            // architecture.
            body.extend(
                last.x32
                    .map_or_else(|| vec![to_filter], |number| refuse_above(number).to_vec()),
            );
        }
        (Some(number), _) => {
            if matches!(last.arch, S390 | S390X) {
                // There, a number above 255 travels in a register, and one that the kernel does not
                // know arrives here as 0.
                body.push(Instruction::test(EQUAL, 0, 0, 1));
                body.push(Instruction {
                    code: RETURN,
                    jt: 0,
                    jf: 0,
                    k: ENOSYS,
                });
            }
            body.extend(refuse_above(number));
        }
        (None, Some(_)) => return None, // only x86_64 has x32 numbers
    }
    let mut section = vec![Instruction::test(EQUAL, last.arch, 0, body.len() as u8)];
    section.extend(body);
    Some(section)
}

/// `struct sock_filter` of linux/filter.h.
#[derive(Clone, Copy)]
struct Instruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

impl Instruction {
    fn load(offset: u32) -> Self {
        Self {
            code: LOAD,
            jt: 0,
            jf: 0,
            k: offset,
        }
    }

    fn test(code: u16, k: u32, jt: u8, jf: u8) -> Self {
        Self { code, jt, jf, k }
    }

    fn bytes(self) -> [u8; 8] {
        let [c0, c1] = self.code.to_ne_bytes();
        let [k0, k1, k2, k3] = self.k.to_ne_bytes();
        [c0, c1, self.jt, self.jf, k0, k1, k2, k3]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::seccomp::interpreter::{Data, run};

    /// What follows the prefix in these tests.
    const REACHED: u32 = libc::SECCOMP_RET_TRAP;

    fn answer(last: &[Last], arch: u32, number: u32) -> u32 {
        let mut program = prefix(last);
        program.extend(
            Instruction {
                code: RETURN,
                jt: 0,
                jf: 0,
                k: REACHED,
            }
            .bytes(),
        );
        run(
            &program,
            &Data {
                number,
                arch,
                args: [0; 6],
            },
        )
    }

    #[test]
    fn numbers_above_the_last_are_not_known_and_all_others_reach_the_filter() {
        let last = [
            Last {
                arch: X86_64,
                number: Some(334),
                x32: Some(X32_BIT | 547),
            },
            Last {
                arch: 0x4000_0003,
                number: Some(386),
                x32: None,
            },
            Last {
                arch: S390X,
                number: Some(300),
                x32: None,
            },
        ];
        for (arch, number, expected) in [
            (X86_64, 0, REACHED),
            (X86_64, 334, REACHED),
            (X86_64, 335, ENOSYS),
            (X86_64, X32_BIT - 1, ENOSYS),
            (X86_64, X32_BIT, REACHED),
            (X86_64, X32_BIT | 547, REACHED),
            (X86_64, X32_BIT | 548, ENOSYS),
            (0x4000_0003, 386, REACHED),
            (0x4000_0003, 387, ENOSYS),
            (0x4000_0003, u32::MAX, ENOSYS),
            (S390X, 0, ENOSYS),
            (S390X, 1, REACHED),
            (S390X, 301, ENOSYS),
            (0xc000_00b7, 9999, REACHED), // an architecture that the filter does not have
        ] {
            assert_eq!(
                answer(&last, arch, number),
                expected,
                "arch {arch:#x} call {number:#x}"
            );
        }
    }

    #[test]
    fn x32_without_a_named_call_is_left_to_the_filter() {
        let last = [Last {
            arch: X86_64,
            number: Some(10),
            x32: None,
        }];
        assert_eq!(answer(&last, X86_64, X32_BIT | 5000), REACHED);
        let last = [Last {
            arch: X86_64,
            number: None,
            x32: Some(X32_BIT | 10),
        }];
        assert_eq!(answer(&last, X86_64, 5000), REACHED);
        assert_eq!(answer(&last, X86_64, X32_BIT | 11), ENOSYS);
    }

    #[test]
    fn no_named_call_no_prefix() {
        assert!(
            prefix(&[Last {
                arch: X86_64,
                number: None,
                x32: None
            }])
            .is_empty()
        );
    }

    #[test]
    fn every_architecture_at_once_stays_within_the_reach_of_a_jump() {
        let last: Vec<Last> = (1..=40)
            .map(|arch| Last {
                arch,
                number: Some(7),
                x32: None,
            })
            .collect();
        assert_eq!(answer(&last, 40, 8), ENOSYS);
        assert_eq!(answer(&last, 40, 7), REACHED);
        assert_eq!(answer(&last, 1, 7), REACHED);
    }
}
