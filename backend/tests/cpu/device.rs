//! A `Cpu` for tests: host vectors in, one operation, host vectors out. Every output lies in memory full of NaN before
//! the operation writes it, so whatever an operation should not read shows.
use backend::{Backend, Cpu, DType, Element, Heads, Op, REGIONS, Region, View, download, upload};

pub const EPS: f64 = 1e-5;

pub struct Device {
    cpu: Cpu,
    float: DType,
    /// Bytes handed out for the operation at hand.
    used: usize,
    /// Where the memory of an operation begins.
    pub base: usize,
}

impl Device {
    pub fn new(float: DType, threads: usize) -> Device {
        let mut sizes = [0; REGIONS.len()];
        sizes[Region::Act as usize] = 48 << 20;
        Device { cpu: Cpu::new(sizes, threads), float, used: 0, base: 0 }
    }

    fn view(&mut self, dtype: DType, len: usize) -> View {
        let offset = self.base + self.used;
        self.used = (self.used + len * dtype.bytes()).next_multiple_of(8);
        View { region: Region::Act, dtype, offset, len }
    }
    fn put<E: Element>(&mut self, x: &[E]) -> View {
        let view = self.view(E::DTYPE, x.len());
        upload(&mut self.cpu, x, view);
        view
    }
    /// Numbers in the float type of the device.
    pub fn float(&mut self, x: &[f64]) -> View {
        match self.float {
            DType::F32 => self.put(&x.iter().map(|&x| x as f32).collect::<Vec<f32>>()),
            DType::F64 => self.put(x),
            DType::U32 => unreachable!("not a float"),
        }
    }
    pub fn double(&mut self, x: &[f64]) -> View {
        self.put(x)
    }
    pub fn int(&mut self, x: &[u32]) -> View {
        self.put(x)
    }
    pub fn poison(&mut self, len: usize) -> View {
        self.float(&vec![f64::NAN; len])
    }

    /// Runs the operation and brings some of its tensors back. The memory is free for the next one.
    pub fn run<const N: usize>(&mut self, op: Op, out: [View; N]) -> [Vec<f64>; N] {
        self.cpu.run(op);
        self.used = 0;
        out.map(|view| match view.dtype {
            DType::F32 => download::<f32>(&mut self.cpu, view).into_iter().map(f64::from).collect(),
            DType::F64 => download(&mut self.cpu, view),
            DType::U32 => download::<u32>(&mut self.cpu, view).into_iter().map(f64::from).collect(),
        })
    }

    // One method an operation. `into` is what a gradient is added to; without it the gradient is written.

    /// (fresh memory or what is to be added to, acc)
    fn into(&mut self, into: Option<&[f64]>, len: usize) -> (View, bool) {
        match into {
            Some(x) => (self.float(x), true),
            None => (self.poison(len), false),
        }
    }

    pub fn embedding(&mut self, ids: &[u32], w: &[f64], d: usize) -> Vec<f64> {
        let (ids, w, y) = (self.int(ids), self.float(w), self.poison(ids.len() * d));
        let [y] = self.run(Op::Embedding { ids, w, y, d }, [y]);
        y
    }
    pub fn embedding_backward(
        &mut self,
        ids: &[u32],
        dy: &[f64],
        [v, d]: [usize; 2],
        into: Option<&[f64]>,
    ) -> Vec<f64> {
        let (ids, dy, (dw, acc)) = (self.int(ids), self.float(dy), self.into(into, v * d));
        let [dw] = self.run(Op::EmbeddingBackward { ids, dy, dw, d, acc }, [dw]);
        dw
    }

