//! One method an operation: its inputs as host vectors, its outputs as host vectors. `into` is what a gradient is added
//! to; without it the gradient is written.
use crate::device::{Device, plain};
use backend::{Heads, LogitLoss, LossScale, Nonlinearity, Op, Pairs, Rotation, Scores};

pub const EPS: f64 = 1e-5;
/// Labels alone: no smoothing, no cap.
pub const PLAIN: LogitLoss = LogitLoss { cap: None, smoothing: 0.0 };

/// positions (T), table (P, H)
pub type Rotate<'a> = (&'a [u32], &'a [f64], Pairs);

impl Device {
    pub fn embedding(&mut self, ids: &[u32], w: &[f64], d: usize, scale: f64) -> Vec<f64> {
        let (ids, w, y) = (self.int(ids), self.float(w), self.poison(ids.len() * d));
        let [y] = self.run(Op::Embedding { ids, w, y, d, scale, first: None }, [y]);
        y
    }
    pub fn embedding_backward(
        &mut self,
        ids: &[u32],
        dy: &[f64],
        [v, d]: [usize; 2],
        scale: f64,
        into: Option<&[f64]>,
    ) -> Vec<f64> {
        let (ids, dy, (dw, acc)) = (self.int(ids), self.float(dy), self.into(into, v * d));
        let [dw] = self.run(Op::EmbeddingBackward { ids, dy, dw, d, scale, first: None, acc }, [dw]);
        dw
    }

    pub fn linear(&mut self, x: &[f64], w: &[f64], dims: [usize; 3], into: Option<&[f64]>) -> Vec<f64> {
        let (x, w, y) = (self.float(x), self.float(w), self.poison(dims[0] * dims[2]));
        let add = into.map(|x| self.float(x));
        let [y] = self.run(Op::Linear { x, w, add, y, dims }, [y]);
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
        scale: f64,
        into: Option<&[f64]>,
    ) -> Vec<f64> {
        let (dy, x, (dw, acc)) = (self.float(dy), self.float(x), self.into(into, dims[2] * dims[1]));
        let [dw] = self.run(Op::LinearBackwardWeight { dy, x, dw, dims, scale, acc }, [dw]);
        dw
    }
    pub fn add_bias(&mut self, b: &[f64], y: &[f64]) -> Vec<f64> {
        let (b, y) = (self.float(b), self.float(y));
        let [y] = self.run(Op::AddBias { b, y }, [y]);
        y
    }
    pub fn bias_backward(&mut self, dy: &[f64], f: usize, into: Option<&[f64]>) -> Vec<f64> {
        let (dy, (db, acc)) = (self.float(dy), self.into(into, f));
        let [db] = self.run(Op::BiasBackward { dy, db, acc }, [db]);
        db
    }

    /// [y, rstd]
    pub fn rmsnorm(&mut self, x: &[f64], w: &[f64], offset: f64) -> [Vec<f64>; 2] {
        let t = x.len() / w.len();
        let (x, w, y, rstd) = (self.float(x), self.float(w), self.poison(x.len()), self.poison(t));
        self.run(Op::RmsNorm { x, w, y, rstd, eps: EPS, offset }, [y, rstd])
    }
    /// [dx, dw]; `residual` is in dx before.
    pub fn rmsnorm_backward(
        &mut self,
        [x, w, rstd, dy]: [&[f64]; 4],
        offset: f64,
        residual: &[f64],
        into: Option<&[f64]>,
    ) -> [Vec<f64>; 2] {
        let (dw, acc) = self.into(into, w.len());
        let [x, w, rstd, dy, dx] = [x, w, rstd, dy, residual].map(|x| self.float(x));
        self.run(Op::RmsNormBackward { x, w, rstd, dy, dx, dw, offset, acc }, [dx, dw])
    }
    /// [y, stats]
    pub fn layernorm(&mut self, x: &[f64], w: &[f64], b: &[f64]) -> [Vec<f64>; 2] {
        let (y, stats) = (self.poison(x.len()), self.poison(2 * (x.len() / w.len())));
        let [x, w, b] = [x, w, b].map(|x| self.float(x));
        self.run(Op::LayerNorm { x, w, b, y, stats, eps: EPS }, [y, stats])
    }
    /// [dx, dw, db]; `residual` is in dx before.
    pub fn layernorm_backward(
        &mut self,
        [x, w, stats, dy]: [&[f64]; 4],
        residual: &[f64],
        into: Option<[&[f64]; 2]>,
    ) -> [Vec<f64>; 3] {
        let (dw, acc) = self.into(into.map(|into| into[0]), w.len());
        let (db, _) = self.into(into.map(|into| into[1]), w.len());
        let [x, w, stats, dy, dx] = [x, w, stats, dy, residual].map(|x| self.float(x));
        self.run(Op::LayerNormBackward { x, w, stats, dy, dx, dw, db, acc }, [dx, dw, db])
    }
    /// [y, rstd]
    pub fn head_norm(&mut self, x: &[f64], w: &[f64], heads: Heads) -> [Vec<f64>; 2] {
        let rstd = self.poison(x.len() / heads.qkv() * (heads.n + heads.kv));
        let (y, x, w) = (self.poison(x.len()), self.float(x), self.float(w));
        self.run(Op::HeadNorm { x, w, y, rstd, heads, eps: EPS }, [y, rstd])
    }
    /// [the gradient of x, dw]
    pub fn head_norm_backward(
        &mut self,
        [x, w, rstd, dy]: [&[f64]; 4],
        heads: Heads,
        into: Option<&[f64]>,
    ) -> [Vec<f64>; 2] {
        let (dw, acc) = self.into(into, w.len());
        let [x, w, rstd, dqkv] = [x, w, rstd, dy].map(|x| self.float(x));
        self.run(Op::HeadNormBackward { x, w, rstd, dqkv, dw, heads, acc }, [dqkv, dw])
    }
    /// [y, norms]
    pub fn unit_rows(&mut self, w: &[f64], d: usize) -> [Vec<f64>; 2] {
        let (y, norms, w) = (self.poison(w.len()), self.poison(w.len() / d), self.float(w));
        self.run(Op::UnitRows { w, y, norms, d }, [y, norms])
    }
    pub fn unit_rows_backward(
        &mut self,
        [y, norms, dy]: [&[f64]; 3],
        d: usize,
        scale: f64,
        into: Option<&[f64]>,
    ) -> Vec<f64> {
        let (dw, acc) = self.into(into, y.len());
        let [y, norms, dy] = [y, norms, dy].map(|x| self.float(x));
        let [dw] = self.run(Op::UnitRowsBackward { y, norms, dy, dw, d, scale, acc }, [dw]);
        dw
    }

