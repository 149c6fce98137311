//! GFLOP/s of the three products of a linear layer, at the shapes of two models: `cargo run --release -p backend --example
//! products`.
use backend::{Backend, Cpu, DType, Op, Region, View, upload};
use std::time::Instant;

/// [T, D, F]
const SHAPES: [(&str, [usize; 3]); 10] = [
    ("15m qkv", [2048, 256, 512]),
    ("15m out", [2048, 256, 256]),
    ("15m gate|up", [2048, 256, 1536]),
    ("15m down", [2048, 768, 256]),
    ("15m head", [2048, 256, 8192]),
    ("125m qkv", [2048, 768, 1280]),
    ("125m out", [2048, 768, 768]),
    ("125m gate|up", [2048, 768, 4096]),
    ("125m down", [2048, 2048, 768]),
    ("125m head", [512, 768, 32000]),
];

fn main() {
    for threads in [1, 2] {
        measure(threads);
    }
}

fn measure(threads: usize) {
    println!("{threads} threads");
    println!("{:14} {:>18} {:>10} {:>10} {:>10}", "", "[T, D, F]", "y", "dx", "dw");
    for (name, dims) in SHAPES {
        let [t, d, f] = dims;
        let mut sizes = [0; backend::REGIONS.len()];
        sizes[Region::Act as usize] = 4 * (t * d + f * d + t * f);
        let mut cpu = Cpu::new(sizes, threads);
        let view = |offset, len| View { region: Region::Act, dtype: DType::F32, offset: 4 * offset, len };
        let [x, w, y] = [view(0, t * d), view(t * d, f * d), view(t * d + f * d, t * f)];
        for v in [x, w, y] {
            let values: Vec<f32> = (0..v.len).map(|i| (i * 2_654_435_761 % 1024) as f32 / 1024.0 - 0.5).collect();
            upload(&mut cpu, &values, v);
        }
        let ops = [
            Op::Linear { x, w, add: None, y, dims },
            Op::LinearBackwardInput { dy: y, w, dx: x, dims },
            Op::LinearBackwardWeight { dy: y, x, dw: w, dims, scale: 1e-6, acc: false },
        ];
        let rounds = (4e10 / ops[0].flops()).clamp(3.0, 30.0) as usize;
        let rates = ops.map(|op| {
            let mut times: Vec<f64> = (0..rounds)
                .map(|_| {
                    let began = Instant::now();
                    cpu.run(op);
                    began.elapsed().as_secs_f64()
                })
                .collect();
            times.sort_by(f64::total_cmp);
            op.flops() / times[rounds / 2] / 1e9
        });
        println!("{name:14} {:>18} {:>10.0} {:>10.0} {:>10.0}", format!("{dims:?}"), rates[0], rates[1], rates[2]);
    }
}
