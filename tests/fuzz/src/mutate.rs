//! Inputs made of other inputs, the same in every run: what the test suite has in place of a fuzzer.

/// Longest input that is made.
const LONGEST: usize = 8 * 1024;

/// An endless row of inputs made of a corpus.
#[derive(Debug)]
pub struct Mutations<'a> {
    corpus: &'a [Vec<u8>],
    words: &'a [&'a str],
    state: u64,
}

impl<'a> Mutations<'a> {
    /// Of this corpus and these words; equal for equal seeds.
    pub fn new(corpus: &'a [Vec<u8>], words: &'a [&'a str], seed: u64) -> Self {
        Self { corpus, words, state: seed }
    }

    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.draw() >> 16).unwrap_or_default().checked_rem(end).unwrap_or_default()
    }

    fn any_of(&mut self) -> Vec<u8> {
        let at = self.below(self.corpus.len());
        self.corpus.get(at).cloned().unwrap_or_default()
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len().saturating_add(1));
        match self.below(8) {
            0 | 1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = self.draw().to_le_bytes()[0];
                }
            }
            2 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            3 => bytes.insert(at, self.draw().to_le_bytes()[0]),
            4 => {
                let end = at.saturating_add(self.below(8)).min(bytes.len());
                bytes.drain(at..end);
            }
            5 if !self.words.is_empty() => {
                let word = self.below(self.words.len());
                bytes.splice(at..at, self.words.get(word).into_iter().flat_map(|word| word.bytes()));
            }
            6 => {
                let other = self.any_of();
                let from = self.below(other.len().saturating_add(1));
                bytes.truncate(at);
                bytes.extend(other.get(from..).unwrap_or_default());
            }
            _ => {
                let end = at.saturating_add(self.below(32)).min(bytes.len());
                let piece = bytes.get(at..end).unwrap_or_default().to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
}

impl Iterator for Mutations<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut bytes = self.any_of();
        for _ in 0..=self.below(4) {
            self.change(&mut bytes);
        }
        bytes.truncate(LONGEST);
        Some(bytes)
    }
}
