//! Kernels: threads of a block, shared memory, warps, tensor cores, roundings.
mod common;
use common::{Arg, call, card, in_process, is_alone, numbers};
use half::{bf16, f16};
use std::ffi::c_int;

const REDUCE: &str = "
#include \"test.cuh\"
KERNEL __launch_bounds__(256) reduce(float *out, const float *in, u32 n, double scale) {
    __shared__ float room[256];
    float x = 0;
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) x += in[i];
    room[threadIdx.x] = x;
    for (u32 d = blockDim.x / 2; d > 0; d /= 2) {
        BARRIER;
        if (threadIdx.x < d) room[threadIdx.x] += room[threadIdx.x + d];
    }
    if (threadIdx.x == 0) out[blockIdx.x] = room[0] * scale;
}
ENTRY(reduce)
";

/// The sums that three blocks find, of 1000 ones.
fn reduce(barrier: &str) -> Option<Vec<f32>> {
    let card = card()?;
    let kernel = card.kernel(&format!("#define BARRIER {barrier}\n{REDUCE}"), "reduce");
    let (out, input) = (card.alloc(12), card.upload(&vec![1f32; 1000]));
    card.run(kernel, 3, 256, 0, &[Arg::At(out), Arg::At(input), Arg::U32(1000), Arg::F64(0.5)]);
    Some(card.download(out, 3))
}

#[test]
fn a_block_reduces() {
    let Some(sums) = reduce("__syncthreads()") else { return };
    assert_eq!(sums, [500.0; 3]);
}

#[test]
fn alone_with_barrier() {
    assert!(!is_alone() || reduce("__syncthreads()").unwrap() == [500.0; 3]);
}

#[test]
fn alone_without_barrier() {
    assert!(!is_alone() || reduce("").unwrap() == [500.0; 3]);
}

#[test]
fn a_missing_barrier_shows() {
    if card().is_none() {
        return;
    }
    for seed in ["1", "2", "3"] {
        let environment = [("CUDA_EMULATOR_DELAYS", seed)];
        assert!(in_process("alone_with_barrier", &environment).0);
        assert!(!in_process("alone_without_barrier", &environment).0);
    }
}

#[test]
fn lanes_exchange() {
    let Some(card) = card() else { return };
    let source = "
        #include \"test.cuh\"
        KERNEL exchange(int *out, double *wide) {
            const u32 ALL = 0xffffffffu;
            int lane = threadIdx.x % 32, id = threadIdx.x;
            int got[8] = {
                __shfl_sync(ALL, id, 5), __shfl_xor_sync(ALL, id, 3), __shfl_up_sync(ALL, id, 2), __shfl_down_sync(ALL, id, 2),
                (int)__ballot_sync(ALL, lane % 3 == 0), __any_sync(ALL, lane == 7), __all_sync(ALL, lane < 31),
                __shfl_down_sync(ALL, id, 1, 8)
            };
            // Halves of a warp may go their own ways.
            int half = 0;
            if (lane < 16) for (int i = 0; i < 3; i++) half += __shfl_sync(0xffffu, id, i);
            else half = __shfl_xor_sync(0xffff0000u, id, 1);
            __syncwarp();
            for (int i = 0; i < 8; i++) out[id * 9 + i] = got[i];
            out[id * 9 + 8] = half;
            double sum = id;
            for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(ALL, sum, d);
            wide[id] = sum;
        }
        ENTRY(exchange)";
    let kernel = card.kernel(source, "exchange");
    let (out, wide) = (card.alloc(64 * 9 * 4), card.alloc(64 * 8));
    card.run(kernel, 1, 64, 0, &[Arg::At(out), Arg::At(wide)]);
    let got = card.download::<i32>(out, 64 * 9);
    let sums = card.download::<f64>(wide, 64);
    for id in 0..64i32 {
        let (lane, base) = (id % 32, id / 32 * 32);
        let ballot = (0..32).filter(|lane| lane % 3 == 0).map(|lane| 1u32 << lane).sum::<u32>() as i32;
        let up = if lane < 2 { id } else { id - 2 };
        let down = if lane > 29 { id } else { id + 2 };
        let eighth = if lane % 8 == 7 { id } else { id + 1 };
        let half = if lane < 16 { 3 * base + 3 } else { id ^ 1 };
        let expected = [base + 5, id ^ 3, up, down, ballot, 1, 0, eighth, half];
        assert_eq!(got[id as usize * 9..][..9], expected, "thread {id}");
        assert_eq!(sums[id as usize], (base..base + 32).sum::<i32>() as f64);
    }
}

