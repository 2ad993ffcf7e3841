//! Tests of the encoding of container steps.

mod wire;

/// A pseudorandom generator whose numbers are the same in every run (xorshift64*).
pub struct Random(u64);

impl Random {
    /// Seeds the generator; 0 counts as 1.
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, which must not be 0.
    pub fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 32) as usize) % limit
    }

    /// A number: small, large, or one of the limits 0, `u32::MAX` and `u64::MAX`.
    pub fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => 0,
            1 => u64::MAX,
            2 => u64::from(u32::MAX),
            3 => self.next(),
            _ => self.next() & 0xff,
        }
    }

    /// Random bytes: mostly fewer than 40, rarely 5000.
    pub fn bytes(&mut self) -> Vec<u8> {
        let count = if self.below(20) == 0 {
            5000
        } else {
            self.below(40)
        };
        (0..count).map(|_| self.next() as u8).collect()
    }

    /// A random string without NUL, whose characters have one to four bytes.
    pub fn text(&mut self) -> String {
        const LETTERS: [char; 8] = ['a', '/', '.', ' ', '\n', '=', 'é', '🐚'];
        let count = if self.below(20) == 0 {
            4096
        } else {
            self.below(20)
        };
        (0..count)
            .map(|_| LETTERS[self.below(LETTERS.len())])
            .collect()
    }
}
