//! Every operation against PyTorch in f64 (`xtask/py/op_goldens.py`).
use crate::device::{Device, alibi, error, heads, plain, rope_table};
use crate::ops::PLAIN;
use backend::{DType, LogitLoss, Nonlinearity, Pairs, Scores};
use safetensors::{Dtype, SafeTensors};

static FILE: &[u8] = include_bytes!("../goldens/ops.safetensors");

/// The tensors of one operation.
struct Golden(&'static str);

impl Golden {
    fn bytes(&self, name: &str, dtype: Dtype) -> Vec<u8> {
        let file = SafeTensors::deserialize(FILE).expect("a safetensors file");
        let tensor = file.tensor(&format!("{}.{name}", self.0)).expect("in the file");
        assert_eq!(tensor.dtype(), dtype);
        tensor.data().to_vec()
    }
    fn f64(&self, name: &str) -> Vec<f64> {
        let bytes = self.bytes(name, Dtype::F64);
        bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
    }
    fn u32(&self, name: &str) -> Vec<u32> {
        let bytes = self.bytes(name, Dtype::U32);
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    }
    fn check(&self, float: DType, name: &str, got: &[f64]) {
        let limit = if float == DType::F64 { 1e-12 } else { 1e-5 };
        let error = error(got, &self.f64(name));
        assert!(error < limit, "{}.{name} in {float:?}: {error:e}", self.0);
    }
}

/// Runs the check in both float types.
fn for_floats(check: impl Fn(&mut Device, DType)) {
    for float in [DType::F64, DType::F32] {
        check(&mut Device::new(float, 2), float);
    }
}

#[test]
fn rmsnorm() {
    for (g, offset) in [(Golden("rmsnorm"), 0.0), (Golden("rmsnorm_offset"), 1.0)] {
        for_floats(|dev, float| {
            let (x, w) = (g.f64("x"), g.f64("w"));
            let [y, rstd] = dev.rmsnorm(&x, &w, offset);
            g.check(float, "y", &y);
            let [dx, dw] = dev.rmsnorm_backward([&x, &w, &rstd, &g.f64("dy")], offset, &vec![0.0; x.len()], None);
            g.check(float, "dx", &dx);
            g.check(float, "dw", &dw);
        });
    }
}

#[test]
fn layernorm() {
    let g = Golden("layernorm");
    for_floats(|dev, float| {
        let (x, w) = (g.f64("x"), g.f64("w"));
        let [y, stats] = dev.layernorm(&x, &w, &g.f64("b"));
        g.check(float, "y", &y);
        let [dx, dw, db] = dev.layernorm_backward([&x, &w, &stats, &g.f64("dy")], &vec![0.0; x.len()], None);
        g.check(float, "dx", &dx);
        g.check(float, "dw", &dw);
        g.check(float, "db", &db);
    });
}

#[test]
fn head_norm() {
    let (g, heads) = (Golden("head_norm"), heads(3, 1, 6));
    for_floats(|dev, float| {
        let (x, w) = (g.f64("x"), g.f64("w"));
        let [y, rstd] = dev.head_norm(&x, &w, heads);
        g.check(float, "y", &y);
        let [dx, dw] = dev.head_norm_backward([&x, &w, &rstd, &g.f64("dy")], heads, None);
        g.check(float, "dx", &dx);
        g.check(float, "dw", &dw);
    });
}

#[test]
fn unit_rows() {
    let (g, d) = (Golden("unit_rows"), 7);
    for_floats(|dev, float| {
        let [y, norms] = dev.unit_rows(&g.f64("w"), d);
        g.check(float, "y", &y);
        g.check(float, "dw", &dev.unit_rows_backward([&y, &norms, &g.f64("dy")], d, 1.0, None));
    });
}

#[test]
fn linear() {
    let (g, dims) = (Golden("linear"), [5, 7, 11]);
    for_floats(|dev, float| {
        let (x, w, dy) = (g.f64("x"), g.f64("w"), g.f64("dy"));
        g.check(float, "y", &dev.linear(&x, &w, dims, None));
        g.check(float, "dx", &dev.linear_backward_input(&dy, &w, dims));
        g.check(float, "dw", &dev.linear_backward_weight(&dy, &x, dims, 1.0, None));
    });
}

#[test]
fn embedding() {
    let g = Golden("embedding");
    for_floats(|dev, float| {
        g.check(float, "y", &dev.embedding(&g.u32("ids"), &g.f64("w"), 5, 1.0));
        g.check(float, "dw", &dev.embedding_backward(&g.u32("ids"), &g.f64("dy"), [6, 5], 1.0, None));
    });
}

#[test]
fn rope() {
    let heads = heads(3, 1, 10);
    for (g, pairs) in [(Golden("rope"), Pairs::Half), (Golden("rope_interleaved"), Pairs::Interleaved)] {
        for_floats(|dev, float| {
            let (positions, table) = (g.u32("positions"), rope_table(8, heads.dim));
            let by = (&*positions, &*table, pairs);
            g.check(float, "y", &dev.rotated(&g.f64("qkv"), by, heads));
            // The backward turns back: what it gives, turned again, is what it was given.
            g.check(float, "dy", &dev.rotated(&g.f64("dx"), by, heads));
        });
    }
}

#[test]
fn attention() {
    let (small, large) = (heads(4, 2, 4), heads(12, 3, 2));
    let all = Scores { scale: 0.8, cap: Some(2.0), window: Some(5), alibi: alibi(heads(3, 1, 4)) };
    let cases = [
        (Golden("attention"), heads(4, 2, 6), plain(heads(4, 2, 6))),
        (Golden("attention_mha"), heads(3, 3, 5), plain(heads(3, 3, 5))),
        (Golden("attention_window"), small, Scores { window: Some(3), ..plain(small) }),
        (Golden("attention_cap"), small, Scores { cap: Some(1.5), ..plain(small) }),
        (Golden("attention_alibi"), large, Scores { alibi: alibi(large), ..plain(large) }),
        (Golden("attention_all"), heads(3, 1, 4), all),
    ];
    for (g, heads, scores) in cases {
        for_floats(|dev, float| {
            let (qkv, cu_seqlens) = (g.f64("qkv"), g.u32("cu_seqlens"));
            let out = dev.attention(&qkv, &cu_seqlens, heads, scores);
            g.check(float, "o", &out[0]);
            g.check(float, "lse", &out[1]);
            g.check(float, "dqkv", &dev.attention_backward(&qkv, &cu_seqlens, &out, &g.f64("do"), heads, scores));
        });
    }
}

#[test]
fn nonlinearities() {
    let gated = Golden("swiglu");
    for_floats(|dev, float| {
        let h = gated.f64("h");
        gated.check(float, "s", &dev.gated(&h, 9, Nonlinearity::Silu));
        gated.check(float, "dh", &dev.gated_backward(&h, &gated.f64("ds"), 9, Nonlinearity::Silu));
    });
    for (g, by) in [(Golden("gelu"), Nonlinearity::Gelu), (Golden("gelu_tanh"), Nonlinearity::GeluTanh)] {
        for_floats(|dev, float| {
            g.check(float, "s", &dev.activation(&g.f64("h"), by));
            g.check(float, "dh", &dev.activation_backward(&g.f64("h"), &g.f64("ds"), by));
        });
    }
}

#[test]
fn cross_entropy() {
    let cases = [
        (Golden("cross_entropy"), PLAIN),
        (Golden("cross_entropy_smoothed"), LogitLoss { smoothing: 0.1, ..PLAIN }),
        (Golden("cross_entropy_capped"), LogitLoss { smoothing: 0.1, cap: Some(2.5) }),
    ];
    for (g, with) in cases {
        let nll = if with == PLAIN { "loss" } else { "nll" };
        for_floats(|dev, float| {
            let (logits, labels, types) = (g.f64("logits"), g.u32("labels"), (&[0; 6][..], 1));
            let [stats, dlogits] = dev.cross_entropy(&logits, &labels, types, [4.0, 1.0], with);
            g.check(float, "loss", &stats[..1]);
            g.check(float, nll, &stats[1..2]);
            g.check(float, "dlogits", &dlogits);
            let stats = dev.cross_entropy_loss(&logits, &labels, types, with.cap);
            g.check(float, nll, &stats[..1]);
            g.check(float, nll, &stats[1..2]);
        });
    }
}

#[test]
fn adamw() {
    let g = Golden("adamw");
    for_floats(|dev, float| {
        let [p, m, v] = ["p", "m", "v"].map(|name| g.f64(name));
        let [p, m, v] = dev.adamw(&g.f64("g"), [1.0, 0.7, 1.0], [&p, &m, &v]);
        g.check(float, "p1", &p);
        g.check(float, "m1", &m);
        g.check(float, "v1", &v);
    });
}
