//! cuBLASLt: products of all operations and types against plain ones, and what is refused.
mod common;
use common::{Card, Handle, call, card, numbers};
use half::{bf16, f16};
use std::ffi::c_int;
use std::ptr::null_mut;

const INVALID_VALUE: c_int = 7;
const NOT_SUPPORTED: c_int = 15;
const F32: c_int = 0;
const F64: c_int = 1;
const F16: c_int = 2;
const BF16: c_int = 14;
const COMPUTE_32F: c_int = 68;
const COMPUTE_TF32: c_int = 77;
const COMPUTE_64F: c_int = 70;

/// One product: its shape, operations, types, and batch.
#[derive(Clone, Copy)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    transposed: [bool; 2],
    compute: c_int,
    inputs: c_int,
    output: c_int,
    batch: usize,
    alpha: f64,
    beta: f64,
    in_place: bool,
}

const CASE: Case = Case {
    m: 5,
    n: 7,
    k: 9,
    transposed: [false; 2],
    compute: COMPUTE_32F,
    inputs: F32,
    output: F32,
    batch: 1,
    alpha: 1.0,
    beta: 0.0,
    in_place: false,
};

/// The library's objects, and what a call may get wrong.
struct Call {
    handle: Handle,
    desc: Handle,
    layouts: [Handle; 4],
    preference: Handle,
}

fn bytes_of(kind: c_int) -> usize {
    match kind {
        F32 => 4,
        F64 => 8,
        _ => 2,
    }
}

