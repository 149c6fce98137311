"""How the families' directories spell a `Shape`: config.json, tensors, and transformers' own class, if it has one."""

import numpy as np
from transformers import AutoConfig

from reference import Shape

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "internlm": "InternLMForCausalLM",
    "internlm2": "InternLM2ForCausalLM",
    "baichuan": "BaichuanForCausalLM",
}
CLASSES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2")


def config_json(shape: Shape) -> dict:
    if shape.family == "internevo":
        return dict(sorted(internevo_json(shape).items()))
    config = {
        "architectures": [ARCHITECTURES[shape.family]],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": shape.act,
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.ffn,
        "max_position_embeddings": shape.max_positions,
        "model_type": shape.family,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": shape.norm_eps,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": shape.vocab,
        **shape.rope,
        **({"head_dim": shape.head_dim} if shape.write_head_dim else {}),
    }
    match shape.family:
        case "llama":
            config |= {"attention_bias": False, "mlp_bias": False}
        case "internlm2":
            config |= {"bias": False, "pad_token_id": 2}
        case "internlm":
            # The field of the later releases, and no sign of groups of heads.
            config |= {"bias": True, "pad_token_id": 2}
            drop(config, "num_key_value_heads", "rope_theta", "rope_scaling")
        case "baichuan":
            config |= {"_from_model_config": True, "pad_token_id": 0, "tokenizer_class": "BaichuanTokenizer"}
            drop(config, "num_key_value_heads", "rope_theta", *([] if shape.rope else ["max_position_embeddings"]))
        case "mistral":
            config |= {"attention_dropout": 0.0, "sliding_window": shape.window or None}
        case "qwen2" | "qwen3":
            config |= {"attention_dropout": 0.0, "sliding_window": shape.window, "use_sliding_window": shape.window > 0}
            config["max_window_layers"] = min(shape.window_layers, default=shape.layers)
            if shape.family == "qwen3":
                config["attention_bias"] = False
        case "gemma":
            config |= {"attention_bias": False, "hidden_act": "gelu", "hidden_activation": shape.act, "pad_token_id": 0}
            drop(config, "tie_word_embeddings")
        case "gemma2":
            config |= {
                "attention_bias": False,
                "attn_logit_softcapping": shape.score_cap,
                "cache_implementation": "hybrid",
                "final_logit_softcapping": shape.logit_cap,
                "hidden_activation": shape.act,
                "query_pre_attn_scalar": int(shape.query_scalar),
                "sliding_window": shape.window,
            }
            drop(config, "tie_word_embeddings")
    return dict(sorted((config | shape.config).items()))


def drop(config: dict, *keys) -> None:
    for key in keys:
        config.pop(key, None)


def internevo_json(shape: Shape) -> dict:
    """Our own words: those of a run's [model]."""
    theta, kind, fields = shape.scaling()
    return {
        "model_type": "internevo",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.ffn,
        "norm": {"rms": "rms", "one": "rms_plus_one", "layer": "layer"}[shape.norm],
        "rms_norm_eps": shape.norm_eps,
        "sandwich_norms": shape.sandwich,
        "attention_bias": shape.attention_bias,
        "qk_norm": shape.qk_norm,
        "position_embedding": "rope" if shape.rope else "alibi",
        **({"rope_theta": theta} if shape.rope else {}),
        **({"rope_scaling": {"rope_type": kind, **fields}} if shape.rope and kind != "default" else {}),
        "query_pre_attn_scalar": shape.query_scalar,
        "attn_logit_softcapping": shape.score_cap,
        "final_logit_softcapping": shape.logit_cap,
        "hidden_act": {"gelu_pytorch_tanh": "gelu_tanh"}.get(shape.act, shape.act),
        "gated_mlp": shape.gated,
        "mlp_bias": shape.mlp_bias,
        "scale_embedding": shape.scaled_embedding,
        "embed_grad_scale": shape.embed_grad_scale,
        "norm_head": shape.norm_head,
        "tie_word_embeddings": shape.tied,
        "max_position_embeddings": shape.max_positions,
        **shape.config,
    }


def transformers_config(shape: Shape):
    """The config of the class that computes this model; none if there is no such class."""
    if shape.norm_head or not shape.rope or shape.family == "internevo":
        return None
    theta, kind, fields = shape.scaling()
    own = config_json(shape)
    family = shape.family if shape.family in CLASSES else "llama"
    config = {
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.ffn,
        "rms_norm_eps": shape.norm_eps,
        "max_position_embeddings": shape.max_positions,
        "rope_parameters": {"rope_type": kind, "rope_theta": theta, **fields},
        "tie_word_embeddings": shape.tied,
        "pad_token_id": None,  # a padding row would get no gradient
        "use_cache": False,
    }
    if family == "llama":
        config["attention_bias"] = shape.attention_bias == "all"
    for key in (
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "max_window_layers",
        "query_pre_attn_scalar",
        "sliding_window",
        "use_sliding_window",
    ):
        if key in own:
            config[key] = own[key]
    return AutoConfig.for_model(family, **config)


def tensors(shape: Shape, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    match shape.family:
        case "internlm2":
            return internlm2_tensors(shape, weights)
        case "baichuan":
            return baichuan_tensors(shape, weights)
        case _:
            return weights


def internlm2_tensors(shape: Shape, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """LLaMA tensors under InternLM2's names, with q, k, v fused by kv head."""
    out = {
        "model.tok_embeddings.weight": weights["model.embed_tokens.weight"],
        "model.norm.weight": weights["model.norm.weight"],
        "output.weight": weights["lm_head.weight"],
    }
    renamed = {
        "attention.wo": "self_attn.o_proj",
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w3": "mlp.up_proj",
        "feed_forward.w2": "mlp.down_proj",
    }
    for i in range(shape.layers):
        at = f"model.layers.{i}."
        for theirs, llama in renamed.items():
            out[f"{at}{theirs}.weight"] = weights[f"{at}{llama}.weight"]
        # (kv head, heads of this kind in the group, head_dim, hidden)
        split = (shape.kv_heads, -1, shape.head_dim, shape.hidden)
        q, k, v = (weights[f"{at}self_attn.{p}_proj.weight"].reshape(split) for p in "qkv")
        out[f"{at}attention.wqkv.weight"] = np.concatenate((q, k, v), axis=1).reshape(-1, shape.hidden)
    return out


def baichuan_tensors(shape: Shape, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """q, k and v in one matrix, one below the other."""
    out = {}
    for name, w in weights.items():
        at, _, part = name.partition("self_attn.")
        if part == "q_proj.weight":
            out[f"{at}self_attn.W_pack.weight"] = np.concatenate(
                [weights[f"{at}self_attn.{p}_proj.weight"] for p in "qkv"]
            )
        elif part not in ("k_proj.weight", "v_proj.weight"):
            out[name] = w
    return out
