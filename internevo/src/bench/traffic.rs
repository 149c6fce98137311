//! What an operation has to move at least: every tensor once, twice what is updated in place.
use backend::{Op, View};

/// Bytes read and written, if a cache forgets nothing within the operation.
pub fn traffic(op: &Op) -> usize {
    let (reads, writes) = op.views();
    let once: usize = reads.iter().chain(&writes).map(View::bytes).sum();
    let again = |views: &[View]| once + views.iter().map(View::bytes).sum::<usize>();
    let added = |acc: bool, gradients: &[View]| if acc { again(gradients) - once } else { 0 };
    match *op {
        // Rows of a table, not all of it.
        Op::Embedding { ids, w, y, .. } => ids.bytes() + y.len * w.dtype.bytes() + y.bytes(),
        Op::TakeRows { rows, x, y, .. } => rows.bytes() + y.len * x.dtype.bytes() + y.bytes(),
        Op::EmbeddingBackward { ids, dy, dw, acc, .. } => {
            let rows = dy.len * dw.dtype.bytes();
            ids.bytes() + dy.bytes() + if acc { 2 * rows } else { dw.bytes() }
        }
        Op::Add { y, .. } | Op::AddBias { y, .. } => again(&[y]),
        Op::RmsNormBackward { dx, dw, acc, .. } => again(&[dx]) + added(acc, &[dw]),
        Op::LayerNormBackward { dx, dw, db, acc, .. } => again(&[dx]) + added(acc, &[dw, db]),
        Op::HeadNormBackward { dqkv, dw, acc, .. } => again(&[dqkv]) + added(acc, &[dw]),
        Op::GatedBackward { h, .. } | Op::ActivationBackward { h, .. } => again(&[h]),
        Op::BiasBackward { db, acc, .. } => once + added(acc, &[db]),
        Op::UnitRowsBackward { dw, acc, .. } | Op::LinearBackwardWeight { dw, acc, .. } => once + added(acc, &[dw]),
        Op::CrossEntropy { logits, .. } | Op::LogitGradient { logits, .. } => again(&[logits]),
        Op::LogitParts { logits, cap, .. } => once + added(cap.is_some(), &[logits]),
        Op::SoftCap { z, .. } => again(&[z]),
        Op::LossScale { scale, .. } => again(&[scale]),
        Op::AdamW { p, m, v, .. } => again(&[p, m, v]),
        // Queries and keys are rotated in place.
        Op::Attention { qkv, .. } | Op::AttentionCached { qkv, .. } => again(&[qkv]),
        _ => once,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backend::{DType, Region};

    #[test]
    fn what_is_updated_in_place_is_moved_twice() {
        let view = |dtype, len| View { region: Region::Act, dtype, offset: 0, len };
        let [x, y] = [view(DType::BF16, 100), view(DType::F32, 100)];
        assert_eq!(traffic(&Op::Copy { x, y }), 600);
        assert_eq!(traffic(&Op::Add { x, y }), 1000);
        let table = view(DType::F32, 1 << 20);
        let of_rows = Op::Embedding { ids: view(DType::U32, 10), w: table, y: x, d: 10, scale: 1.0, first: None };
        assert_eq!(traffic(&of_rows), 40 + 400 + 200);
        let bias = |acc| traffic(&Op::BiasBackward { dy: x, db: y, acc });
        assert_eq!([bias(false), bias(true)], [600, 1000]);
    }
}