#[test]
fn dynamic_shared_memory_needs_permission() {
    let Some(card) = card() else { return };
    let source = "
        #include \"test.cuh\"
        KERNEL reverse(float *x, u32 n) {
            DYNAMIC_SHARED(float, room);
            for (u32 i = threadIdx.x; i < n; i += blockDim.x) room[i] = x[i];
            __syncthreads();
            for (u32 i = threadIdx.x; i < n; i += blockDim.x) x[i] = room[n - 1 - i];
        }
        ENTRY(reverse)";
    let kernel = card.kernel(source, "reverse");
    let count = 20000u32;
    let values = numbers(count as usize, 1);
    let args = [Arg::At(card.upload(&values)), Arg::U32(count)];
    let launch = || card.launch(kernel, 1, 96, count * 4, std::ptr::null_mut(), &args);
    assert_eq!(launch(), 1);
    assert_eq!(call!(card.cuda, cuFuncSetAttribute(kernel => common::Handle, 8 => c_int, 80000 => c_int)), 0);
    assert_eq!(launch(), 0);
    let Arg::At(at) = args[0] else { unreachable!() };
    let reversed: Vec<f32> = values.iter().rev().copied().collect();
    assert_eq!(card.download::<f32>(at, count as usize), reversed);
    assert_eq!(card.launch(kernel, 1, 1025, 0, std::ptr::null_mut(), &args), 1);
    assert_eq!(card.launch(kernel, 0, 32, 0, std::ptr::null_mut(), &args), 1);
}

