//! Attention on tensor cores (FlashAttention-2, Dao 2023): how `kernels/flash.cu` cuts it.
//!
//! A multiprocessor has 65536 registers and, as it is, 100 or 228 KiB of shared memory. Two blocks of 4 warps share one where
//! sums and scores leave room, so that one computes while the other waits; 8 warps are one block. A warp of 32 rows reads
//! the other side from shared memory half as often for each product as one of 16, but has twice the sums.
use super::FLASH;
use super::attention::{Spans, of_heads, slopes};
use crate::work::{Arg, Card, Lowering, Place};
use backend::{DType, Heads, Scores, View};

/// How a kernel is cut.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Cut {
    /// Sixteens of rows of a warp.
    of_warp: usize,
    warps: usize,
    /// Rows of the other side in a step.
    across: usize,
}

/// The three kernels.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Kernel {
    Forward,
    OfKeys,
    OfQueries,
}

/// Sums of this many numbers in a row are the most that a warp of 32 rows can have.
const WIDE: usize = 128;

impl Cut {
    fn rows(self) -> usize {
        16 * self.of_warp * self.warps
    }

    /// Bytes of shared memory. Rows are padded by 16 bytes.
    fn shared(self, kernel: Kernel, dim: usize) -> usize {
        let row = 2 * (dim + 8);
        match kernel {
            // Queries; keys, values.
            Kernel::Forward => (self.rows() + 2 * self.across) * row,
            // Two matrices of its own; two of the other side and two numbers of its rows, twice.
            Kernel::OfKeys => (2 * self.rows() + 4 * self.across) * row + 4 * self.across * 4,
            Kernel::OfQueries => (2 * self.rows() + 4 * self.across) * row,
        }
    }

    /// The best first; the last fits every card.
    fn of(kernel: Kernel, dim: usize) -> [Cut; 3] {
        let cut = |of_warp, warps, across| Cut { of_warp, warps, across };
        match (kernel, dim) {
            (Kernel::Forward, ..=WIDE) => [cut(2, 4, 64), cut(2, 4, 32), cut(1, 4, 32)],
            (Kernel::Forward, _) => [cut(1, 8, 64), cut(1, 4, 64), cut(1, 4, 32)],
            (Kernel::OfKeys, ..=64) => [cut(2, 4, 32), cut(1, 4, 64), cut(1, 4, 32)],
            (Kernel::OfKeys, ..=WIDE) => [cut(1, 8, 64), cut(1, 4, 64), cut(1, 4, 32)],
            (Kernel::OfKeys, _) => [cut(1, 8, 32), cut(1, 4, 32), cut(1, 2, 16)],
            (Kernel::OfQueries, ..=WIDE) => [cut(2, 4, 32), cut(1, 4, 64), cut(1, 4, 32)],
            (Kernel::OfQueries, _) => [cut(1, 8, 32), cut(1, 4, 32), cut(1, 4, 16)],
        }
    }
}

/// Whether these tensors are attended to here: all of one type that tensor cores know, in rows of 16 bytes.
pub fn knows(card: Card, lse: View, tensors: &[View], heads: Heads, scores: Scores) -> bool {
    let dtype = tensors[0].dtype;
    let fits = |x: &View| x.dtype == dtype && x.offset.is_multiple_of(16);
    card.arch >= 80
        && matches!(dtype, DType::BF16 | DType::F16)
        && lse.dtype == DType::F32
        && tensors.iter().all(fits)
        && heads.dim.is_multiple_of(16)
        && heads.dim <= 256
        // The largest product is that of the largest score.
        && scores.scale > 0.0
}

/// cu_seqlens (S + 1), qkv rotated (T, (N+2K) H) -> o (T, N H), lse (N, T)
pub fn forward(l: &mut Lowering, qkv: View, spans: Spans, [o, lse]: [View; 2], heads: Heads, scores: Scores) {
    launch(l, Kernel::Forward, [], [qkv.into(), spans.first.into(), o.into(), lse.into()], qkv, heads, scores);
}

/// qkv rotated, o, lse, d_o (T, N H), dots (N, T) = Σ o d_o -> dqkv (T, (N+2K) H), of what is rotated
pub fn backward(
    l: &mut Lowering,
    [qkv, lse, d_o]: [View; 3],
    spans: Spans,
    dots: Place,
    dqkv: View,
    heads: Heads,
    scores: Scores,
) {
    let args = |sees: Place| [qkv.into(), sees.into(), lse.into(), d_o.into(), dots.into(), dqkv.into()];
    // The sums of both gradients do not fit the registers of a warp; the scores of a second pass cost less than sums in memory.
    let passes: &[[u32; 2]] = if heads.dim > WIDE { &[[1, 0], [0, 1]] } else { &[[1, 1]] };
    for [dk, dv] in passes {
        let with = [("WITH_DK", *dk), ("WITH_DV", *dv)];
        launch(l, Kernel::OfKeys, with, args(spans.last), qkv, heads, scores);
    }
    launch(l, Kernel::OfQueries, [], args(spans.first), qkv, heads, scores);
}

/// One of the kernels; after its own arguments come those that all have.
fn launch<const M: usize, const N: usize>(
    l: &mut Lowering,
    kernel: Kernel,
    with: [(&'static str, u32); M],
    own: [Arg; N],
    qkv: View,
    heads: Heads,
    scores: Scores,
) {
    let t = qkv.len / heads.qkv();
    let cuts = Cut::of(kernel, heads.dim);
    let cut = cuts.into_iter().find(|cut| cut.shared(kernel, heads.dim) <= l.card.shared).unwrap_or(cuts[2]);
    let (name, entry, blocks_of) = match kernel {
        Kernel::Forward => ("FORWARD", "flash", heads.n),
        Kernel::OfKeys => ("OF_KEYS", "flash_keys", heads.kv),
        Kernel::OfQueries => ("OF_QUERIES", "flash_queries", heads.n),
    };
    let [slope, slopes] = slopes(scores);
    let common: [Arg; 5] =
        [(t as u32).into(), scores.scale.into(), scores.cap.unwrap_or(0.0).into(), slope.into(), slopes.into()];
    let mut launching = of_heads(l.launch(&FLASH, entry), heads, scores)
        .types([("X_T", qkv.dtype)])
        .define(name, 1)
        .define("MT", cut.of_warp)
        .define("WARPS", cut.warps)
        .define("ACROSS", cut.across);
    for (name, value) in with {
        launching = launching.define(name, value);
    }
    launching
        .grid(t.div_ceil(cut.rows()) * blocks_of)
        .block(32 * cut.warps)
        .shared(cut.shared(kernel, heads.dim))
        .with_all(own.into_iter().chain(common));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest cards have 99 KiB for a block; two blocks of an H100 share 227.
    #[test]
    fn every_card_has_a_cut() {
        for kernel in [Kernel::Forward, Kernel::OfKeys, Kernel::OfQueries] {
            for dim in (16..=256).step_by(16) {
                let cuts = Cut::of(kernel, dim);
                assert!(cuts[2].shared(kernel, dim) <= 99 << 10, "{kernel:?} {dim}");
                assert!(cuts[0].shared(kernel, dim) <= 227 << 10, "{kernel:?} {dim}");
                assert!(
                    cuts[0].warps == 8 || 2 * (cuts[0].shared(kernel, dim) + 1024) <= 228 << 10,
                    "{kernel:?} {dim}"
                );
            }
        }
    }
}
