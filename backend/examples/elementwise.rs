//! How near to memory speed everything is that is no product: `cargo run --release -p backend --example elementwise`.
//!
//! Milliseconds, the best of many runs, and GB/s of the bytes that must move: every tensor read once and written once.
use backend::{Backend, Cpu, DType, LogitLoss, Nonlinearity, Op, REGIONS, Region, View, upload};
use std::time::{Duration, Instant};

struct Shape {
    name: &'static str,
    params: usize,
    /// D, F, V
    dims: [usize; 3],
    /// Rows of logits at a time.
    rows: usize,
}

const T: usize = 2048;
const SHAPES: [Shape; 2] = [
    Shape { name: "15m", params: 10_490_000, dims: [256, 768, 8192], rows: 2048 },
    Shape { name: "125m", params: 124_670_000, dims: [768, 2048, 32_000], rows: 512 },
];

fn main() {
    for shape in SHAPES {
        for threads in [1, 2] {
            println!("{}, {threads} threads", shape.name);
            measure(&shape, threads);
        }
    }
}

struct Bench {
    cpu: Cpu,
    used: usize,
}

impl Bench {
    fn view(&mut self, dtype: DType, len: usize) -> View {
        let offset = self.used;
        self.used = (offset + len * dtype.bytes()).next_multiple_of(64);
        View { region: Region::Act, dtype, offset, len }
    }
    /// Numbers between -2 and 2, not in order.
    fn floats(&mut self, len: usize) -> View {
        let view = self.view(DType::F32, len);
        let x: Vec<f32> = (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 4e6 - 2.0).collect();
        upload(&mut self.cpu, &x, view);
        view
    }
    fn ints(&mut self, len: usize, below: usize) -> View {
        let view = self.view(DType::U32, len);
        let x: Vec<u32> = (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) % below as u32).collect();
        upload(&mut self.cpu, &x, view);
        view
    }
    fn doubles<const N: usize>(&mut self, x: [f64; N]) -> View {
        let view = self.view(DType::F64, N);
        upload(&mut self.cpu, &x, view);
        view
    }

    /// `floats`: how many f32 must move. `fresh` is run before each run, and not counted.
    fn time(&mut self, name: &str, floats: usize, fresh: Option<Op>, op: Op) {
        let (start, mut best, mut runs) = (Instant::now(), Duration::MAX, 0);
        while runs < 5 || start.elapsed() < Duration::from_millis(400) {
            fresh.iter().for_each(|op| self.cpu.run(*op));
            let start = Instant::now();
            self.cpu.run(op);
            best = best.min(start.elapsed());
            runs += 1;
        }
        let gb = floats as f64 * 4e-9;
        println!("  {name:20} {:9.3} ms {:6.1} GB/s", best.as_secs_f64() * 1e3, gb / best.as_secs_f64());
    }
}

fn measure(shape: &Shape, threads: usize) {
    let [d, f, v] = shape.dims;
    let mut sizes = [0; REGIONS.len()];
    sizes[Region::Act as usize] = 16 * shape.params + 4 * (5 * T * d + 3 * T * f + 2 * shape.rows * v) + (1 << 16);
    let bench = &mut Bench { cpu: Cpu::new(sizes, threads), used: 0 };

    let n = shape.params;
    let [g, p, m] = [(); 3].map(|_| bench.floats(n));
    let squares = bench.view(DType::F32, n);
    bench.cpu.run(Op::Fill { y: squares, value: 0.5 });
    bench.time("fill", n, None, Op::Fill { y: m, value: 0.5 });
    bench.time("copy", 2 * n, None, Op::Copy { x: g, y: m });
    bench.time("add", 3 * n, None, Op::Add { x: g, y: m });
    let chunk = 256;
    let sums = bench.view(DType::F64, n.div_ceil(chunk));
    bench.time("sum of squares", n, None, Op::SumSquares { x: g, sums, chunk });
    let (norm, hyper) = (bench.doubles([1.0; 3]), bench.doubles([1e-3, 0.1, 0.05, 0.95]));
    let step = Op::AdamW { g, norm, hyper, p, m, v: squares, copy: None, beta1: 0.9, eps: 1e-8, weight_decay: 0.1 };
    bench.time("adamw", 7 * n, None, step);

    // Of the parameters, the matrix of the embedding.
    let (ids, w, dw) = (bench.ints(T, v), p.sub(0, v * d), m.sub(0, v * d));
    let [x, dy, y, dx] = [(); 4].map(|_| bench.floats(T * d));
    bench.time("embedding", 2 * T * d, None, Op::Embedding { ids, w, y, d, scale: 1.0, first: None });
    let backward = Op::EmbeddingBackward { ids, dy, dw, d, scale: 1.0, first: None, acc: false };
    bench.time("embedding backward", v * d + 3 * T * d, None, backward);

    let (w, dw, rstd) = (p.sub(0, d), m.sub(0, d), bench.floats(T));
    bench.time("rmsnorm", 2 * T * d, None, Op::RmsNorm { x, w, y, rstd, eps: 1e-5, offset: 0.0 });
    let backward = Op::RmsNormBackward { x, w, rstd, dy, dx, dw, offset: 0.0, acc: false };
    bench.time("rmsnorm backward", 4 * T * d, None, backward);

    let (h, ds, by) = (bench.floats(2 * T * f), bench.floats(T * f), Nonlinearity::Silu);
    bench.time("swiglu", 3 * T * f, None, Op::Gated { h, s: ds, f, by });
    bench.time("swiglu backward", 5 * T * f, None, Op::GatedBackward { h, ds, f, by });

    let rows = shape.rows;
    let (labels, types) = (bench.ints(rows, v), bench.ints(rows, 1));
    let [kept, logits] = [(); 2].map(|_| bench.floats(rows * v));
    let (count, scale, stats) = (bench.doubles([T as f64]), bench.doubles([1.0]), bench.doubles([0.0; 4]));
    let loss = Op::CrossEntropyLoss { labels, types, logits, stats, v, cap: None, acc: false };
    bench.time("cross-entropy loss", rows * v, None, loss);
    let with = LogitLoss { cap: None, smoothing: 0.0 };
    let both = Op::CrossEntropy { labels, types, count, scale, logits, stats, v, with, acc: false };
    bench.time("cross-entropy", 2 * rows * v, Some(Op::Copy { x: kept, y: logits }), both);
}
