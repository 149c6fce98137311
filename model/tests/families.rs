//! What is written for a decoder, and which family can hold which.
use backend::{Heads, Nonlinearity, Pairs};
use model::models::{base, directory, from_json, holds, stores_unit_rows, tensors, to_json};
use model::*;
use serde_json::json;

const FAMILIES: [Family; 10] = [
    Family::Llama,
    Family::Internlm,
    Family::Internlm2,
    Family::Mistral,
    Family::Qwen2,
    Family::Qwen3,
    Family::Baichuan,
    Family::Gemma,
    Family::Gemma2,
    Family::Internevo,
];

/// A small decoder of each family, with what its config can say beyond the defaults.
fn small(family: Family) -> Decoder {
    let heads = Heads { n: 4, kv: 4, dim: 6 };
    let m = Decoder { vocab: 50, hidden: 24, layers: 4, heads, ffn: 24, max_positions: 64, ..base(family) };
    let grouped = Decoder { heads: Heads { n: 4, kv: 2, dim: 6 }, ..m.clone() };
    let rope = |theta, scaling| Position::Rope(Rope { theta, scaling, pairs: Pairs::Half });
    let yarn = Yarn {
        factor: 2.0,
        original_max_position_embeddings: 32,
        beta_fast: 20.0,
        beta_slow: 1.5,
        truncate: false,
        attention_factor: Some(1.1),
        mscale: Some(0.5),
        mscale_all_dim: Some(0.25),
    };
    match family {
        Family::Llama => Decoder {
            attention_bias: AttentionBias::All,
            mlp: Mlp { by: Nonlinearity::Gelu, bias: true, ..m.mlp },
            position: rope(5e5, Some(Scaling::Yarn(yarn))),
            ..grouped
        },
        Family::Internlm => Decoder { position: rope(2e4, Some(Scaling::Dynamic { factor: 1.5 })), ..m },
        Family::Internlm2 => Decoder { attention_bias: AttentionBias::All, ..grouped },
        Family::Mistral => Decoder { window: Some(Window { size: 7, layers: WindowLayers::All }), ..grouped },
        Family::Qwen2 => Decoder { window: Some(Window { size: 7, layers: WindowLayers::From(2) }), ..grouped },
        Family::Qwen3 => Decoder {
            window: Some(Window { size: 7, layers: WindowLayers::ButEvery(3) }),
            attention_bias: AttentionBias::All,
            ..grouped
        },
        Family::Baichuan => Decoder { norm_head: true, position: Position::Alibi, ..m },
        Family::Gemma => Decoder { attention_bias: AttentionBias::All, tied: false, ..grouped },
        Family::Gemma2 => Decoder {
            window: None,
            score_cap: None,
            query_scalar: Some(10.0),
            heads: Heads { n: 4, kv: 2, dim: 8 },
            ..grouped
        },
        Family::Internevo => Decoder {
            norm: NormKind::Layer,
            sandwich_norms: true,
            attention_bias: AttentionBias::Qkv,
            qk_norm: true,
            window: Some(Window { size: 9, layers: WindowLayers::From(1) }),
            query_scalar: Some(2.5),
            score_cap: Some(3.5),
            logit_cap: Some(4.5),
            mlp: Mlp { gated: false, by: Nonlinearity::GeluTanh, bias: true },
            scaled_embedding: true,
            embed_grad_scale: 0.1,
            norm_head: true,
            position: Position::Rope(Rope { pairs: Pairs::Interleaved, ..Rope::plain(777.25) }),
            init_std: 0.1 + 0.2,
            scaled_init: false,
            ..grouped
        },
    }
}

#[test]
fn every_family_says_all_it_holds() {
    for family in FAMILIES {
        let m = small(family);
        assert_eq!(m.problems(), Vec::<String>::new(), "{family:?}");
        assert!(holds(family, &m) && holds(Family::Internevo, &m), "{family:?}");
        for spelling in [family, Family::Internevo] {
            // Through text, as a file has it.
            let text = to_json(&m, spelling).to_string();
            let back = from_json(&serde_json::from_str(&text).unwrap()).unwrap();
            assert_eq!(back, Decoder { family: spelling, ..m.clone() }, "{spelling:?}");
        }
    }
}

