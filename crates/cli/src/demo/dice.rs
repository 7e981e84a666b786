//! Numbers that look random and follow from a seed. For made-up data only.

/// xorshift128+ (Vigna): small, and good enough to make up texts.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64, u64);

impl Dice {
    pub(super) fn new(seed: [u8; 16]) -> Self {
        let [low, high] = [0, 8].map(|at| {
            seed.iter()
                .skip(at)
                .take(8)
                .fold(0, |number: u64, byte| number << 8 | u64::from(*byte))
        });
        // The state must not be zero, and near seeds must part.
        let mut dice = Self(low ^ 0x9e37_79b9_7f4a_7c15, high | 1);
        for _ in 0..16 {
            dice.next();
        }
        dice
    }

    pub(super) fn next(&mut self) -> u64 {
        let Self(mut a, b) = *self;
        a ^= a << 23;
        *self = Self(b, a ^ b ^ (a >> 17) ^ (b >> 26));
        self.1.wrapping_add(b)
    }

    /// 0 to `end`, without `end`; 0 if `end` is.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// Both ends are possible.
    pub(super) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least) + 1)
    }

    /// Whether something of this probability happens.
    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let at = usize::try_from(self.below(from.len() as u64)).unwrap_or(0);
        &from[at]
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
        bytes
    }

    pub(super) fn hex<const N: usize>(&mut self) -> String {
        hex(&self.bytes::<N>())
    }
}

#[allow(clippy::format_collect)] // a few hundred, once
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
