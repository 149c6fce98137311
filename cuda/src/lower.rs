//! Every operation finds its kernels.
use crate::ops::*;
use crate::work::{Card, Lowering, Work};
use backend::Op;

/// What a card does for an operation.
pub fn lower(op: Op, card: Card) -> Lowering {
    let mut lowering = Lowering::new(card);
    let l = &mut lowering;
    match op {
        Op::Fill { y, value } => elementwise::fill(l, [y], value),
        Op::Copy { x, y } if x.dtype == y.dtype => {
            assert_eq!(x.len, y.len);
            l.work.push(Work::Copy { from: x, to: y })
        }
        Op::Copy { x, y } => {
            assert_eq!(x.len, y.len);
            elementwise::convert(l, x.into(), y.into(), y.len)
        }
        Op::Add { x, y } => elementwise::add(l, [x], [y]),
        Op::TakeRows { rows, x, y, d } => embedding::forward(l, [rows, x], [y], d, 1.0, None),

        Op::Embedding { ids, w, y, d, scale, first } => embedding::forward(l, [ids, w], [y], d, scale, first),
        Op::EmbeddingBackward { ids, dy, dw, d, scale, first, acc } => {
            embedding::backward(l, [ids, dy], [dw], d, scale, first, acc)
        }

        Op::Attention { qkv, cu_seqlens, rotation, o, lse, heads, scores } => {
            attention::forward(l, cu_seqlens, rotation, [qkv, o, lse], heads, scores)
        }
        Op::AttentionBackward { qkv, cu_seqlens, rotation, o, lse, d_o, dqkv, heads, scores } => {
            attention::backward(l, [qkv, cu_seqlens, o, lse, d_o], rotation, dqkv, heads, scores)
        }
        Op::AttentionCached { qkv, span, rotation, cache, o, heads, scores } => {
            attention::cached(l, span, rotation, [qkv, cache, o], heads, scores)
        }
        Op::Linear { x, w, add, y, dims } => linear::forward(l, [x, w], add, y, dims),
        Op::LinearBackwardInput { dy, w, dx, dims } => linear::backward_input(l, [dy, w], dx, dims),
        Op::LinearBackwardWeight { dy, x, dw, dims, scale, acc } => {
            linear::backward_weight(l, [dy, x], dw, dims, scale, acc)
        }
        Op::AddBias { b, y } => bias::add(l, [b], [y]),
        Op::BiasBackward { dy, db, acc } => bias::backward(l, [dy], [db], acc),

        Op::RmsNorm { x, w, y, rstd, eps, offset } => rmsnorm::forward(l, [x, w], [y, rstd], eps, offset),
        Op::RmsNormBackward { x, w, rstd, dy, dx, dw, offset, acc } => {
            rmsnorm::backward(l, [x, w, rstd, dy], [dx, dw], offset, acc)
        }
        Op::LayerNorm { x, w, b, y, stats, eps } => layernorm::forward(l, [x, w, b], [y, stats], eps),
        Op::LayerNormBackward { x, w, stats, dy, dx, dw, db, acc } => {
            layernorm::backward(l, [x, w, stats, dy], [dx, dw, db], acc)
        }
        Op::HeadNorm { x, w, y, rstd, heads, eps } => head_norm::forward(l, [x, w], [y, rstd], heads, eps),
        Op::HeadNormBackward { x, w, rstd, dqkv, dw, heads, acc } => {
            head_norm::backward(l, [x, w, rstd], [dqkv, dw], heads, acc)
        }
        Op::UnitRows { w, y, norms, d } => unit_rows::forward(l, [w], [y, norms], d),
        Op::UnitRowsBackward { y, norms, dy, dw, d, scale, acc } => {
            unit_rows::backward(l, [y, norms, dy], [dw], d, scale, acc)
        }

        Op::SplitHeads { x, y, heads, parts } => head_parts::split(l, [x], [y], heads, parts),
        Op::JoinHeads { x, y, heads, parts } => head_parts::join(l, [x], [y], heads, parts),

        Op::Gated { h, s, f, by } => activation::gated(l, [h], [s], f, by),
        Op::GatedBackward { h, ds, f, by } => activation::gated_backward(l, [ds], [h], f, by),
        Op::Activation { h, s, by } => activation::plain(l, [h], [s], by),
        Op::ActivationBackward { h, ds, by } => activation::plain_backward(l, [ds], [h], by),

        Op::CountLabels { labels, count, acc } => stats::count_labels(l, [labels], [count], acc),
        Op::CrossEntropy { labels, types, count, scale, logits, stats, v, with, acc } => {
            cross_entropy::forward_backward(l, [labels, types, count, scale], [logits, stats], v, with, acc)
        }
        Op::CrossEntropyLoss { labels, types, logits, stats, v, cap, acc } => {
            cross_entropy::forward(l, [labels, types, logits], [stats], v, cap, acc)
        }
        Op::LogitParts { labels, logits, parts, columns, cap } => {
            vocab_parallel::parts(l, [labels], [logits, parts], columns, cap)
        }
        Op::LossOfParts { labels, types, parts, stats, vocab, smoothing, acc } => {
            vocab_parallel::loss(l, [labels, types, parts], [stats], vocab, smoothing, acc)
        }
        Op::LogitGradient { labels, count, scale, parts, logits, columns, vocab, with } => {
            vocab_parallel::gradient(l, [labels, count, scale, parts], [logits], columns, vocab, with)
        }
        Op::SoftCap { z, cap } => elementwise::soft_cap(l, [z], cap),

        Op::SumSquares { x, sums, chunk } => grad_norm::sum_squares(l, [x], [sums], chunk),
        Op::GradNorm { sums, count, scale, norm, max_norm } => {
            grad_norm::grad_norm(l, [sums, count, scale], [norm], max_norm)
        }
        Op::LossScale { norm, scale, rule } => grad_norm::loss_scale(l, [norm], [scale], rule),
        Op::AdamW { g, norm, hyper, p, m, v, copy, beta1, eps, weight_decay } => {
            adamw::step(l, [g, norm, hyper], [p, m, v], copy, beta1, eps, weight_decay)
        }
    }
    lowering
}