    pub fn linear(&mut self, x: &[f64], w: &[f64], dims: [usize; 3], into: Option<&[f64]>) -> Vec<f64> {
        let (x, w, (y, acc)) = (self.float(x), self.float(w), self.into(into, dims[0] * dims[2]));
        let [y] = self.run(Op::Linear { x, w, y, dims, acc }, [y]);
        y
    }
    pub fn linear_backward_input(&mut self, dy: &[f64], w: &[f64], dims: [usize; 3]) -> Vec<f64> {
        let (dy, w, dx) = (self.float(dy), self.float(w), self.poison(dims[0] * dims[1]));
        let [dx] = self.run(Op::LinearBackwardInput { dy, w, dx, dims }, [dx]);
        dx
    }
    pub fn linear_backward_weight(
        &mut self,
        dy: &[f64],
        x: &[f64],
        dims: [usize; 3],
        into: Option<&[f64]>,
    ) -> Vec<f64> {
        let (dy, x, (dw, acc)) = (self.float(dy), self.float(x), self.into(into, dims[2] * dims[1]));
        let [dw] = self.run(Op::LinearBackwardWeight { dy, x, dw, dims, acc }, [dw]);
        dw
    }

    /// [y, rstd]
    pub fn rmsnorm(&mut self, x: &[f64], w: &[f64]) -> [Vec<f64>; 2] {
        let t = x.len() / w.len();
        let (x, w, y, rstd) = (self.float(x), self.float(w), self.poison(x.len()), self.poison(t));
        self.run(Op::RmsNorm { x, w, y, rstd, eps: EPS }, [y, rstd])
    }
    /// [dx, dw]; `residual` is in dx before.
    pub fn rmsnorm_backward(
        &mut self,
        x: &[f64],
        w: &[f64],
        rstd: &[f64],
        dy: &[f64],
        residual: &[f64],
        into: Option<&[f64]>,
    ) -> [Vec<f64>; 2] {
        let (dw, acc) = self.into(into, w.len());
        let (x, w, rstd) = (self.float(x), self.float(w), self.float(rstd));
        let (dy, dx) = (self.float(dy), self.float(residual));
        self.run(Op::RmsNormBackward { x, w, rstd, dy, dx, dw, acc }, [dx, dw])
    }

    pub fn rope(&mut self, qkv: &[f64], positions: &[u32], table: &[f64], heads: Heads, inverse: bool) -> Vec<f64> {
        let (qkv, positions, table) = (self.float(qkv), self.int(positions), self.float(table));
        let [qkv] = self.run(Op::Rope { qkv, positions, table, heads, inverse }, [qkv]);
        qkv
    }

    /// [o, lse]
    pub fn attention(&mut self, qkv: &[f64], cu_seqlens: &[u32], heads: Heads) -> [Vec<f64>; 2] {
        let t = qkv.len() / heads.qkv();
        let (o, lse) = (self.poison(t * heads.out()), self.poison(t * heads.n));
        let (qkv, cu_seqlens) = (self.float(qkv), self.int(cu_seqlens));
        self.run(Op::Attention { qkv, cu_seqlens, o, lse, heads }, [o, lse])
    }
    pub fn attention_backward(
        &mut self,
        qkv: &[f64],
        cu_seqlens: &[u32],
        [o, lse]: &[Vec<f64>; 2],
        d_o: &[f64],
        heads: Heads,
    ) -> Vec<f64> {
        let dqkv = self.poison(qkv.len());
        let (qkv, cu_seqlens, o) = (self.float(qkv), self.int(cu_seqlens), self.float(o));
        let (lse, d_o) = (self.float(lse), self.float(d_o));
        let [dqkv] = self.run(Op::AttentionBackward { qkv, cu_seqlens, o, lse, d_o, dqkv, heads }, [dqkv]);
        dqkv
    }
    /// [o, the new cache]
    pub fn attention_cached(&mut self, qkv: &[f64], span: [u32; 2], cache: &[f64], heads: Heads) -> [Vec<f64>; 2] {
        let o = self.poison(qkv.len() / heads.qkv() * heads.out());
        let (qkv, span, cache) = (self.float(qkv), self.int(&span), self.float(cache));
        self.run(Op::AttentionCached { qkv, span, cache, o, heads }, [o, cache])
    }

    pub fn swiglu(&mut self, h: &[f64], f: usize) -> Vec<f64> {
        let (h, s) = (self.float(h), self.poison(h.len() / 2));
        let [s] = self.run(Op::SwiGlu { h, s, f }, [s]);
        s
    }
    pub fn swiglu_backward(&mut self, h: &[f64], ds: &[f64], f: usize) -> Vec<f64> {
        let (h, ds, dh) = (self.float(h), self.float(ds), self.poison(h.len()));
        let [dh] = self.run(Op::SwiGluBackward { h, ds, dh, f }, [dh]);
        dh
    }