    pub fn rotation(&mut self, by: Option<Rotate>) -> Option<Rotation> {
        by.map(|(positions, table, pairs)| Rotation { positions: self.int(positions), table: self.float(table), pairs })
    }
    /// qkv with its queries and keys rotated, as attention leaves it.
    pub fn rotated(&mut self, qkv: &[f64], by: Rotate, heads: Heads) -> Vec<f64> {
        let t = qkv.len() / heads.qkv();
        self.attention_of(qkv, &[0, t as u32], Some(by), heads, plain(heads))[0].clone()
    }
    /// [qkv rotated, o, lse]
    pub fn attention_of(
        &mut self,
        qkv: &[f64],
        cu_seqlens: &[u32],
        by: Option<Rotate>,
        heads: Heads,
        scores: Scores,
    ) -> [Vec<f64>; 3] {
        let t = qkv.len() / heads.qkv();
        let (o, lse) = (self.poison(t * heads.out()), self.poison(t * heads.n));
        let (qkv, cu_seqlens, rotation) = (self.float(qkv), self.int(cu_seqlens), self.rotation(by));
        self.run(Op::Attention { qkv, cu_seqlens, rotation, o, lse, heads, scores }, [qkv, o, lse])
    }
    /// [o, lse], of what is not rotated
    pub fn attention(&mut self, qkv: &[f64], cu_seqlens: &[u32], heads: Heads, scores: Scores) -> [Vec<f64>; 2] {
        let [_, o, lse] = self.attention_of(qkv, cu_seqlens, None, heads, scores);
        [o, lse]
    }
    /// qkv, o, lse as `attention_of` gave them.
    pub fn attention_backward_of(
        &mut self,
        [qkv, o, lse]: [&[f64]; 3],
        cu_seqlens: &[u32],
        by: Option<Rotate>,
        d_o: &[f64],
        heads: Heads,
        scores: Scores,
    ) -> Vec<f64> {
        let (dqkv, cu_seqlens, rotation) = (self.poison(qkv.len()), self.int(cu_seqlens), self.rotation(by));
        let [qkv, o, lse, d_o] = [qkv, o, lse, d_o].map(|x| self.float(x));
        let [dqkv] =
            self.run(Op::AttentionBackward { qkv, cu_seqlens, rotation, o, lse, d_o, dqkv, heads, scores }, [dqkv]);
        dqkv
    }
    pub fn attention_backward(
        &mut self,
        qkv: &[f64],
        cu_seqlens: &[u32],
        [o, lse]: &[Vec<f64>; 2],
        d_o: &[f64],
        heads: Heads,
        scores: Scores,
    ) -> Vec<f64> {
        self.attention_backward_of([qkv, o, lse], cu_seqlens, None, d_o, heads, scores)
    }
    /// [o, the new cache]
    pub fn attention_cached(
        &mut self,
        qkv: &[f64],
        span: [u32; 2],
        cache: &[f64],
        heads: Heads,
        scores: Scores,
    ) -> [Vec<f64>; 2] {
        let o = self.poison(qkv.len() / heads.qkv() * heads.out());
        let (qkv, span, cache) = (self.float(qkv), self.int(&span), self.float(cache));
        self.run(Op::AttentionCached { qkv, span, rotation: None, cache, o, heads, scores }, [o, cache])
    }

