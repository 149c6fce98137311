//! What stands around attention by cuDNN, on the emulator, whose device memory the host can read: in the place of cuDNN's
//! plan a formula, which knows segments only from the lengths and offsets that it is given.
use crate::device::{Device, draw, error, heads, plain, rope_table};
use crate::under_test::site;
use backend::{DType, Heads, Op, Pairs, REGIONS, Region, Rotation, Scores};
use cuda::cudnn::Pass;
use cuda::work::{Attend, ByCudnn, Place};
use cuda::{Attends, Cuda, Needs, Site};
use half::bf16;

struct Formula;

/// Numbers of emulated memory.
struct Numbers<T>(*mut T);
impl<T: Copy> Numbers<T> {
    fn at(place: Place, address: &dyn Fn(Place) -> u64) -> Numbers<T> {
        Numbers(address(place) as *mut T)
    }
    fn get(&self, i: usize) -> T {
        // SAFETY: emulated memory is the host's, and the card is idle.
        unsafe { *self.0.add(i) }
    }
    fn set(&self, i: usize, x: T) {
        // SAFETY: as above.
        unsafe { *self.0.add(i) = x }
    }
}

impl Attends for Formula {
    fn run(&mut self, attend: &Attend, address: &dyn Fn(Place) -> u64) {
        site().card.synchronize();
        let Attend { shape, inputs, .. } = *attend;
        let Heads { n, kv, dim } = shape.heads;
        let bf = |place: Place| Numbers::<bf16>::at(place, address);
        let ([q, k, v], [dq, dk, dv]) = (inputs.map(bf), attend.gradients.map(bf));
        let (o, d_o, lse) = (bf(attend.o), bf(attend.d_o), Numbers::<f32>::at(attend.lse, address));
        let lengths = Numbers::<i32>::at(attend.lengths, address);
        let [of_qkv, of_out, of_kv, of_lse] = attend.offsets.map(|place| Numbers::<i64>::at(place, address));
        let scale = f64::from_bits(shape.scale_bits);
        for s in 0..shape.segments {
            let at = |offsets: &Numbers<i64>| offsets.get(s) as usize;
            let (qkv, out, small, stat) = (at(&of_qkv), at(&of_out), at(&of_kv), at(&of_lse));
            let length = lengths.get(s) as usize;
            let row = shape.heads.qkv();
            let read = |x: &Numbers<bf16>, i: usize| x.get(i).to_f64();
            let mut sums = vec![0.0; 2 * length * kv * dim];
            for h in 0..n {
                let g = h * kv / n;
                let from = |x: &Numbers<bf16>, i: usize, head: usize, c: usize| read(x, qkv + i * row + head * dim + c);
                let dot = |i: usize, j: usize| (0..dim).map(|c| from(&q, i, h, c) * from(&k, j, g, c)).sum::<f64>();
                for i in 0..length {
                    let first = shape.window.map_or(0, |window| (i + 1).saturating_sub(window));
                    let z: Vec<f64> = (first..=i).map(|j| scale * dot(i, j)).collect();
                    let most = z.iter().copied().fold(f64::MIN, f64::max);
                    let total = most + z.iter().map(|z| (z - most).exp()).sum::<f64>().ln();
                    let place = |c: usize| out + (i * n + h) * dim + c;
                    if attend.pass == Pass::Forward {
                        lse.set(stat + i * n + h, total as f32);
                        for c in 0..dim {
                            let sum = z.iter().enumerate().map(|(j, z)| (z - total).exp() * from(&v, first + j, g, c));
                            o.set(place(c), bf16::from_f64(sum.sum()));
                        }
                        continue;
                    }
                    let total = f64::from(lse.get(stat + i * n + h));
                    let delta: f64 = (0..dim).map(|c| read(&o, place(c)) * read(&d_o, place(c))).sum();
                    let mut of_q = vec![0.0; dim];
                    for (j, z) in (first..).zip(z) {
                        let p = (z - total).exp();
                        let dp: f64 = (0..dim).map(|c| read(&d_o, place(c)) * from(&v, j, g, c)).sum();
                        let ds = p * (dp - delta) * scale;
                        for c in 0..dim {
                            of_q[c] += ds * from(&k, j, g, c);
                            sums[(j * kv + g) * dim + c] += ds * from(&q, i, h, c);
                            sums[length * kv * dim + (j * kv + g) * dim + c] += p * read(&d_o, place(c));
                        }
                    }
                    (0..dim).for_each(|c| dq.set(place(c), bf16::from_f64(of_q[c])));
                }
            }
            if attend.pass == Pass::Backward {
                let (of_k, of_v) = sums.split_at(length * kv * dim);
                for (i, (x, y)) in of_k.iter().zip(of_v).enumerate() {
                    dk.set(small + i, bf16::from_f64(*x));
                    dv.set(small + i, bf16::from_f64(*y));
                }
            }
        }
    }
}

