//! Runs a seccomp program on given calls as the kernel does: the part of classic BPF that seccomp
//! accepts (kernel/seccomp.c, seccomp_check_filter) and that compilers of filters emit.

/// The part of `struct seccomp_data` that filters read; the instruction pointer reads as 0.
pub(in crate::security) struct Data {
    pub number: u32,
    pub arch: u32,
    pub args: [u64; 6],
}

impl Data {
    /// The 32 bits at an offset, on a little endian architecture.
    fn word(&self, offset: u32) -> u32 {
        assert!(
            offset.is_multiple_of(4),
            "load from unaligned offset {offset}"
        );
        match offset {
            0 => self.number,
            4 => self.arch,
            8 | 12 => 0,
            16..64 => {
                let arg = self.args[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) {
                    arg as u32
                } else {
                    (arg >> 32) as u32
                }
            }
            _ => panic!("load from offset {offset}"),
        }
    }
}

/// Returns SECCOMP_RET_*; panics where the kernel's checker would have refused the program.
pub(in crate::security) fn run(program: &[u8], data: &Data) -> u32 {
    let instructions: Vec<(u32, usize, usize, u32)> = program
        .chunks_exact(8)
        .map(|i| {
            let code = u16::from_ne_bytes([i[0], i[1]]);
            (
                u32::from(code),
                usize::from(i[2]),
                usize::from(i[3]),
                u32::from_ne_bytes([i[4], i[5], i[6], i[7]]),
            )
        })
        .collect();
    let (mut a, mut at) = (0_u32, 0_usize);
    loop {
        let (code, jt, jf, k) = instructions[at];
        at += 1;
        let test = match code {
            c if c == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                a = data.word(k);
                continue;
            }
            c if c == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => {
                a &= k;
                continue;
            }
            c if c == libc::BPF_JMP | libc::BPF_JA => {
                at += k as usize;
                continue;
            }
            c if c == libc::BPF_RET | libc::BPF_K => return k,
            c if c == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => a == k,
            c if c == libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K => a > k,
            c if c == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => a >= k,
            c if c == libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K => a & k != 0,
            _ => panic!("instruction {code:#x} at {}", at - 1),
        };
        at += if test { jt } else { jf };
    }
}