/// One change each, and the families that can hold it beside a small LLaMA's other fields.
#[test]
fn which_directory_holds_what() {
    type Change = fn(Decoder) -> Decoder;
    let llama = Decoder::llama(50, 24, 4, Heads { n: 4, kv: 4, dim: 6 }, 24);
    use Family::*;
    // (change, where a checkpoint of it goes, the other families that hold it)
    let table: &[(Change, Family, &[Family])] = &[
        (|m| m, Llama, &[Internlm, Internlm2, Mistral, Baichuan]),
        (|m| Decoder { family: Internlm2, ..m }, Llama, &[Internlm2]),
        (|m| Decoder { family: Mistral, ..m }, Mistral, &[Llama]),
        (|m| Decoder { heads: Heads { kv: 2, ..m.heads }, ..m }, Llama, &[Internlm2, Mistral]),
        // transformers' LLaMA wants whole heads in the hidden size.
        (|m| Decoder { heads: Heads { n: 5, kv: 5, dim: 6 }, ..m }, Mistral, &[Llama]),
        (|m| Decoder { attention_bias: AttentionBias::All, ..m }, Llama, &[Internlm, Internlm2]),
        (|m| Decoder { attention_bias: AttentionBias::Qkv, ..m }, Qwen2, &[]),
        (|m| Decoder { qk_norm: true, ..m }, Qwen3, &[]),
        (|m| Decoder { qk_norm: true, attention_bias: AttentionBias::Qkv, ..m }, Internevo, &[]),
        (|m| Decoder { window: Some(Window { size: 5, layers: WindowLayers::All }), ..m }, Mistral, &[]),
        (|m| Decoder { window: Some(Window { size: 5, layers: WindowLayers::From(2) }), ..m }, Internevo, &[]),
        (|m| Decoder { position: Position::Alibi, ..m }, Internevo, &[Baichuan]),
        (|m| Decoder { position: Position::Alibi, family: Baichuan, ..m }, Baichuan, &[Internevo]),
        // Rows are normalised where the directory cannot say that they are to be.
        (|m| Decoder { norm_head: true, ..m }, Llama, &[Internlm2, Baichuan]),
        (|m| Decoder { norm_head: true, tied: true, ..m }, Internevo, &[Baichuan]),
        (|m| Decoder { norm: NormKind::Layer, ..m }, Internevo, &[]),
        (|m| Decoder { norm: NormKind::RmsPlusOne, ..m }, Internevo, &[]),
        (|m| Decoder { norm: NormKind::RmsPlusOne, scaled_embedding: true, ..m }, Gemma, &[]),
        (|m| Decoder { mlp: Mlp { gated: false, ..m.mlp }, ..m }, Internevo, &[]),
        (|m| Decoder { mlp: Mlp { bias: true, ..m.mlp }, ..m }, Llama, &[]),
        (|m| Decoder { mlp: Mlp { by: Nonlinearity::Gelu, ..m.mlp }, ..m }, Llama, &[Mistral]),
        (|m| Decoder { logit_cap: Some(30.0), ..m }, Internevo, &[]),
        // Only training or memory knows these.
        (|m| Decoder { embed_grad_scale: 0.1, scaled_init: false, ..m }, Llama, &[Mistral]),
        (
            |m| Decoder { position: Position::Rope(Rope { pairs: Pairs::Interleaved, ..Rope::plain(1e4) }), ..m },
            Llama,
            &[Mistral],
        ),
    ];
    for (i, (change, goes, also)) in table.iter().enumerate() {
        let m = change(llama.clone());
        // A Gemma's activation comes with its norms.
        let m = if *goes == Gemma { Decoder { mlp: base(Gemma).mlp, ..m } } else { m };
        assert_eq!(directory(&m), *goes, "row {i}");
        for family in *also {
            assert!(holds(*family, &m), "row {i}: {family:?}");
        }
    }
    let unit = Decoder { norm_head: true, ..llama };
    assert_eq!([Llama, Internlm2, Baichuan, Internevo].map(|f| stores_unit_rows(f, &unit)), [true, true, false, false]);
}

/// In our own words as in others'.
#[test]
fn refusals_of_our_own() {
    let ours = to_json(&small(Family::Internevo), Family::Internevo);
    for (key, value, says) in [
        ("norm", json!("batch"), "batch"),
        ("mystery", json!(1), "mystery"),
        ("hidden_size", json!(-1), "-1"),
        ("init_from", json!("/tmp"), "init_from"),
        ("num_hidden_layers", json!(null), "num_hidden_layers is missing"),
    ] {
        let mut config = ours.clone();
        config[key] = value;
        let problems = from_json(&config).expect_err(key);
        assert!(problems.iter().any(|p| p.contains(says)), "{key}: {problems:?}");
    }
}