fn device() -> Device {
    let facts = cuda::work::Card { cudnn: Some(ByCudnn { deterministic: false }), ..site().facts };
    let site = Site { facts, ..site().clone() };
    let mut sizes = [0; REGIONS.len()];
    sizes[Region::Act as usize] = 48 << 20;
    let dev = Cuda::attending(&site, sizes, &Needs::scratch(64 << 20), Box::new(Formula)).unwrap();
    Device::on(Box::new(dev), DType::BF16)
}

/// Forward and backward of one attention: qkv rotated, o, lse; dqkv. Activations in bf16 or, on the CPU, in f64.
fn attention(
    dev: &mut Device,
    [qkv, d_o]: [&[f64]; 2],
    cu_seqlens: &[u32],
    pairs: Option<Pairs>,
    heads: Heads,
    scores: Scores,
) -> [Vec<f64>; 4] {
    let (t, statistics) = (qkv.len() / heads.qkv(), if dev.float == DType::F64 { DType::F64 } else { DType::F32 });
    let table = rope_table(t, heads.dim);
    let positions: Vec<u32> = (0..t as u32).collect();
    let lse = dev.stored(statistics, &vec![f64::NAN; t * heads.n]);
    let (qkv, d_o, cu_seqlens) = (dev.float(qkv), dev.float(d_o), dev.int(cu_seqlens));
    let (o, dqkv) = (dev.poison(t * heads.out()), dev.poison(qkv.len));
    let rotation =
        pairs.map(|pairs| Rotation { positions: dev.int(&positions), table: dev.stored(statistics, &table), pairs });
    let forward = Op::Attention { qkv, cu_seqlens, rotation, o, lse, heads, scores };
    let [] = dev.run_on(forward, []);
    dev.run(Op::AttentionBackward { qkv, cu_seqlens, rotation, o, lse, d_o, dqkv, heads, scores }, [qkv, o, lse, dqkv])
}

#[test]
fn around_cudnn_all_is_in_its_place() {
    let (mut card, mut cpu) = (device(), Device::on_cpu(DType::F64));
    let round = |x: Vec<f64>| -> Vec<f64> { x.into_iter().map(|x| bf16::from_f64(x).to_f64()).collect() };
    let t = 37;
    for (heads, window) in [(heads(4, 2, 16), None), (heads(3, 3, 32), Some(5)), (heads(6, 1, 16), None)] {
        let scores = Scores { window, ..plain(heads) };
        let (qkv, d_o) = (round(draw(1, t * heads.qkv())), round(draw(2, t * heads.out())));
        for cu_seqlens in [&[0, 37][..], &[0, 1, 20, 37], &[0, 5, 5, 36, 37, 37]] {
            for pairs in [None, Some(Pairs::Half), Some(Pairs::Interleaved)] {
                let [got, want] =
                    [&mut card, &mut cpu].map(|dev| attention(dev, [&qkv, &d_o], cu_seqlens, pairs, heads, scores));
                for (what, (got, want)) in ["qkv", "o", "lse", "dqkv"].iter().zip(got.iter().zip(&want)) {
                    let error = error(got, want);
                    assert!(error < 2e-2, "{heads:?} {cu_seqlens:?} {pairs:?} {what}: {error:e}");
                }
            }
        }
    }
}
