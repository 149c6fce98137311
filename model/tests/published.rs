//! The published configs of every family.
use backend::Nonlinearity;
use model::models::{from_json, tensors, to_json};
use model::*;
use serde_json::{Value, json};

/// Figures of config.json files as they are published, with what else stands in them.
fn published() -> Vec<(&'static str, Value)> {
    let with = |fields: Value| {
        let mut config = json!({
            "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.02, "torch_dtype": "bfloat16",
            "transformers_version": "4.41.0", "use_cache": true, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        });
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        config
    };
    vec![
        (
            "Llama-3.1-8B",
            with(json!({
                "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": false, "attention_dropout": 0.0,
                "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": false,
                "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1,
                "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": false, "vocab_size": 128256,
                "rope_scaling": { "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192, "rope_type": "llama3" },
            })),
        ),
        (
            "internlm-7b",
            with(json!({
                "architectures": ["InternLMForCausalLM"], "model_type": "internlm", "bias": true, "hidden_size": 4096,
                "auto_map": { "AutoConfig": "configuration_internlm.InternLMConfig" }, "intermediate_size": 11008,
                "max_position_embeddings": 2048, "num_attention_heads": 32, "num_hidden_layers": 32, "pad_token_id": 2,
                "rotary": { "base": 10000, "type": "dynamic" }, "tie_word_embeddings": false, "vocab_size": 103168,
            })),
        ),
        (
            "internlm2-7b",
            with(json!({
                "architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "attn_implementation": "eager",
                "bias": false, "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
                "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "pad_token_id": 2,
                "rms_norm_eps": 1e-5, "rope_scaling": { "type": "dynamic", "factor": 2.0 }, "rope_theta": 1000000,
                "tie_word_embeddings": false, "vocab_size": 92544,
            })),
        ),
        (
            "Mistral-7B-v0.1",
            with(json!({
                "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_size": 4096,
                "intermediate_size": 14336, "max_position_embeddings": 32768, "num_attention_heads": 32,
                "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
                "sliding_window": 4096, "tie_word_embeddings": false, "vocab_size": 32000,
            })),
        ),
        (
            "Qwen2.5-7B",
            with(json!({
                "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "attention_dropout": 0.0,
                "hidden_size": 3584, "intermediate_size": 18944, "max_position_embeddings": 131072,
                "max_window_layers": 28, "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
                "rope_theta": 1000000.0, "sliding_window": 131072, "tie_word_embeddings": false,
                "use_mrope": false, "use_sliding_window": false, "vocab_size": 152064,
            })),
        ),
        (
            "Qwen3-0.6B",
            with(json!({
                "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": false,
                "attention_dropout": 0.0, "head_dim": 128, "hidden_size": 1024, "intermediate_size": 3072,
                "max_position_embeddings": 40960, "max_window_layers": 28, "num_attention_heads": 16,
                "num_hidden_layers": 28, "num_key_value_heads": 8, "rope_scaling": null, "rope_theta": 1000000,
                "sliding_window": null, "tie_word_embeddings": true, "use_sliding_window": false, "vocab_size": 151936,
            })),
        ),
        (
            "Baichuan2-7B",
            with(json!({
                "_from_model_config": true, "architectures": ["BaichuanForCausalLM"], "model_type": "baichuan",
                "hidden_size": 4096, "intermediate_size": 11008, "max_position_embeddings": 4096,
                "model_max_length": 4096, "num_attention_heads": 32, "num_hidden_layers": 32, "pad_token_id": 0,
                "tie_word_embeddings": false, "tokenizer_class": "BaichuanTokenizer", "vocab_size": 125696,
                "z_loss_weight": 0,
            })),
        ),
        (
            "Baichuan-13B",
            with(json!({
                "_from_model_config": true, "architectures": ["BaichuanForCausalLM"], "model_type": "baichuan",
                "gradient_checkpointing": [false], "hidden_size": 5120, "intermediate_size": 13696,
                "model_max_length": 4096, "num_attention_heads": 40, "num_hidden_layers": 40, "pad_token_id": 0,
                "tie_word_embeddings": false, "vocab_size": 64000,
            })),
        ),
        (
            "gemma-2b",
            with(json!({
                "architectures": ["GemmaForCausalLM"], "model_type": "gemma", "attention_bias": false,
                "attention_dropout": 0.0, "head_dim": 256, "hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh",
                "hidden_size": 2048, "intermediate_size": 16384, "max_position_embeddings": 8192,
                "num_attention_heads": 8, "num_hidden_layers": 18, "num_key_value_heads": 1, "pad_token_id": 0,
                "rope_scaling": null, "rope_theta": 10000.0, "vocab_size": 256000,
            })),
        ),
        (
            "gemma-2-27b",
            with(json!({
                "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "attention_bias": false,
                "attention_dropout": 0.0, "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid",
                "final_logit_softcapping": 30.0, "head_dim": 128, "hidden_act": "gelu_pytorch_tanh",
                "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 4608, "intermediate_size": 36864,
                "max_position_embeddings": 8192, "num_attention_heads": 32, "num_hidden_layers": 46,
                "num_key_value_heads": 16, "pad_token_id": 0, "query_pre_attn_scalar": 144, "rope_theta": 10000.0,
                "sliding_window": 4096, "sliding_window_size": 4096, "vocab_size": 256000,
            })),
        ),
    ]
}

/// Their parameters, as published (or counted by hand from the figures).
#[test]
fn published_configs_are_read_whole() {
    let counts = [
        ("Llama-3.1-8B", 8_030_261_248),
        ("internlm-7b", 7_321_948_160),
        ("internlm2-7b", 7_737_708_544),
        ("Mistral-7B-v0.1", 7_241_732_096),
        ("Qwen2.5-7B", 7_615_616_512),
        ("Qwen3-0.6B", 596_049_920),
        ("Baichuan2-7B", 7_505_973_248),
        ("Baichuan-13B", 13_264_901_120),
        ("gemma-2b", 2_506_172_416),
        ("gemma-2-27b", 27_227_128_320),
    ];
    for ((name, config), (_, parameters)) in published().into_iter().zip(counts) {
        let m = from_json(&config).unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
        assert_eq!(m.parameters(), parameters, "{name}");
        // The family's own spelling says all of it, and so does ours.
        for family in [m.family, Family::Internevo] {
            let back = from_json(&to_json(&m, family)).unwrap();
            assert_eq!(back, Decoder { family, ..m.clone() }, "{name}");
        }
        let elements: usize = tensors(&m, m.family).iter().map(|t| t.shape.iter().product::<usize>()).sum();
        assert_eq!(elements, parameters, "{name}: tensors of a directory");
    }
}

#[test]
fn details_of_published_configs() {
    let of = |name: &str| from_json(&published().into_iter().find(|(n, _)| *n == name).unwrap().1).unwrap();
    let scaling = |name: &str| match of(name).position {
        Position::Rope(rope) => (rope.theta, rope.scaling),
        Position::Alibi => panic!("{name} has ALiBi"),
    };
    assert_eq!(scaling("internlm-7b"), (1e4, Some(Scaling::Dynamic { factor: 1.0 })));
    assert_eq!(scaling("internlm2-7b"), (1e6, Some(Scaling::Dynamic { factor: 2.0 })));
    assert_eq!(scaling("Qwen3-0.6B"), (1e6, None));
    assert_eq!(of("Mistral-7B-v0.1").window, Some(Window { size: 4096, layers: WindowLayers::All }));
    assert_eq!(of("Qwen2.5-7B").window, None);
    assert!(of("Baichuan2-7B").norm_head && !of("Baichuan-13B").norm_head);
    assert_eq!((of("Baichuan-13B").position, of("Baichuan-13B").max_positions), (Position::Alibi, 4096));
    let gemma = of("gemma-2b");
    assert_eq!((gemma.tied, gemma.mlp.by, gemma.query_scalar), (true, Nonlinearity::GeluTanh, None));
    let gemma2 = of("gemma-2-27b");
    assert_eq!((gemma2.scores(0).scale, gemma2.scores(1).window), (1.0 / 12.0, None));
    assert_eq!((gemma2.scores(44).window, gemma2.scores(0).cap), (Some(4096), Some(50.0)));
}

/// A field of a family that changes the maths and is not understood is refused by name.
#[test]
fn refusals_name_the_field() {
    // (model, key, value, what the refusal says)
    let table: &[(&str, &str, Value, &str)] = &[
        ("internlm-7b", "num_key_value_heads", json!(8), "num_key_value_heads = 8 changes the maths"),
        ("internlm-7b", "rotary", json!({ "type": "spiral" }), "rotary.type = \"spiral\""),
        ("internlm-7b", "rotary", json!({ "base": 1e4, "sharp": 2 }), "rotary.sharp = 2 is not known"),
        ("internlm-7b", "rotary", json!(7), "rotary = 7 is not an object"),
        ("internlm2-7b", "hidden_act", json!("gelu"), "hidden_act = \"gelu\""),
        ("Mistral-7B-v0.1", "attention_bias", json!(true), "attention_bias = true"),
        ("Mistral-7B-v0.1", "sliding_window", json!("all"), "sliding_window = \"all\" is not a size"),
        ("Mistral-7B-v0.1", "sliding_window", json!(0), "sliding_window = 0"),
        ("Qwen2.5-7B", "attention_bias", json!(false), "attention_bias = false"),
        ("Qwen2.5-7B", "use_mrope", json!(true), "use_mrope = true"),
        ("Qwen2.5-7B", "layer_types", json!(["full_attention"]), "layer_types"),
        ("Qwen2.5-7B", "layer_types", json!(vec!["linear_attention"; 28]), "layer_types"),
        ("Qwen2.5-7B", "layer_types", json!(vec!["sliding_attention"; 28]), "there is no sliding_window"),
        ("Baichuan2-7B", "z_loss_weight", json!(0.1), "z_loss_weight"),
        ("Baichuan2-7B", "num_key_value_heads", json!(4), "num_key_value_heads = 4"),
        ("Baichuan-13B", "position_embedding", json!("learned"), "position_embedding = \"learned\""),
        ("gemma-2b", "hidden_activation", json!("gelu"), "hidden_activation = \"gelu\""),
        ("gemma-2b", "use_bidirectional_attention", json!(true), "use_bidirectional_attention = true"),
        ("gemma-2-27b", "attn_logit_softcapping", json!(-1.0), "attn_logit_softcapping = -1"),
        ("gemma-2-27b", "query_pre_attn_scalar", json!("root"), "query_pre_attn_scalar = \"root\""),
        ("gemma-2-27b", "sliding_window_size", json!(1024), "sliding_window_size = 1024"),
        (
            "Llama-3.1-8B",
            "rope_scaling",
            json!({ "type": "yarn", "factor": 4.0, "beta_fast": 1.0 }),
            "beta_fast = 1 must be larger",
        ),
        (
            "Llama-3.1-8B",
            "rope_scaling",
            json!({ "type": "yarn", "factor": 4.0, "mystery": 1.0 }),
            "rope_scaling.mystery",
        ),
        ("Llama-3.1-8B", "partial_rotary_factor", json!(0.5), "partial_rotary_factor = 0.5"),
        ("Llama-3.1-8B", "num_experts", json!(8), "num_experts = 8"),
    ];
    for (name, key, value, says) in table {
        let mut config = published().into_iter().find(|(n, _)| n == name).unwrap().1;
        config[*key] = value.clone();
        let problems = from_json(&config).expect_err(&format!("{name} with {key} = {value}"));
        assert!(problems.iter().any(|p| p.contains(says)), "{name} {key}: {problems:?}");
    }
    // What transformers would fill with the figures of one model must be said.
    for (name, key) in [
        ("Mistral-7B-v0.1", "num_key_value_heads"),
        ("Qwen3-0.6B", "head_dim"),
        ("gemma-2b", "head_dim"),
        ("gemma-2-27b", "num_key_value_heads"),
    ] {
        let mut config = published().into_iter().find(|(n, _)| *n == name).unwrap().1;
        config.as_object_mut().unwrap().remove(key);
        let problems = from_json(&config).unwrap_err();
        assert_eq!(problems, [format!("{key} is missing")], "{name}");
    }
}
