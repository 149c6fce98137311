//! Readers that do what none may, each in its own way: that such a one is noticed.
use super::{Reader, Target};
use std::hint::black_box;
use std::path::Path;

/// With what is said of it.
pub const BROKEN: &[(Target, &str)] = &[
    (Target { name: "panics", prepare: panics }, "index out of bounds"),
    (Target { name: "works-on", prepare: works_on }, "no end after 1s"),
    (Target { name: "allocates", prepare: allocates }, "memory allocation of 314572800 bytes failed"),
    (Target { name: "goes-deep", prepare: goes_deep }, "overflowed its stack"),
];

/// At the third input.
fn third(fails: fn()) -> Reader {
    let mut number = 0;
    Box::new(move |_| {
        number += 1;
        if number == 3 {
            fails();
        }
        true
    })
}

fn panics(_: &Path) -> Reader {
    third(|| {
        let empty: Vec<u8> = black_box(vec![]);
        println!("{}", empty[7]);
    })
}

fn works_on(_: &Path) -> Reader {
    third(|| while black_box(true) {})
}

fn allocates(_: &Path) -> Reader {
    third(|| drop(black_box(vec![1u8; 300 << 20])))
}

fn goes_deep(_: &Path) -> Reader {
    fn deeper(n: u64) -> u64 {
        if black_box(n) == 0 { 0 } else { 1 + deeper(black_box(n - 1)) }
    }
    third(|| {
        black_box(deeper(u64::MAX));
    })
}
