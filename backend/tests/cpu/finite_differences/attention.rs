//! Attention: every way of making scores, several segments, grouped heads, more tokens than a tile has.
use super::check;
use crate::device::{alibi, draw, heads, indices, plain, rope_table, scores};
use backend::{Heads, Pairs, Scores};

fn attention(heads: Heads, cu_seqlens: &[u32], scores: Scores) {
    let t = cu_seqlens[cu_seqlens.len() - 1] as usize;
    check(
        format!("attention {heads:?} {cu_seqlens:?} {scores:?}"),
        vec![draw(1, t * heads.qkv())],
        |dev, x| dev.attention(&x[0], cu_seqlens, heads, scores)[0].clone(),
        |dev, x, dy| {
            let out = dev.attention(&x[0], cu_seqlens, heads, scores);
            vec![dev.attention_backward(&x[0], cu_seqlens, &out, dy, heads, scores)]
        },
    );
}

#[test]
fn of_segments() {
    let cases: [(Heads, &[u32]); 6] = [
        (heads(1, 1, 1), &[0, 1]),
        (heads(4, 2, 6), &[0, 5, 6, 13]),
        (heads(3, 3, 5), &[0, 1, 2, 3]),
        (heads(6, 1, 3), &[0, 9, 9, 9]),
        (heads(2, 1, 17), &[0, 0, 3, 4, 11, 11]),
        (heads(2, 1, 2), &[0, 70, 71]),
    ];
    for (heads, cu_seqlens) in cases {
        attention(heads, cu_seqlens, plain(heads));
    }
}

#[test]
fn of_what_is_rotated() {
    let cases: [(Heads, &[u32]); 3] =
        [(heads(1, 1, 2), &[0, 1]), (heads(3, 1, 10), &[0, 5, 6, 13]), (heads(2, 2, 6), &[0, 20])];
    for (heads, cu_seqlens) in cases {
        for pairs in [Pairs::Half, Pairs::Interleaved] {
            let t = cu_seqlens[cu_seqlens.len() - 1] as usize;
            let (positions, table, scores) = (indices(3, t, 11), rope_table(11, heads.dim), plain(heads));
            let by = Some((&*positions, &*table, pairs));
            check(
                format!("attention rotated {heads:?} {cu_seqlens:?} {pairs:?}"),
                vec![draw(1, t * heads.qkv())],
                |dev, x| dev.attention_of(&x[0], cu_seqlens, by, heads, scores)[1].clone(),
                |dev, x, dy| {
                    let [qkv, o, lse] = dev.attention_of(&x[0], cu_seqlens, by, heads, scores);
                    vec![dev.attention_backward_of([&qkv, &o, &lse], cu_seqlens, by, dy, heads, scores)]
                },
            );
        }
    }
}

#[test]
fn with_every_kind_of_scores() {
    let small: [(Heads, &[u32]); 2] = [(heads(4, 2, 4), &[0, 9, 10, 17]), (heads(3, 3, 5), &[0, 12])];
    for (heads, cu_seqlens) in small {
        for scores in scores(heads) {
            attention(heads, cu_seqlens, scores);
        }
    }
}

#[test]
fn beyond_a_tile_of_queries() {
    let heads = heads(2, 1, 2);
    let plain = plain(heads);
    let all = Scores { scale: 0.8, cap: Some(2.0), window: Some(66), alibi: alibi(heads) };
    let windows = [3, 64, 65, 100].map(|window| Scores { window: Some(window), ..plain });
    let alone = [Scores { cap: Some(1.5), ..plain }, Scores { alibi: alibi(heads), ..plain }, all];
    for scores in windows.into_iter().chain(alone) {
        attention(heads, &[0, 2, 106], scores);
    }
}
