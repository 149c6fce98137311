//! A checksum whose parts can be summed in any order: ranks, threads and layouts need not agree on who takes which part.
//!
//! The sum, modulo 2^64, of a mixed word for every element and its place (AdHash: Bellare and Micciancio, "A new paradigm
//! for collision-free hashing", 1997, section 2; the mixer is SplitMix64's: Steele, Lea and Flood, "Fast splittable
//! pseudorandom number generators", 2014). A changed element always changes the sum, for the mixer is a bijection; other
//! damage escapes once in 2^64. It finds accidents, and is no signature.
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::io::{self, Read};

/// Shown as 16 hex digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Sum(pub u64);

impl Sum {
    pub fn of_bytes(bytes: &[u8]) -> Sum {
        Sum::of(0, bytes, |b| (*b).into())
    }

    /// Of all bytes that are read.
    pub fn of_reader(mut from: impl Read) -> io::Result<Sum> {
        let (mut sum, mut place, mut piece) = (Sum::default(), 0, vec![0; 1 << 16]);
        loop {
            match from.read(&mut piece)? {
                0 => return Ok(sum),
                n => {
                    sum.add(Sum::of(place, &piece[..n], |b| (*b).into()));
                    place += n;
                }
            }
        }
    }

    /// Elements from place `first` on.
    pub fn of_floats(first: usize, values: &[f32]) -> Sum {
        Sum::of(first, values, |x| x.to_bits())
    }

    fn of<E>(first: usize, elements: &[E], word: impl Fn(&E) -> u32) -> Sum {
        // With the widest instructions that there are.
        pulp::Arch::new().dispatch(Job { first, elements, word })
    }

    pub fn add(&mut self, other: Sum) {
        self.0 = self.0.wrapping_add(other.0);
    }
}

/// A type of its own, as a closure is not compiled for the instructions that it is called with.
struct Job<'a, E, F> {
    first: usize,
    elements: &'a [E],
    word: F,
}

impl<E, F: Fn(&E) -> u32> pulp::NullaryFnOnce for Job<'_, E, F> {
    type Output = Sum;

    #[inline(always)]
    fn call(self) -> Sum {
        let (lanes, rest) = self.elements.as_chunks::<LANES>();
        let (mut sums, mut place) = ([0u64; LANES], self.first as u64);
        for lane in lanes {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = sum.wrapping_add(mix((place + i as u64) << 32 | (self.word)(&lane[i]) as u64));
            }
            place += LANES as u64;
        }
        let rest = rest.iter().zip(place..).map(|(element, place)| mix(place << 32 | (self.word)(element) as u64));
        Sum(sums.into_iter().chain(rest).fold(0, u64::wrapping_add))
    }
}

const LANES: usize = 8;

/// Places are below 2^32, so that no two elements are the same word.
#[inline(always)]
fn mix(word: u64) -> u64 {
    let z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Serialize for Sum {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{:016x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Sum {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Sum, D::Error> {
        let text = String::deserialize(from)?;
        let sum = u64::from_str_radix(&text, 16).ok().map(Sum);
        sum.filter(|_| text.len() == 16).ok_or_else(|| de::Error::custom(format!("{text:?} is no checksum")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_sum_up_to_the_whole() {
        let words: Vec<f32> = (0..1000).map(|i| (i as f32).sin()).collect();
        let whole = Sum::of_floats(0, &words);
        for cut in [0, 1, 500, 999, 1000] {
            let mut parts = Sum::of_floats(cut, &words[cut..]);
            parts.add(Sum::of_floats(0, &words[..cut]));
            assert_eq!(parts, whole);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_swap_is_seen() {
        let words = [1.0f32, 2.0, 0.0, -0.0, f32::NAN, 1.0];
        let whole = Sum::of_floats(0, &words);
        for (i, bit) in (0..6).flat_map(|i| (0..32).map(move |bit| (i, bit))) {
            let mut flipped = words;
            flipped[i] = f32::from_bits(flipped[i].to_bits() ^ 1 << bit);
            assert_ne!(Sum::of_floats(0, &flipped), whole, "bit {bit} of {i}");
        }
        for (i, j) in (0..6).flat_map(|i| (0..i).map(move |j| (i, j))) {
            let mut swapped = words;
            swapped.swap(i, j);
            assert_eq!(Sum::of_floats(0, &swapped) == whole, words[i].to_bits() == words[j].to_bits(), "{i} and {j}");
        }
        assert_ne!(Sum::of_bytes(b"abc"), Sum::of_bytes(b"abc\0"));
        let bytes: Vec<u8> = (0..200_000).map(|i| i as u8).collect();
        assert_eq!(Sum::of_reader(&bytes[..]).unwrap(), Sum::of_bytes(&bytes));
    }

    #[test]
    fn the_sum_of_a_file_stays_what_it_is() {
        assert_eq!(serde_json::to_string(&Sum::of_bytes(b"{}\n")).unwrap(), "\"885d25e13cf111ee\"");
        assert!(serde_json::from_str::<Sum>("\"12\"").is_err());
    }
}
