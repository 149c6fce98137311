//! A 64-bit hash of contents, to notice change and damage. Fast, and no defence against an adversary.

use rayon::prelude::*;

/// Bytes hashed as one unit. Part of the definition: it does not depend on the number of threads.
const PIECE: usize = 1 << 20;

/// The hash of `bytes`; large contents are hashed in parallel.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let pieces: Vec<u64> = bytes.par_chunks(PIECE).map(hash_piece).collect();
    hash_words(&pieces)
}

/// The hash of a list of numbers, in order.
pub(crate) fn hash_words(words: &[u64]) -> u64 {
    words.iter().fold(mix(words.len() as u64), |state, word| mix(state ^ word))
}

/// A bijection of 64 bits in which every input bit reaches every output bit: the finalizer of SplitMix64
/// (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn hash_piece(piece: &[u8]) -> u64 {
    let (words, rest) = piece.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    // Every step is a bijection of the state, so one changed word always changes the result.
    let step = |state: u64, word: &[u8; 8]| {
        let state = (state ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        state ^ (state >> 32)
    };
    mix(step(words.iter().fold(piece.len() as u64, step), &last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_and_the_length_count() {
        let bytes: Vec<u8> = (0..2 * PIECE + 5).map(|i| (i * 7) as u8).collect();
        let original = hash(&bytes);
        for position in [0, 7, 8, PIECE - 1, PIECE, 2 * PIECE, 2 * PIECE + 4] {
            let mut changed = bytes.clone();
            changed[position] ^= 1;
            assert_ne!(hash(&changed), original, "byte {position}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_ne!(hash(&longer), original);
        assert_ne!(hash(&[]), hash(&[0]));
    }
}
