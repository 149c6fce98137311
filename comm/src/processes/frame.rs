//! The messages that are not data, in bytes: what a member calls, and what it has to say outside of calls.
use crate::{Call, Coll};
use backend::DType;

/// Bytes of a header.
pub const HEADER: usize = 64;
/// Bytes of a note. What does not fit of an error's text is cut off.
pub const NOTE: usize = 1024;

/// What a member tells all others about an operation before its data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub call: Call,
    pub seq: u64,
    /// Of name and members, see [`fingerprint`].
    pub group: u64,
}

const DTYPES: [DType; 5] = [DType::F32, DType::F64, DType::BF16, DType::F16, DType::U32];

impl Header {
    pub fn encode(&self) -> [u8; HEADER] {
        let Call { op, dtype, len } = self.call;
        let [kind, a, b] = match op {
            Coll::AllReduce => [0, 0, 0],
            Coll::ReduceScatter => [1, 0, 0],
            Coll::AllGather => [2, 0, 0],
            Coll::AllToAll => [3, 0, 0],
            Coll::Broadcast { root } => [4, root, 0],
            Coll::Barrier => [5, 0, 0],
            Coll::SendRecv { from, to } => [6, from, to],
        };
        let dtype = DTYPES.iter().position(|other| *other == dtype).expect("all types are in the table");
        words([kind as u64, a as u64, b as u64, dtype as u64, len as u64, self.seq, self.group, 0])
    }

    /// Nothing: these are not bytes that `encode` makes.
    pub fn decode(bytes: &[u8; HEADER]) -> Option<Header> {
        let [kind, a, b, dtype, len, seq, group, _] = unwords::<8>(bytes);
        let op = match kind {
            0 => Coll::AllReduce,
            1 => Coll::ReduceScatter,
            2 => Coll::AllGather,
            3 => Coll::AllToAll,
            4 => Coll::Broadcast { root: a as usize },
            5 => Coll::Barrier,
            6 => Coll::SendRecv { from: a as usize, to: b as usize },
            _ => return None,
        };
        let dtype = *DTYPES.get(dtype as usize)?;
        Some(Header { call: Call { op, dtype, len: len as usize }, seq, group })
    }
}

/// What a member says outside of calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Note {
    /// It starts nothing any more, after so many operations of all, to the reader and from the reader.
    Left([u64; 3]),
    /// The group is broken, and why.
    Broken(String),
}

impl Note {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = match self {
            Note::Left([all, to, from]) => words::<4, 32>([0, *all, *to, *from]).to_vec(),
            Note::Broken(why) => {
                let mut end = why.len().min(NOTE - 16);
                while !why.is_char_boundary(end) {
                    end -= 1;
                }
                let mut bytes = words::<2, 16>([1, end as u64]).to_vec();
                bytes.extend(&why.as_bytes()[..end]);
                bytes
            }
        };
        bytes.resize(NOTE, 0);
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Option<Note> {
        let [kind, a, b, c] = unwords::<4>(bytes.get(..32)?);
        match kind {
            0 => Some(Note::Left([a, b, c])),
            1 => {
                let text = bytes.get(16..)?.get(..a as usize)?;
                Some(Note::Broken(String::from_utf8_lossy(text).into_owned()))
            }
            _ => None,
        }
    }
}

/// Of a group: FNV-1a over its name and members.
pub fn fingerprint(name: &str, members: &[usize]) -> u64 {
    let bytes = name.bytes().chain(members.iter().flat_map(|m| (*m as u64).to_le_bytes()));
    bytes.fold(0xcbf29ce484222325, |hash, byte| (hash ^ byte as u64).wrapping_mul(0x100000001b3))
}

fn words<const N: usize, const BYTES: usize>(words: [u64; N]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes.chunks_exact_mut(8).zip(words).for_each(|(bytes, word)| bytes.copy_from_slice(&word.to_le_bytes()));
    bytes
}

fn unwords<const N: usize>(bytes: &[u8]) -> [u64; N] {
    std::array::from_fn(|i| u64::from_le_bytes(bytes[8 * i..][..8].try_into().expect("eight bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let ops = [
            Coll::AllReduce,
            Coll::ReduceScatter,
            Coll::AllGather,
            Coll::AllToAll,
            Coll::Broadcast { root: 5 },
            Coll::Barrier,
            Coll::SendRecv { from: 3, to: 1 << 20 },
        ];
        for (op, dtype) in ops.into_iter().flat_map(|op| DTYPES.map(|dtype| (op, dtype))) {
            let header = Header { call: Call { op, dtype, len: 1 << 40 }, seq: 7, group: u64::MAX };
            assert_eq!(Header::decode(&header.encode()), Some(header));
        }
        for note in [Note::Left([1, 2, 3]), Note::Broken("rank 2 gave up: pâle".into())] {
            assert_eq!(Note::decode(&note.encode()), Some(note));
        }
        let long = Note::Broken("é".repeat(NOTE));
        assert!(matches!(Note::decode(&long.encode()), Some(Note::Broken(text)) if text.len() > NOTE - 32));
        assert_eq!(Header::decode(&[0xff; HEADER]), None);
        assert_eq!(Note::decode(&[0xff; NOTE]), None);
    }
}
