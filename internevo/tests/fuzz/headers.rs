//! Damage of binary files that begin with a header in text: safetensors and NumPy's, with lengths that fit what they are
//! lengths of, so that what comes behind the first check is reached.
use super::bytes;
use super::json;
use super::numbers::Numbers;
use super::text;
use serde_json::{Value, json};

/// A safetensors file in parts.
#[derive(Clone)]
pub struct Tensors {
    header: Value,
    data: Vec<u8>,
}

impl Tensors {
    pub fn of(file: &[u8]) -> Tensors {
        let len = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
        let header = serde_json::from_slice(&file[8..8 + len]).expect("a good file");
        Tensors { header, data: file[8 + len..].to_vec() }
    }

    pub fn file(&self) -> Vec<u8> {
        joined(self.header.to_string().as_bytes(), &self.data)
    }

    pub fn damaged(&self, numbers: &mut Numbers) -> Vec<u8> {
        let mut tensors = self.clone();
        match numbers.below(6) {
            0 => return bytes::damaged(numbers, &self.file(), &[self.file()]),
            1 => {
                let header = json::damaged(numbers, std::slice::from_ref(&self.header));
                return joined(&header, &self.data);
            }
            2 => tensors.many(numbers),
            _ => (0..numbers.count(4)).for_each(|_| tensors.change(numbers)),
        }
        let mut file = tensors.file();
        file.truncate(bytes::MOST_BYTES.max(self.data.len()));
        file
    }

    /// One tensor in other words: its type, its shape, where it lies, or its name.
    fn change(&mut self, numbers: &mut Numbers) {
        let map = self.header.as_object_mut().expect("a header is an object");
        let names: Vec<String> = map.keys().filter(|name| *name != "__metadata__").cloned().collect();
        if names.is_empty() {
            return;
        }
        let name = numbers.pick(&names);
        let (entry, other) = (map[name].clone(), map[numbers.pick(&names)].clone());
        let huge = || json!([u64::MAX / 2, 2, 3]);
        let entry_of = |key: &str, value: Value| {
            let mut entry = entry.clone();
            entry[key] = value;
            entry
        };
        let changed = match numbers.below(9) {
            0 => {
                entry_of("dtype", json!(numbers.pick(&["F32", "F16", "BF16", "F64", "I32", "I8", "BOOL", "F4", "U64"])))
            }
            1 => entry_of("shape", json!([])),
            2 => entry_of("shape", json!([0, usize::MAX, usize::MAX])),
            3 => entry_of("shape", huge()),
            4 => entry_of("shape", other["shape"].clone()),
            5 => entry_of("data_offsets", other["data_offsets"].clone()),
            6 => entry_of("data_offsets", json!([numbers.below(1 << 20), numbers.below(1 << 20)])),
            7 => entry_of("data_offsets", json!([u64::MAX - 1, u64::MAX])),
            _ => {
                let entry = map.remove(name).expect("it is a key");
                let name = if numbers.once_in(2) { text::hostile_name(numbers) } else { numbers.pick(&names).clone() };
                map.insert(name, entry);
                return;
            }
        };
        map.insert(name.clone(), changed);
    }

    /// As many tensors of no size as a header can name.
    fn many(&mut self, numbers: &mut Numbers) {
        let at = self.data.len();
        let count = numbers.count(10_000);
        let empty =
            (0..count).map(|i| (format!("t{i}"), json!({"dtype": "F32", "shape": [0], "data_offsets": [at, at]})));
        self.header.as_object_mut().expect("a header is an object").extend(empty);
    }
}

/// The header of a file and the length before it, as far as they are there.
pub fn of(file: &[u8]) -> &[u8] {
    let len = file.first_chunk().map_or(0, |len| u64::from_le_bytes(*len));
    &file[..file.len().min(len.saturating_add(8).try_into().unwrap_or(usize::MAX))]
}

fn joined(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, data].concat()
}

/// A `.npy` of version 1, its header changed as text and its length made to fit.
pub fn npy_damaged(numbers: &mut Numbers, good: &[u8]) -> Vec<u8> {
    let len = u16::from_le_bytes([good[8], good[9]]) as usize;
    let (header, data) = good[10..].split_at(len);
    let header = String::from_utf8_lossy(header).into_owned();
    let mut header = text::damaged(numbers, &header, std::slice::from_ref(&header));
    header.truncate(u16::MAX.into());
    [&good[..8], &(header.len() as u16).to_le_bytes(), &header, data].concat()
}