/// A 16 x 16 times B 16 x 8, once as fragments from ldmatrix; B lies by columns, or by rows and is transposed on the way.
#[test]
fn tensor_cores_multiply() {
    let Some(card) = card() else { return };
    let source = "
        #include \"test.cuh\"
        KERNEL multiply(float *c, const u16 *a, const u16 *b_columns, const u16 *b_rows) {
            DYNAMIC_SHARED(u16, room);
            u32 lane = threadIdx.x;
            u16 *as = room, *bc = room + 256, *br = room + 384;
            for (u32 i = 0; i < 256; i += 32) as[i + lane] = a[i + lane];
            for (u32 i = 0; i < 128; i += 32) bc[i + lane] = b_columns[i + lane], br[i + lane] = b_rows[i + lane];
            __syncthreads();
            u32 fa[4], fb[2], fc[2], fat[4];
            // The matrices of A: upper left, lower left, upper right, lower right.
            ldmatrix_x4(fa, as + lane % 16 * 16 + lane / 16 * 8);
            ldmatrix_x2(fb, bc + lane % 8 * 16 + lane / 8 % 2 * 8);
            ldmatrix_x2_trans(fc, br + lane % 16 * 8);
            ldmatrix_x4_trans(fat, as + lane % 16 * 16 + lane / 16 * 8);
            float x[4] = {1, 1, 1, 1}, y[4] = {}, z[4] = {};
            mma_16816<TYPE>(x, fa, fb);
            mma_16816<TYPE>(y, fa, fc);
            // Each matrix transposed, and the two outside of the diagonal exchanged: A transposed.
            u32 turned[4] = {fat[0], fat[2], fat[1], fat[3]};
            mma_16816<TYPE>(z, turned, fb);
            for (u32 i = 0; i < 4; i++) {
                u32 at = (lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2;
                c[at] = x[i]; c[128 + at] = y[i]; c[256 + at] = z[i];
            }
        }
        ENTRY(multiply)";
    let (a, b) = (numbers(256, 2), numbers(128, 3));
    let check = |name: &str, to: &dyn Fn(f32) -> u16, from: &dyn Fn(u16) -> f32| {
        let kernel = card.kernel(&format!("#define TYPE {name}\n{source}"), "multiply");
        let a: Vec<u16> = a.iter().map(|x| to(*x)).collect();
        let b: Vec<u16> = b.iter().map(|x| to(*x)).collect();
        // By rows, of b[k][n].
        let by_columns: Vec<u16> = (0..128).map(|i| b[i % 16 * 8 + i / 16]).collect();
        let c = card.alloc(3 * 128 * 4);
        let args = [Arg::At(c), Arg::At(card.upload(&a)), Arg::At(card.upload(&by_columns)), Arg::At(card.upload(&b))];
        card.run(kernel, 1, 32, 1024, &args);
        let c = card.download::<f32>(c, 3 * 128);
        for i in 0..16 {
            for j in 0..8 {
                let product = |turned: bool| -> f32 {
                    let a = |k: usize| from(a[if turned { k * 16 + i } else { i * 16 + k }]);
                    (0..16).map(|k| a(k) * from(b[k * 8 + j])).sum()
                };
                let expected = [1.0 + product(false), product(false), product(true)];
                for (part, expected) in expected.into_iter().enumerate() {
                    let got = c[part * 128 + i * 8 + j];
                    assert!((got - expected).abs() < 1e-5, "{name} {part} at {i}, {j}: {got} for {expected}");
                }
            }
        }
    };
    check("bf16", &|x| bf16::from_f32(x).to_bits(), &|x| bf16::from_bits(x).to_f32());
    check("f16", &|x| f16::from_f32(x).to_bits(), &|x| f16::from_bits(x).to_f32());
}

/// What a copy in the background brings, and what lies there before the wait.
#[test]
fn copies_arrive_at_the_wait() {
    let Some(card) = card() else { return };
    let source = "
        #include \"test.cuh\"
        KERNEL fetch(float *out, const float *in) {
            __shared__ __align__(16) float room[8 * 32];
            u32 t = threadIdx.x;
            copy_async<16>(room + t * 4, in + t * 4, t % 2 == 0);
            copy_async_commit();
            copy_async<4>(room + 128 + t, in + t, true);
            copy_async_commit();
            out[t] = room[t * 4 + 1];
            copy_async_wait<1>();
            out[32 + t] = room[t * 4 + 1];
            out[64 + t] = room[128 + t];
            copy_async_wait<0>();
            out[96 + t] = room[128 + t];
        }
        ENTRY(fetch)";
    let kernel = card.kernel(source, "fetch");
    let values = numbers(128, 4);
    let out = card.alloc(128 * 4);
    card.run(kernel, 1, 32, 0, &[Arg::At(out), Arg::At(card.upload(&values))]);
    let got = card.download::<f32>(out, 128);
    for t in 0..32 {
        assert!(got[t].is_nan() && got[64 + t].is_nan(), "nothing before the wait");
        assert_eq!(got[32 + t], if t % 2 == 0 { values[t * 4 + 1] } else { 0.0 });
        assert_eq!(got[96 + t], values[t]);
    }
}

#[test]
fn halves_round_as_they_should() {
    let Some(card) = card() else { return };
    let source = "
        #include \"test.cuh\"
        KERNEL round(u16 *b, u16 *h, float *wide, const u32 *in, u32 n) {
            u32 i = blockIdx.x * blockDim.x + threadIdx.x;
            if (i >= n) return;
            float x = bits_to_float(in[i]);
            b[i] = to_bf16(x).bits;
            h[i] = to_f16(x).bits;
            wide[i] = widen(f16{(u16)i});
        }
        ENTRY(round)";
    let kernel = card.kernel(source, "round");
    let mut state = 5u64;
    let mut bits: Vec<u32> = (0..1 << 18)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 32) as u32
        })
        .collect();
    // All codes of either type, and what lies half-way behind each.
    for code in 0..=u16::MAX {
        let (b, h) = ((code as u32) << 16, f16::from_bits(code).to_f32().to_bits());
        bits.extend([b, b | 0x8000, b | 0x8001, b | 0x7fff, h, h | 0x1000, h | 0x1001, h | 0xfff]);
    }
    let n = bits.len();
    let (b, h, wide) = (card.alloc(n * 2), card.alloc(n * 2), card.alloc(n * 4));
    let args = [Arg::At(b), Arg::At(h), Arg::At(wide), Arg::At(card.upload(&bits)), Arg::U32(n as u32)];
    card.run(kernel, (n as u32).div_ceil(256), 256, 0, &args);
    let (b, h, wide) = (card.download::<u16>(b, n), card.download::<u16>(h, n), card.download::<f32>(wide, n));
    for i in 0..n {
        let x = f32::from_bits(bits[i]);
        if x.is_nan() {
            assert!(bf16::from_bits(b[i]).is_nan() && f16::from_bits(h[i]).is_nan());
        } else {
            assert_eq!(b[i], bf16::from_f32(x).to_bits(), "bf16 of {x}");
            assert_eq!(h[i], f16::from_f32(x).to_bits(), "f16 of {x}");
        }
        let code = f16::from_bits(i as u16).to_f32();
        assert!(wide[i].to_bits() == code.to_bits() || (wide[i].is_nan() && code.is_nan()));
    }
}

#[test]
fn atomics_add_up() {
    let Some(card) = card() else { return };
    let source = "
        #include \"test.cuh\"
        KERNEL count(u32 *n, float *x, u32 *most, u32 *locked) {
            u32 i = blockIdx.x * blockDim.x + threadIdx.x;
            atomicAdd(n, 1u);
            atomicAdd(x, 0.5f);
            atomicMax(most, i);
            if (atomicCAS(locked, 0u, 1u) == 0) *locked = 7;
        }
        ENTRY(count)";
    let kernel = card.kernel(source, "count");
    let at = [0; 4].map(|zero: u32| card.upload(&[zero]));
    card.run(kernel, 10, 100, 0, &at.map(Arg::At));
    let [n, x, most, locked] = at.map(|at| card.download::<u32>(at, 1)[0]);
    assert_eq!((n, f32::from_bits(x), most, locked), (1000, 500.0, 999, 7));
}
