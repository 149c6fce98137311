//! GFLOP/s of attention at the shapes of the two reference models, on one and two threads:
//!
//! ```text
//! cargo run --release -p backend --example attention
//! ```
//! What is counted: 4 H N for each pair of a query and a key that it sees, forward; twice that, backward.
use backend::{
    Backend, Cpu, DType, Heads, Op, Pairs, REGIONS, Region, Rotation, Scores, Sizes, View, upload, upload_floats,
};
use std::time::Instant;

const ROUNDS: usize = 40;

struct Bench {
    cpu: Cpu,
    used: usize,
}

impl Bench {
    fn view(&mut self, dtype: DType, len: usize) -> View {
        let offset = self.used;
        self.used += (len * dtype.bytes()).next_multiple_of(64);
        View { region: Region::Act, dtype, offset, len }
    }
    /// Numbers between -1 and 1.
    fn draw(&mut self, len: usize) -> View {
        let view = self.view(DType::F32, len);
        let mut state = 1u32;
        let mut uniform = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let x: Vec<f32> = (0..len).map(|_| uniform()).collect();
        upload_floats(&mut self.cpu, &x, view);
        view
    }
    /// The least seconds of some runs.
    fn time(&mut self, op: Op) -> f64 {
        let mut once = || {
            let start = Instant::now();
            self.cpu.run(op);
            start.elapsed().as_secs_f64()
        };
        (0..ROUNDS).map(|_| once()).fold(f64::INFINITY, f64::min)
    }
}

/// (P, H): cosines and sines of each position.
fn rotations(positions: usize, dim: usize) -> Vec<f32> {
    let angle = |i: usize| (i / dim) as f32 * 1e4f32.powf(-2.0 * (i % (dim / 2)) as f32 / dim as f32);
    (0..positions * dim).map(|i| if i % dim < dim / 2 { angle(i).cos() } else { angle(i).sin() }).collect()
}

fn main() {
    let models = [
        ("15m", Heads { n: 8, kv: 4, dim: 32 }, [512; 4].as_slice()),
        ("125m", Heads { n: 12, kv: 4, dim: 64 }, &[1024; 2]),
    ];
    for (name, heads, segments) in models {
        for threads in [1, 2] {
            let mut sizes: Sizes = [0; REGIONS.len()];
            sizes[Region::Act as usize] = 64 << 20;
            let mut b = Bench { cpu: Cpu::new(sizes, threads), used: 0 };
            let t: usize = segments.iter().sum();
            let mut ends = vec![0u32];
            ends.extend(segments.iter().scan(0, |end, n| {
                *end += *n as u32;
                Some(*end)
            }));
            let positions: Vec<u32> = segments.iter().flat_map(|&n| 0..n as u32).collect();
            let cu_seqlens = b.view(DType::U32, ends.len());
            upload(&mut b.cpu, &ends, cu_seqlens);
            let rotated = b.view(DType::U32, t);
            upload(&mut b.cpu, &positions, rotated);
            let table = b.view(DType::F32, segments[0] * heads.dim);
            upload_floats(&mut b.cpu, &rotations(segments[0], heads.dim), table);
            let rotation = Some(Rotation { positions: rotated, table, pairs: Pairs::Half });
            let scores = Scores { scale: 1.0 / (heads.dim as f64).sqrt(), cap: None, window: None, alibi: None };
            let [qkv, dqkv] = [0; 2].map(|_| b.draw(t * heads.qkv()));
            let [o, d_o] = [0; 2].map(|_| b.draw(t * heads.out()));
            let lse = b.draw(t * heads.n);

            let pairs: usize = segments.iter().map(|n| n * (n + 1) / 2).sum();
            let flops = (4 * pairs * heads.out()) as f64;
            let forward = b.time(Op::Attention { qkv, cu_seqlens, rotation, o, lse, heads, scores });
            let backward =
                b.time(Op::AttentionBackward { qkv, cu_seqlens, rotation, o, lse, d_o, dqkv, heads, scores });
            let [forward, backward] = [flops / forward, 2.0 * flops / backward].map(|x| x / 1e9);
            println!("{name:>4}, {threads} threads: forward {forward:.0} GFLOP/s, backward {backward:.0} GFLOP/s");
        }
    }
}
