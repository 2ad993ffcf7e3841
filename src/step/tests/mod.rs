//! Of the script as bytes.

mod wire;

/// Numbers that look random and are the same in every run (xorshift64*).
pub struct Random(u64);

impl Random {
    /// From a seed that is not 0.
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below a limit that is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 32) as usize) % limit
    }

    /// Small ones, large ones, and those at the ends.
    pub fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => 0,
            1 => u64::MAX,
            2 => u64::from(u32::MAX),
            3 => self.next(),
            _ => self.next() & 0xff,
        }
    }

    /// Mostly few.
    pub fn bytes(&mut self) -> Vec<u8> {
        let count = if self.below(20) == 0 {
            5000
        } else {
            self.below(40)
        };
        (0..count).map(|_| self.next() as u8).collect()
    }

    /// Without NUL, of one to four bytes a character.
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
