//! Attention over a cache, in pieces, is attention.
use crate::device::{Device, draw, error, heads, plain, scores};
use backend::{DType, Heads, Scores};

/// A prompt in chunks of up to `chunk` rows, then token by token.
fn generated(
    dev: &mut Device,
    qkv: &[f64],
    heads: Heads,
    scores: Scores,
    prompt: usize,
    chunk: usize,
    context: usize,
) -> Vec<f64> {
    let (t, w) = (qkv.len() / heads.qkv(), heads.qkv());
    let mut cache = vec![f64::NAN; 2 * context * heads.kv * heads.dim];
    let mut out = vec![];
    while out.len() < t * heads.out() {
        let start = out.len() / heads.out();
        let room = if start < prompt { chunk } else { 1 };
        let n = room.min(if start < prompt { prompt } else { t } - start);
        // The last chunk of a prompt is padded: its rows must not matter.
        let mut rows = vec![f64::NAN; room * w];
        rows[..n * w].copy_from_slice(&qkv[start * w..][..n * w]);
        let [o, written] = dev.attention_cached(&rows, [start as u32, n as u32], &cache, heads, scores);
        let (o, padding) = o.split_at(n * heads.out());
        assert!(padding.iter().all(|&x| x == 0.0), "rows from n on are zero");
        out.extend(o);
        cache = written;
    }
    assert!(cache[t * heads.kv * heads.dim..cache.len() / 2].iter().all(|x| x.is_nan()), "only tokens are cached");
    out
}

#[test]
fn in_pieces_it_equals_attention_as_a_whole() {
    let cases = [
        (heads(6, 2, 32), 210, 150, 64),
        (heads(3, 3, 5), 12, 7, 3),
        (heads(4, 1, 16), 80, 1, 1),
        (heads(2, 1, 8), 100, 100, 100),
    ];
    for (heads, t, prompt, chunk) in cases {
        for (float, limit) in [(DType::F64, 1e-13), (DType::F32, 3e-6)] {
            let dev = &mut Device::new(float, 2);
            let qkv = draw(1, t * heads.qkv());
            for scores in scores(heads) {
                let [whole, _] = dev.attention(&qkv, &[0, t as u32], heads, scores);
                let pieces = generated(dev, &qkv, heads, scores, prompt, chunk, t + 3);
                let error = error(&pieces, &whole);
                assert!(error < limit, "{heads:?} {scores:?} {float:?}: {error:e}");
            }
        }
    }
}

#[test]
fn no_rows_at_all_are_zeros() {
    let heads = heads(2, 1, 4);
    let dev = &mut Device::new(DType::F32, 1);
    let [o, _] = dev.attention_cached(&draw(1, heads.qkv()), [0, 0], &[f64::NAN; 16], heads, plain(heads));
    assert_eq!(o, [0.0; 8]);
}
