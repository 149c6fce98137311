//! Damage that knows nothing of a format: what disks, networks and cut-off copies do, and lengths that lie.
use super::numbers::Numbers;

/// No input is longer.
pub const MOST_BYTES: usize = 1 << 20;

/// What counters and lengths are compared with, multiplied by and allocated for.
const EDGES: [u64; 12] =
    [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 1 << 24, (1 << 31) - 1, 1 << 31, 1 << 32, i64::MAX as u64, u64::MAX];

/// A few changes of one good input; `others` are spliced in.
pub fn damaged(numbers: &mut Numbers, good: &[u8], others: &[Vec<u8>]) -> Vec<u8> {
    let mut out = good.to_vec();
    for _ in 0..numbers.count(8) {
        change(numbers, &mut out, others);
    }
    out.truncate(MOST_BYTES);
    out
}

fn change(numbers: &mut Numbers, out: &mut Vec<u8>, others: &[Vec<u8>]) {
    let at = numbers.below(out.len() + 1);
    // Headers are at the beginning, and a small part of a file.
    let at = if numbers.once_in(2) { at.min(numbers.below(256)) } else { at };
    let end = at + numbers.count(4096).min(out.len() - at);
    match numbers.below(10) {
        0 | 1 if at < out.len() => out[at] ^= 1 << numbers.below(8),
        2 if at < out.len() => out[at] = numbers.next() as u8,
        3 => {
            let edge = numbers.pick(&EDGES).to_le_bytes();
            let width = (*numbers.pick(&[1, 2, 4, 8])).min(out.len() - at);
            out[at..at + width].copy_from_slice(&edge[..width]);
        }
        4 => out.truncate(at),
        5 => drop(out.drain(at..end)),
        6 => {
            let again = out[at..end].repeat(times(numbers, end - at));
            out.splice(at..at, again);
        }
        7 => {
            let fill = *numbers.pick(b"\0\xff\n 0");
            out.splice(at..at, vec![fill; numbers.count(4096)]);
        }
        8 => {
            let other = numbers.pick(others);
            let from = numbers.below(other.len() + 1);
            out.truncate(at);
            out.extend(&other[from..]);
        }
        _ => {
            let noise: Vec<u8> = (0..numbers.count(64)).map(|_| numbers.next() as u8).collect();
            out.splice(at..at, noise);
        }
    }
}

/// How often something so long is repeated: now and then as often as an input can hold it.
pub fn times(numbers: &mut Numbers, len: usize) -> usize {
    let most = MOST_BYTES / len.max(1);
    match numbers.below(1000) {
        0 => most,
        1..10 => most.min(5000),
        _ => most.min(numbers.count(8)),
    }
}
