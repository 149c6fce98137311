//! Every operation against PyTorch in f64 (`xtask/py/op_goldens.py`).
use crate::device::{Device, error, rope_table};
use backend::{DType, Heads};
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
    let g = Golden("rmsnorm");
    for_floats(|dev, float| {
        let (x, w) = (g.f64("x"), g.f64("w"));
        let [y, rstd] = dev.rmsnorm(&x, &w);
        g.check(float, "y", &y);
        let [dx, dw] = dev.rmsnorm_backward(&x, &w, &rstd, &g.f64("dy"), &vec![0.0; x.len()], None);
        g.check(float, "dx", &dx);
        g.check(float, "dw", &dw);
    });
}

#[test]
fn linear() {
    let (g, dims) = (Golden("linear"), [5, 7, 11]);
    for_floats(|dev, float| {
        let (x, w, dy) = (g.f64("x"), g.f64("w"), g.f64("dy"));
        g.check(float, "y", &dev.linear(&x, &w, dims, None));
        g.check(float, "dx", &dev.linear_backward_input(&dy, &w, dims));
        g.check(float, "dw", &dev.linear_backward_weight(&dy, &x, dims, None));
    });
}

#[test]
fn embedding() {
    let g = Golden("embedding");
    for_floats(|dev, float| {
        g.check(float, "y", &dev.embedding(&g.u32("ids"), &g.f64("w"), 5));
        g.check(float, "dw", &dev.embedding_backward(&g.u32("ids"), &g.f64("dy"), [6, 5], None));
    });
}

#[test]
fn rope() {
    let (g, heads) = (Golden("rope"), Heads { n: 3, kv: 1, dim: 10 });
    for_floats(|dev, float| {
        let (positions, table) = (g.u32("positions"), rope_table(3, heads.dim));
        g.check(float, "y", &dev.rope(&g.f64("qkv"), &positions, &table, heads, false));
        g.check(float, "dx", &dev.rope(&g.f64("dy"), &positions, &table, heads, true));
    });
}

#[test]
fn attention() {
    let grouped = (Golden("attention"), Heads { n: 4, kv: 2, dim: 6 });
    let multi_head = (Golden("attention_mha"), Heads { n: 3, kv: 3, dim: 5 });
    for (g, heads) in [grouped, multi_head] {
        for_floats(|dev, float| {
            let (qkv, cu_seqlens) = (g.f64("qkv"), g.u32("cu_seqlens"));
            let out = dev.attention(&qkv, &cu_seqlens, heads);
            g.check(float, "o", &out[0]);
            g.check(float, "lse", &out[1]);
            g.check(float, "dqkv", &dev.attention_backward(&qkv, &cu_seqlens, &out, &g.f64("do"), heads));
        });
    }
}

#[test]
fn swiglu() {
    let g = Golden("swiglu");
    for_floats(|dev, float| {
        g.check(float, "s", &dev.swiglu(&g.f64("h"), 9));
        g.check(float, "dh", &dev.swiglu_backward(&g.f64("h"), &g.f64("ds"), 9));
    });
}

#[test]
fn cross_entropy() {
    let g = Golden("cross_entropy");
    for_floats(|dev, float| {
        let [loss, dlogits] = dev.cross_entropy(&g.f64("logits"), &g.u32("labels"), 4.0);
        g.check(float, "loss", &loss);
        g.check(float, "dlogits", &dlogits);
        g.check(float, "loss", &dev.cross_entropy_loss(&g.f64("logits"), &g.u32("labels")));
    });
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
