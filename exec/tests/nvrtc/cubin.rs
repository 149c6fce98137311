//! What a CUBIN tells about its kernels. It is an ELF file with sections of NVIDIA's own.
use std::collections::BTreeMap;
use std::ops::Range;

/// Of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Facts {
    /// Of a thread.
    pub registers: u32,
    /// Bytes of a thread in local memory: what found no register, and arrays that are indexed.
    pub local: u32,
    /// Bytes of shared memory that the source declares.
    pub shared: usize,
}

struct Section<'a> {
    name: &'a str,
    kind: u32,
    /// Bytes it would take in memory.
    len: usize,
    /// None of one that is only memory.
    bytes: &'a [u8],
    /// The section of its names.
    link: usize,
}

const SYMBOLS: u32 = 2;
const MEMORY_ONLY: u32 = 8;
/// Bytes of shared memory of every block that are not the program's, and that a card's limit does not count.
const OF_THE_SYSTEM: usize = 1024;
/// Attributes of `.nv.info`: the second byte of an entry.
const FRAME_SIZE: u8 = 0x11;
const REGISTERS: u8 = 0x2f;

/// By the kernel's name.
pub fn facts(elf: &[u8]) -> BTreeMap<String, Facts> {
    assert!(elf.starts_with(b"\x7fELF\x02\x01"), "a CUBIN is a little-endian ELF file of 64 bits");
    let sections = sections(elf);
    let symbols = sections.iter().find(|section| section.kind == SYMBOLS).expect("kernels have names");
    let names = sections[symbols.link].bytes;
    let symbol = |i: usize| text(names, number(symbols.bytes, 24 * i, 4));
    let mut all: BTreeMap<String, Facts> = BTreeMap::new();
    for section in &sections {
        if let Some(kernel) = section.name.strip_prefix(".text.") {
            all.entry(kernel.into()).or_default();
        }
        if let Some(kernel) = section.name.strip_prefix(".nv.shared.") {
            all.entry(kernel.into()).or_default().shared = section.len.saturating_sub(OF_THE_SYSTEM);
        }
    }
    let info = sections.iter().find(|section| section.name == ".nv.info").expect("kernels have attributes");
    // Format, attribute, bytes of the value, value: here [number of the symbol, what is said].
    let mut at = 0;
    while at + 4 <= info.bytes.len() {
        let (format, attribute) = (info.bytes[at], info.bytes[at + 1]);
        let value = if format == 4 { number(info.bytes, at + 2, 2) } else { 0 };
        if matches!(attribute, FRAME_SIZE | REGISTERS) {
            let kernel = symbol(number(info.bytes, at + 4, 4));
            let said = number(info.bytes, at + 8, 4) as u32;
            if let Some(facts) = all.get_mut(kernel) {
                *if attribute == REGISTERS { &mut facts.registers } else { &mut facts.local } = said;
            }
        }
        at += 4 + value;
    }
    all
}

fn sections(elf: &[u8]) -> Vec<Section<'_>> {
    let [table, size, count, names] = [(40, 8), (58, 2), (60, 2), (62, 2)].map(|(at, n)| number(elf, at, n));
    let header = |i: usize| &elf[table + i * size..][..size];
    let range = |header: &[u8]| -> Range<usize> {
        let start = number(header, 24, 8);
        start..start + number(header, 32, 8)
    };
    let names = &elf[range(header(names))];
    let read = |i| {
        let header = header(i);
        let kind = number(header, 4, 4) as u32;
        let bytes = if kind == MEMORY_ONLY { &[] } else { &elf[range(header)] };
        let name = text(names, number(header, 0, 4));
        Section { name, kind, len: number(header, 32, 8), bytes, link: number(header, 40, 4) }
    };
    (0..count).map(read).collect()
}

fn number(bytes: &[u8], at: usize, n: usize) -> usize {
    bytes[at..at + n].iter().rev().fold(0, |x, byte| x << 8 | usize::from(*byte))
}

/// Up to its zero byte.
fn text(names: &[u8], at: usize) -> &str {
    let rest = &names[at..];
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    std::str::from_utf8(&rest[..end]).expect("names are ASCII")
}