    /// [loss, dlogits]
    pub fn cross_entropy(&mut self, logits: &[f64], labels: &[u32], count: f64) -> [Vec<f64>; 2] {
        let v = logits.len() / labels.len();
        let (labels, count, logits) = (self.int(labels), self.double(&[count]), self.float(logits));
        let loss = self.double(&[f64::NAN]);
        self.run(Op::CrossEntropy { labels, count, logits, loss, v }, [loss, logits])
    }
    pub fn cross_entropy_loss(&mut self, logits: &[f64], labels: &[u32]) -> Vec<f64> {
        let v = logits.len() / labels.len();
        let (labels, logits, loss) = (self.int(labels), self.float(logits), self.double(&[f64::NAN]));
        let [loss] = self.run(Op::CrossEntropyLoss { labels, logits, loss, v }, [loss]);
        loss
    }

    pub fn sum_squares(&mut self, x: &[f64], chunk: usize) -> Vec<f64> {
        let sums = self.double(&vec![f64::NAN; x.len().div_ceil(chunk)]);
        let x = self.float(x);
        let [sums] = self.run(Op::SumSquares { x, sums, chunk }, [sums]);
        sums
    }
    pub fn grad_norm(&mut self, sums: &[f64], count: f64, max_norm: f64) -> Vec<f64> {
        let (sums, count, norm) = (self.double(sums), self.double(&[count]), self.double(&[f64::NAN; 3]));
        let [norm] = self.run(Op::GradNorm { sums, count, norm, max_norm }, [norm]);
        norm
    }

    /// Step 3 with lr 1e-2, betas 0.9, 0.95, eps 1e-8, decay 0.1. [p, m, v]
    pub fn adamw(&mut self, g: &[f64], norm: [f64; 3], [p, m, v]: [&[f64]; 3]) -> [Vec<f64>; 3] {
        let (beta1, beta2) = (0.9_f64, 0.95_f64);
        let hyper = self.double(&[1e-2, 1.0 - beta1.powi(3), 1.0 - beta2.powi(3)]);
        let (g, norm) = (self.float(g), self.double(&norm));
        let (p, m, v) = (self.float(p), self.float(m), self.float(v));
        self.run(Op::AdamW { g, norm, hyper, p, m, v, beta1, beta2, eps: 1e-8, weight_decay: 0.1 }, [p, m, v])
    }
}

/// Reproducible numbers of roughly unit variance, all exact in f32.
pub fn draw(seed: u64, len: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as f64 / (1u64 << 31) as f64
    };
    (0..len).map(|_| ((uniform() + uniform() + uniform() - 1.5) * 2.0) as f32 as f64).collect()
}

/// `len` indices below `n`, repeating.
pub fn indices(seed: u64, len: usize, n: usize) -> Vec<u32> {
    draw(seed, len).iter().map(|x| (x.abs() * 1e4) as u32 % n as u32).collect()
}

/// Cosines and sines of positions 0 .. p.
pub fn rope_table(p: usize, dim: usize) -> Vec<f64> {
    let row = |position: usize| {
        let angle = move |i: usize| position as f64 * 1e4_f64.powf(-2.0 * i as f64 / dim as f64);
        (0..dim / 2).map(move |i| angle(i).cos()).chain((0..dim / 2).map(move |i| angle(i).sin()))
    };
    (0..p).flat_map(row).collect()
}

/// max |a - b| / max |b|; infinite if anything is not a number.
pub fn error(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let max = |x: &mut dyn Iterator<Item = f64>| {
        x.fold(0.0, |m: f64, x| if x.is_finite() { m.max(x.abs()) } else { f64::INFINITY })
    };
    let scale = max(&mut b.iter().copied());
    let off = max(&mut a.iter().zip(b).map(|(a, b)| a - b));
    if off == 0.0 { 0.0 } else { off / scale }
}