    pub fn gated(&mut self, h: &[f64], f: usize, by: Nonlinearity) -> Vec<f64> {
        let (h, s) = (self.float(h), self.poison(h.len() / 2));
        let [s] = self.run(Op::Gated { h, s, f, by }, [s]);
        s
    }
    pub fn gated_backward(&mut self, h: &[f64], ds: &[f64], f: usize, by: Nonlinearity) -> Vec<f64> {
        let (h, ds) = (self.float(h), self.float(ds));
        let [dh] = self.run(Op::GatedBackward { h, ds, f, by }, [h]);
        dh
    }
    pub fn activation(&mut self, h: &[f64], by: Nonlinearity) -> Vec<f64> {
        let (h, s) = (self.float(h), self.poison(h.len()));
        let [s] = self.run(Op::Activation { h, s, by }, [s]);
        s
    }
    pub fn activation_backward(&mut self, h: &[f64], ds: &[f64], by: Nonlinearity) -> Vec<f64> {
        let (h, ds) = (self.float(h), self.float(ds));
        let [dh] = self.run(Op::ActivationBackward { h, ds, by }, [h]);
        dh
    }

    /// [stats, dlogits] of `kinds` types of tokens
    pub fn cross_entropy(
        &mut self,
        logits: &[f64],
        labels: &[u32],
        (types, kinds): (&[u32], usize),
        [count, scale]: [f64; 2],
        with: LogitLoss,
    ) -> [Vec<f64>; 2] {
        let v = logits.len() / labels.len();
        let (labels, types, logits) = (self.int(labels), self.int(types), self.float(logits));
        let (count, scale) = (self.double(&[count]), self.double(&[scale]));
        let stats = self.double(&vec![f64::NAN; 1 + 3 * kinds]);
        self.run(Op::CrossEntropy { labels, types, count, scale, logits, stats, v, with, acc: false }, [stats, logits])
    }
    /// stats
    pub fn cross_entropy_loss(
        &mut self,
        logits: &[f64],
        labels: &[u32],
        (types, kinds): (&[u32], usize),
        cap: Option<f64>,
    ) -> Vec<f64> {
        let v = logits.len() / labels.len();
        let (labels, types, logits) = (self.int(labels), self.int(types), self.float(logits));
        let stats = self.double(&vec![f64::NAN; 1 + 3 * kinds]);
        let [stats] = self.run(Op::CrossEntropyLoss { labels, types, logits, stats, v, cap, acc: false }, [stats]);
        stats
    }

    pub fn sum_squares(&mut self, x: &[f64], chunk: usize) -> Vec<f64> {
        let sums = self.double(&vec![f64::NAN; x.len().div_ceil(chunk)]);
        let x = self.float(x);
        let [sums] = self.run(Op::SumSquares { x, sums, chunk }, [sums]);
        sums
    }
    pub fn grad_norm(&mut self, sums: &[f64], count: f64, scale: f64, max_norm: f64) -> [f64; 3] {
        let (sums, count, norm) = (self.double(sums), self.double(&[count]), self.double(&[f64::NAN; 3]));
        let scale = self.double(&[scale, 0.0, 0.0]);
        let [norm] = self.run(Op::GradNorm { sums, count, scale, norm, max_norm }, [norm]);
        norm.try_into().unwrap()
    }
    pub fn loss_scale(&mut self, norm: [f64; 3], scale: [f64; 3], rule: LossScale) -> [f64; 3] {
        let (norm, scale) = (self.double(&norm), self.double(&scale));
        let [scale] = self.run(Op::LossScale { norm, scale, rule }, [scale]);
        scale.try_into().unwrap()
    }

    /// Step 3 with lr 1e-2, betas 0.9, 0.95, eps 1e-8, decay 0.1. [p, m, v]
    pub fn adamw(&mut self, g: &[f64], norm: [f64; 3], [p, m, v]: [&[f64]; 3]) -> [Vec<f64>; 3] {
        let (beta1, beta2) = (0.9_f64, 0.95_f64);
        let hyper = self.double(&[1e-2, 1.0 - beta1.powi(3), 1.0 - beta2.powi(3), beta2]);
        let norm = self.double(&norm);
        let [g, p, m, v] = [g, p, m, v].map(|x| self.float(x));
        self.run(Op::AdamW { g, norm, hyper, p, m, v, copy: None, beta1, eps: 1e-8, weight_decay: 0.1 }, [p, m, v])
    }
}