fn encode(kind: c_int, values: &[f64]) -> Vec<u8> {
    let one = |x: f64| match kind {
        F32 => (x as f32).to_le_bytes().to_vec(),
        F64 => x.to_le_bytes().to_vec(),
        F16 => f16::from_f32(x as f32).to_le_bytes().to_vec(),
        _ => bf16::from_f32(x as f32).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(|x| one(*x)).collect()
}

fn decode(kind: c_int, bytes: &[u8]) -> Vec<f64> {
    let one = |x: &[u8]| match kind {
        F32 => f32::from_le_bytes(x.try_into().unwrap()) as f64,
        F64 => f64::from_le_bytes(x.try_into().unwrap()),
        F16 => f16::from_le_bytes(x.try_into().unwrap()).to_f64(),
        _ => bf16::from_le_bytes(x.try_into().unwrap()).to_f64(),
    };
    bytes.chunks(bytes_of(kind)).map(one).collect()
}

impl Case {
    /// Rows and columns of A, B, C and D as stored. Between two columns is some room.
    fn stored(&self) -> [(usize, usize); 4] {
        let turn =
            |turned: bool, (rows, columns): (usize, usize)| if turned { (columns, rows) } else { (rows, columns) };
        let out = (self.m, self.n);
        [turn(self.transposed[0], (self.m, self.k)), turn(self.transposed[1], (self.k, self.n)), out, out]
    }
    fn ld(rows: usize) -> usize {
        rows + 3
    }
    fn kinds(&self) -> [c_int; 4] {
        [self.inputs, self.inputs, self.output, self.output]
    }
    fn scale(&self) -> c_int {
        if self.compute == COMPUTE_64F { F64 } else { F32 }
    }

    fn describe(&self, card: &Card) -> Call {
        let lt = &card.lt;
        let mut made = Call { handle: null_mut(), desc: null_mut(), layouts: [null_mut(); 4], preference: null_mut() };
        assert_eq!(call!(lt, cublasLtCreate(&mut made.handle => *mut Handle)), 0);
        let desc = call!(lt, cublasLtMatmulDescCreate(
            &mut made.desc => *mut Handle, self.compute => c_int, self.scale() => c_int
        ));
        assert_eq!(desc, 0);
        for (attribute, turned) in [(3, self.transposed[0]), (4, self.transposed[1])] {
            let value = turned as c_int;
            let set = call!(lt, cublasLtMatmulDescSetAttribute(
                made.desc => Handle, attribute => c_int, &value => *const c_int, 4 => usize
            ));
            assert_eq!(set, 0);
        }
        for (i, (rows, columns)) in self.stored().into_iter().enumerate() {
            let layout = &mut made.layouts[i];
            let created = call!(lt, cublasLtMatrixLayoutCreate(
                layout => *mut Handle, self.kinds()[i] => c_int, rows as u64 => u64, columns as u64 => u64,
                Case::ld(rows) as i64 => i64
            ));
            assert_eq!(created, 0);
            let (batch, stride) = (self.batch as c_int, (Case::ld(rows) * columns) as i64);
            set_layout(card, *layout, 5, &batch);
            set_layout(card, *layout, 6, &stride);
        }
        assert_eq!(call!(lt, cublasLtMatmulPreferenceCreate(&mut made.preference => *mut Handle)), 0);
        set_preference(card, &made, 1, &(2u64 << 20));
        made
    }

    /// Runs it and compares with the plain product.
    fn check(&self, card: &Card, seed: u64) {
        let made = self.describe(card);
        let stored = self.stored();
        let mut at = [0u64; 4];
        let mut values = vec![];
        for i in 0..4 {
            let count = Case::ld(stored[i].0) * stored[i].1 * self.batch;
            let numbers: Vec<f64> = numbers(count, seed + i as u64).into_iter().map(f64::from).collect();
            let bytes = encode(self.kinds()[i], &numbers);
            values.push(decode(self.kinds()[i], &bytes));
            at[i] = card.upload(&bytes);
        }
        if self.in_place {
            at[3] = at[2];
        }
        let algorithms = heuristics(card, &made, 3);
        assert_eq!(algorithms.len(), 2, "those of 0 and 1 MiB");
        let workspace = card.alloc(1 << 20);
        let stream = card.stream();
        assert_eq!(card.synchronize(), 0);
        let scale = self.scale();
        let (alpha, beta) = (encode(scale, &[self.alpha]), encode(scale, &[self.beta]));
        let status = multiply(card, &made, &alpha, &beta, at, &algorithms[1].0, (workspace, 1 << 20), stream);
        assert_eq!(status, 0);
        assert_eq!(call!(card.cuda, cuStreamSynchronize(stream => Handle)), 0);
        assert_eq!(card.download::<u8>(workspace, 100), [0xff; 100]);
        let (rows, columns) = stored[3];
        let size = Case::ld(rows) * columns * self.batch;
        let got = decode(self.output, &card.download(at[3], size * bytes_of(self.output)));
        let tolerance = match (self.output, self.compute) {
            (BF16, _) => 2e-2,
            (F16, _) | (_, COMPUTE_TF32) => 4e-3,
            (F64, _) => 1e-12,
            _ => 1e-5,
        };
        for b in 0..self.batch {
            let element = |which: usize, i: usize, j: usize| {
                let (rows, columns) = stored[which];
                let (i, j) = if which < 2 && self.transposed[which] { (j, i) } else { (i, j) };
                values[which][(b * columns + j) * Case::ld(rows) + i]
            };
            for i in 0..self.m {
                for j in 0..self.n {
                    let sum: f64 = (0..self.k).map(|p| element(0, i, p) * element(1, p, j)).sum();
                    let expected = self.alpha * sum + self.beta * element(2, i, j);
                    let got = got[(b * columns + j) * Case::ld(rows) + i];
                    assert!((got - expected).abs() <= tolerance * (1.0 + expected.abs()), "{got} for {expected}");
                }
            }
        }
    }
}

fn set_layout<T>(card: &Card, layout: Handle, attribute: c_int, value: &T) {
    let set = call!(card.lt, cublasLtMatrixLayoutSetAttribute(
        layout => Handle, attribute => c_int, value => *const T, size_of::<T>() => usize
    ));
    assert_eq!(set, 0);
}

fn set_preference<T>(card: &Card, made: &Call, attribute: c_int, value: &T) {
    let set = call!(card.lt, cublasLtMatmulPreferenceSetAttribute(
        made.preference => Handle, attribute => c_int, value => *const T, size_of::<T>() => usize
    ));
    assert_eq!(set, 0);
}

/// Algorithms, and the workspace that each wants.
fn heuristics(card: &Card, made: &Call, wanted: c_int) -> Vec<([u64; 8], u64)> {
    let (mut results, mut count) = ([[0u64; 12]; 8], 0);
    let [a, b, c, d] = made.layouts;
    let found = call!(card.lt, cublasLtMatmulAlgoGetHeuristic(
        made.handle => Handle, made.desc => Handle, a => Handle, b => Handle, c => Handle, d => Handle,
        made.preference => Handle, wanted => c_int, results.as_mut_ptr() => *mut [u64; 12], &mut count => *mut c_int
    ));
    assert_eq!(found, 0);
    results[..count as usize].iter().map(|r| (r[..8].try_into().unwrap(), r[8])).collect()
}

fn multiply(
    card: &Card,
    made: &Call,
    alpha: &[u8],
    beta: &[u8],
    at: [u64; 4],
    algorithm: &[u64; 8],
    (workspace, bytes): (u64, usize),
    stream: Handle,
) -> c_int {
    let [a, b, c, d] = made.layouts;
    call!(card.lt, cublasLtMatmul(
        made.handle => Handle, made.desc => Handle, alpha.as_ptr() => *const u8, at[0] => u64, a => Handle,
        at[1] => u64, b => Handle, beta.as_ptr() => *const u8, at[2] => u64, c => Handle, at[3] => u64, d => Handle,
        algorithm.as_ptr() => *const u64, workspace => u64, bytes => usize, stream => Handle
    ))
}

#[test]
fn products_of_all_operations() {
    let Some(card) = card() else { return };
    for (i, transposed) in [[false, false], [false, true], [true, false], [true, true]].into_iter().enumerate() {
        let case = Case { transposed, ..CASE };
        case.check(card, 10);
        Case { m: 33, n: 20, k: 65, batch: 3, alpha: -0.5, beta: 2.0, ..case }.check(card, 20 + i as u64);
        Case { m: 16, n: 6, k: 1, beta: 1.0, in_place: true, ..case }.check(card, 30);
    }
}

#[test]
fn products_of_all_types() {
    let Some(card) = card() else { return };
    let types = [
        (COMPUTE_32F, BF16, BF16),
        (COMPUTE_32F, BF16, F32),
        (COMPUTE_32F, F16, F16),
        (COMPUTE_32F, F16, F32),
        (COMPUTE_TF32, F32, F32),
        (COMPUTE_64F, F64, F64),
    ];
    for (compute, inputs, output) in types {
        Case { m: 17, n: 9, k: 12, compute, inputs, output, beta: 1.0, batch: 2, ..CASE }.check(card, 40);
    }
}

#[test]
fn wrong_products_are_refused() {
    let Some(card) = card() else { return };
    let made = CASE.describe(card);
    let at = [0; 4].map(|_: u64| card.alloc(4096));
    let one = 1f32.to_le_bytes();
    let zero = 0f32.to_le_bytes();
    let [(plain, none), (larger, some)] = heuristics(card, &made, 3)[..] else { panic!("two algorithms") };
    assert_eq!((none, some), (0, 1 << 20));
    let stream = null_mut();
    let status =
        |at, beta: &[u8], algorithm, workspace| multiply(card, &made, &one, beta, at, algorithm, workspace, stream);
    assert_eq!(status(at, &zero, &plain, (0, 0)), 0);
    assert_eq!(status(at, &zero, &larger, (0, 0)), INVALID_VALUE, "no workspace");
    assert_eq!(status(at, &zero, &[0; 8], (0, 0)), INVALID_VALUE, "no algorithm");
    assert_eq!(status([0, at[1], at[2], at[3]], &zero, &plain, (0, 0)), INVALID_VALUE, "A is null");
    assert_eq!(status([at[0], at[1], 0, at[3]], &zero, &plain, (0, 0)), 0, "C is not read");
    assert_eq!(status([at[0], at[1], 0, at[3]], &one, &plain, (0, 0)), INVALID_VALUE, "C is read");
    let odd = [at[0] + 4, at[1], at[2], at[3]];
    assert_eq!(status(odd, &zero, &plain, (0, 0)), INVALID_VALUE, "less aligned than was said");
    set_preference(card, &made, 5, &4u32);
    let (unaligned, _) = heuristics(card, &made, 1)[0];
    assert_eq!(status(odd, &zero, &unaligned, (0, 0)), 0);
    assert_eq!(status([at[0] + 4000, at[1], at[2], at[3]], &zero, &unaligned, (0, 0)), 13, "outside");
    set_layout(card, made.layouts[0], 4, &2i64);
    assert_eq!(status(at, &zero, &plain, (0, 0)), INVALID_VALUE, "a leading dimension");
    set_layout(card, made.layouts[0], 4, &8i64);
    set_layout(card, made.layouts[0], 2, &4u64);
    assert_eq!(status(at, &zero, &plain, (0, 0)), INVALID_VALUE, "shapes");
    set_layout(card, made.layouts[0], 2, &5u64);
    set_layout(card, made.layouts[0], 0, &BF16);
    assert_eq!(status(at, &zero, &plain, (0, 0)), NOT_SUPPORTED, "types");
    set_layout(card, made.layouts[0], 0, &F32);
    assert_eq!(status(at, &zero, &plain, (0, 0)), 0);
    assert_eq!(card.synchronize(), 0);
}

/// The product runs in the order of its stream, and reads alpha and beta at the call.
#[test]
fn products_keep_to_their_stream() {
    let Some(card) = card() else { return };
    let case = Case { m: 64, n: 64, k: 64, ..CASE };
    let made = case.describe(card);
    let bytes = 67 * 64 * 4;
    let [a, b, d] = [0; 3].map(|_: u64| card.alloc(bytes));
    let stream = card.stream();
    let (algorithm, _) = heuristics(card, &made, 1)[0];
    let ones = 1f32.to_bits();
    for at in [a, b] {
        let set = call!(card.cuda, cuMemsetD32Async(
            at => u64, ones => u32, bytes / 4 => usize, stream => Handle
        ));
        assert_eq!(set, 0);
    }
    for _ in 0..3 {
        let mut beta = 1f32.to_le_bytes();
        let first = multiply(card, &made, &beta, &0f32.to_le_bytes(), [a, b, 0, d], &algorithm, (0, 0), stream);
        let second = multiply(card, &made, &beta, &beta, [a, b, d, d], &algorithm, (0, 0), stream);
        beta.fill(0xff);
        assert_eq!((first, second), (0, 0));
    }
    assert_eq!(call!(card.cuda, cuStreamSynchronize(stream => Handle)), 0);
    let got = card.download::<f32>(d, 67 * 64);
    assert!((0..64 * 64).all(|i| got[i / 64 * 67 + i % 64] == 128.0));
}