/// Interleaved pairs are in memory only: rows of a directory are halves, and every row is there once.
#[test]
fn directories_have_halves() {
    let rope = Rope { pairs: Pairs::Interleaved, ..Rope::plain(1e4) };
    let heads = Heads { n: 2, kv: 1, dim: 4 };
    let mut m = Decoder { position: Position::Rope(rope), ..Decoder::llama(9, 8, 1, heads, 6) };
    m.attention_bias = AttentionBias::All;
    let rows = |family, name: &str| -> Vec<(String, usize)> {
        let tensors = tensors(&m, family);
        let tensor = tensors.iter().find(|t| t.name == format!("model.layers.0.{name}")).unwrap();
        let short = |p: &str| p.rsplit_once("self_attn.").unwrap().1[..1].to_string();
        tensor.pieces.iter().flat_map(|p| (p.start..p.start + p.rows).map(|r| (short(&p.param), r))).collect()
    };
    let q: Vec<_> = [0, 2, 1, 3, 4, 6, 5, 7].map(|r| ("q".to_string(), r)).into();
    let k: Vec<_> = [0, 2, 1, 3].map(|r| ("k".to_string(), r)).into();
    let v: Vec<_> = [0, 1, 2, 3].map(|r| ("v".to_string(), r)).into();
    for kind in ["weight", "bias"] {
        assert_eq!(rows(Family::Llama, &format!("self_attn.q_proj.{kind}")), q);
        assert_eq!(rows(Family::Llama, &format!("self_attn.k_proj.{kind}")), k);
        assert_eq!(rows(Family::Llama, &format!("self_attn.v_proj.{kind}")), v);
        let fused = rows(Family::Internlm2, &format!("attention.wqkv.{kind}"));
        assert_eq!(fused, [q.clone(), k.clone(), v.clone()].concat());
    }
}

#[test]
fn a_section_says_what_a_decoder_is() {
    for family in FAMILIES {
        let m = small(family);
        let section = ModelConfig::of(&m);
        assert_eq!(section.problems(), Vec::<String>::new(), "{family:?}");
        assert_eq!(section.decoder(1), m, "{family:?}");
        // What is not given is the family's.
        let short = ModelConfig {
            family: Some(family),
            vocab_size: Some(50),
            hidden_size: Some(24),
            num_hidden_layers: Some(4),
            num_attention_heads: Some(4),
            intermediate_size: Some(24),
            ..ModelConfig::default()
        };
        let heads = Heads { n: 4, kv: 4, dim: 6 };
        let want = Decoder { vocab: 50, hidden: 24, layers: 4, heads, ffn: 24, ..base(family) };
        assert_eq!(short.decoder(1), want, "{family:?}");
        assert!(directory(&want) != Family::Internevo || family == Family::Internevo, "{family:?}");
    }
}

#[test]
fn keys_that_do_not_go_together() {
    let given = |edit: fn(&mut ModelConfig)| {
        let mut section = ModelConfig {
            hidden_size: Some(24),
            num_hidden_layers: Some(4),
            num_attention_heads: Some(4),
            intermediate_size: Some(24),
            ..ModelConfig::default()
        };
        edit(&mut section);
        section.problems()
    };
    type Edit = fn(&mut ModelConfig);
    let table: &[(Edit, &[&str])] = &[
        (|_| {}, &[]),
        (|c| c.max_window_layers = Some(2), &["max_window_layers = 2 does nothing without model.sliding_window"]),
        (|c| (c.max_window_layers, c.sliding_window) = (Some(2), Some(8)), &[]),
        (|c| (c.family, c.sliding_window_pattern) = (Some(Family::Gemma2), Some(3)), &[]),
        (|c| c.sliding_window_pattern = Some(0), &["sliding_window_pattern = 0", "does nothing"]),
        (
            |c| (c.sliding_window, c.max_window_layers, c.sliding_window_pattern) = (Some(8), Some(1), Some(2)),
            &["keep one"],
        ),
        (
            |c| (c.position_embedding, c.rope_theta) = (Some(PositionEmbedding::Alibi), Some(1e4)),
            &["rope_theta does nothing with position_embedding"],
        ),
        (
            |c| c.init_from = Some("x".into()),
            &["num_attention_heads cannot be given beside", "hidden_size", "layers", "ffn"],
        ),
    ];
    for (i, (edit, says)) in table.iter().enumerate() {
        let problems = given(*edit);
        assert_eq!(problems.len(), says.len(), "row {i}: {problems:?}");
        let all = problems.join("\n").replace("intermediate_size", "ffn");
        says.iter().for_each(|s| assert!(all.contains(s), "row {i}: {s} is not in {all}"));
    }
    let beside = ModelConfig {
        init_from: Some("x".into()),
        embed_grad_scale: Some(0.5),
        norm_head: Some(true),
        rope_layout: Some(RopeLayout::Interleaved),
        ..ModelConfig::default()
    };
    assert_eq!(beside.problems(), Vec::<String>::new());
    let m = beside.beside(small(Family::Llama));
    assert!(m.norm_head && m.embed_grad_scale == 0.5);
    assert!(matches!(m.position, Position::Rope(Rope { pairs: Pairs::Interleaved, .. })));
}
