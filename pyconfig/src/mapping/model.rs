//! `model_type` and `model = dict(...)` -> `[model]`, `precision.params`, `memory.recompute`.
use crate::report::Report;
use crate::section::{Given, Section, shown};
use crate::value::{Place, Value};
use toml::Table;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    InternLm,
    InternLm2,
    Llama2,
    Moe,
    /// Refused already.
    Unknown,
}

pub fn kind(top: &mut Section, r: &mut Report) -> Kind {
    let Some(given) = top.text(r, "model_type") else { return Kind::InternLm };
    match given.value.as_str() {
        "INTERNLM" => Kind::InternLm,
        // Its name in later versions.
        "INTERNLM2_PUBLIC" | "INTERNLM2" => Kind::InternLm2,
        "LLAMA2" => Kind::Llama2,
        moe if moe.contains("MoE") => {
            r.experts.push((given.key, given.place));
            Kind::Moe
        }
        other => {
            let there_are = "there are INTERNLM, INTERNLM2_PUBLIC and LLAMA2";
            let way_out = "for other families write a run file, or model.init_from = \"DIR\" of a Hugging Face model";
            r.refuse(&given.place, format!("model_type = {other:?} is not mapped; {there_are}; {way_out}"));
            Kind::Unknown
        }
    }
}

/// What other sections need to know.
pub struct Shape {
    pub precision: Precision,
    /// Part of the layers.
    pub recompute: Option<f64>,
    /// More than one expert a layer.
    pub experts: bool,
    /// Stages of a rank, in a pipeline.
    pub chunks: i64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Precision {
    F32,
    Bf16,
    F16,
}

/// `weights`: a Hugging Face directory, which brings its own shape.
pub fn model(mut model: Section, kind: Kind, weights: Option<String>, r: &mut Report) -> Shape {
    let experts = experts(&mut model, r);
    let m = &mut model;
    let precision = precision(m, r);
    let recompute = recompute(m, r);
    let chunks = m.count(r, "num_chunks", 1).unwrap_or(1);
    same_arithmetic(m, r);

    let (shape, notes) = (r.settings.len(), r.notes.len());
    family(kind, r);
    sizes(m, kind, r);
    norms_and_ends(m, kind, r);
    attention(m, kind, r);
    initial_weights(m, kind, r);
    if let Some(dir) = weights {
        // Here there is one source of the shape, so the two cannot differ.
        r.settings.truncate(shape);
        r.notes.truncate(notes);
        let why = "the shape comes from config.json of the directory that is loaded, not from here";
        r.note("model", &m.place, why);
        r.set("model.init_from", dir);
    }
    model.end(r);
    Shape { precision, recompute, experts, chunks }
}

fn family(kind: Kind, r: &mut Report) {
    let family = match kind {
        Kind::InternLm => "internlm",
        Kind::InternLm2 => "internlm2",
        Kind::Llama2 => "llama",
        Kind::Moe | Kind::Unknown => return,
    };
    r.set("model.family", family);
}

fn experts(m: &mut Section, r: &mut Report) -> bool {
    let mut more_than_one = false;
    for key in ["num_experts", "moe_type", "moe_use_residual", "top_k", "num_shared_experts", "moe_layer_kwargs"] {
        if let Some(node) = m.take(r, key) {
            more_than_one |= key == "num_experts" && matches!(node.value, Value::Int(n) if n > 1);
            r.experts.push((m.key(key), node.place));
        }
    }
    more_than_one
}

fn precision(m: &mut Section, r: &mut Report) -> Precision {
    let Some(given) = m.text(r, "dtype") else {
        r.note("model.dtype", &m.place, "absent, which is float16 in the original");
        return Precision::F16;
    };
    match given.value.as_str() {
        "torch.bfloat16" => Precision::Bf16,
        "torch.float16" | "torch.half" => Precision::F16,
        "torch.float32" => Precision::F32,
        "torch.tf32" => {
            r.note(
                &given.key,
                &given.place,
                "tf32 is f32 with products of ten bits of fraction; here it is f32 throughout",
            );
            Precision::F32
        }
        other => {
            let there_are = "torch.bfloat16, torch.float16, torch.half, torch.float32 and torch.tf32";
            r.refuse(&given.place, format!("{} = {other:?}: there are {there_are}", given.key));
            Precision::F32
        }
    }
}

/// True, False or the part of the layers whose activations are computed again.
fn recompute(m: &mut Section, r: &mut Report) -> Option<f64> {
    let node = m.take(r, "checkpoint")?;
    let part = match node.value {
        Value::Bool(all) => f64::from(all),
        Value::Int(n) => n as f64,
        Value::Float(part) => part,
        _ => f64::NAN,
    };
    if !(0.0..=1.0).contains(&part) {
        let value = shown(&node.value);
        r.refuse(&node.place, format!("model.checkpoint = {value}: must be True, False or a part between 0 and 1"));
        return None;
    }
    (part > 0.0).then_some(part)
}

/// Keys that change where or how something is computed, not what; and those with one value that is computed here.
fn same_arithmetic(m: &mut Section, r: &mut Report) {
    let off = Value::Bool(false);
    let why =
        "no effect: kernels are the backend's own; attention always keeps documents apart or together as data says";
    m.no_effect(r, why, &["use_flash_attn"]);
    let why = "no effect: how the embedding and the head are split follows from parallel.tensor";
    m.no_effect(r, why, &["embed_split_hidden", "parallel_output"]);
    let why = "no effect: there is no dropout to compute again";
    m.no_effect(r, why, &["dropout_selective_checkpoint"]);
    m.only(r, "drop_rate", Value::Int(0), "there is no dropout");
    m.only(r, "attn_drop_rate", Value::Int(0), "there is no dropout");
    m.only(r, "residual_in_fp32", off.clone(), "the residual stream has the type of precision.params");
    m.only(r, "apply_post_layer_norm", off.clone(), "norms stand before attention and MLP");
    m.only(r, "deepnorm", off.clone(), "the original refuses it too");
    m.only(r, "is_reward", off, "there are no reward models");
}

fn sizes(m: &mut Section, kind: Kind, r: &mut Report) {
    let mut size = |key: &str, default: i64, r: &mut Report| match m.count(r, key, 1) {
        Some(n) => n,
        None => {
            r.note(&m.key(key), &m.place, &format!("absent or not usable; the original's default is {default}"));
            default
        }
    };
    let vocab = size("vocab_size", 50304, r);
    let hidden = size("hidden_size", 2048, r);
    let layers = size("num_layers", 48, r);
    let heads = size("num_attention_heads", 32, r);
    r.set("model.vocab_size", vocab);
    r.set("model.hidden_size", hidden);
    r.set("model.num_hidden_layers", layers);
    r.set("model.num_attention_heads", heads);

    let kv = m.whole(r, "num_kv_attention_heads");
    match (kind, kv) {
        (Kind::InternLm, Some(kv)) if kv.value != heads => {
            let message = format!("{} = {}: INTERNLM has as many as heads", kv.key, kv.value);
            r.refuse(&kv.place, format!("{message}; use model_type = \"INTERNLM2_PUBLIC\""));
        }
        (_, Some(kv)) if kv.value < 1 => {
            r.refuse(&kv.place, format!("{} = {}: must be at least 1", kv.key, kv.value));
        }
        (_, kv) => r.set("model.num_key_value_heads", kv.map_or(heads, |kv| kv.value)),
    }

    let gated = m.flag(r, "use_swiglu").is_none_or(|given| given.value);
    let ratio = m.number(r, "mlp_ratio").map_or(4.0, |given| given.value);
    // Later versions only.
    let multiple = m.count(r, "multiple_of", 1).unwrap_or(256);
    let wide = (hidden as f64 * ratio) as i64;
    // With GELU there is nothing that rounds.
    let ffn = if gated {
        (wide.clamp(0, i64::MAX / 2) as u64).div_ceil(multiple as u64).checked_mul(multiple as u64)
    } else {
        Some(wide as u64)
    };
    match ffn.and_then(|ffn| i64::try_from(ffn).ok()).filter(|ffn| (1..1 << 40).contains(ffn)) {
        Some(ffn) => r.set("model.intermediate_size", ffn),
        None => r.refuse(&m.place, format!("model.mlp_ratio = {ratio} times model.hidden_size = {hidden} is no size")),
    }
    if !gated {
        r.set("model.gated_mlp", false);
        r.set("model.hidden_act", "gelu_tanh");
    }
}

fn norms_and_ends(m: &mut Section, kind: Kind, r: &mut Report) {
    let eps = m.number(r, "layer_norm_epsilon").map_or(1e-5, |given| given.value);
    r.set("model.rms_norm_eps", eps);
    match m.text(r, "norm_type") {
        Some(Given { value, .. }) if value == "layernorm" => r.set("model.norm", "layer"),
        Some(Given { key, place, value }) if value != "rmsnorm" => {
            r.refuse(&place, format!("{key} = {value:?}: there are \"rmsnorm\" and \"layernorm\", which the original takes for any other name"));
        }
        _ => {}
    }
    r.set("model.tie_word_embeddings", false);
    let scale = m.number(r, "embed_grad_scale").map_or(1.0, |given| given.value);
    if scale != 1.0 {
        r.set("model.embed_grad_scale", scale);
    }
    if let Some(given) = m.flag(r, "norm_head").filter(|given| given.value) {
        match kind {
            Kind::InternLm2 => r.set("model.norm_head", true),
            _ => r.refuse(&given.place, "model.norm_head = True: only INTERNLM2_PUBLIC has it; remove it"),
        }
    }
}

fn attention(m: &mut Section, kind: Kind, r: &mut Report) {
    // INTERNLM has biases on all four projections, and no key for it.
    let no_bias = m.flag(r, "no_bias");
    if let (Kind::InternLm, Some(given)) = (kind, no_bias.as_ref().filter(|given| given.value)) {
        let way_out = "remove it, or use model_type = \"INTERNLM2_PUBLIC\"";
        r.refuse(&given.place, format!("model.no_bias = True: INTERNLM always has biases; {way_out}"));
    }
    let no_bias = no_bias.is_some_and(|given| given.value);
    r.set("model.attention_bias", if no_bias { "none" } else { "all" });

    let theta = m.number(r, "rope_base").map_or(1e4, |given| given.value);
    r.set("model.rope_theta", theta);
    let positions = m.count(r, "max_position_embeddings", 1).unwrap_or(2048);
    r.set("model.max_position_embeddings", positions);
    if let Some(given) = m.flag(r, "use_dynamic_ntk_rope").filter(|given| given.value) {
        match kind {
            Kind::Llama2 => {
                r.refuse(&given.place, "model.use_dynamic_ntk_rope = True: LLAMA2 does not have it; remove it")
            }
            _ => {
                let scaling = [("rope_type", toml::Value::from("dynamic")), ("factor", 1.0.into())];
                r.set("model.rope_scaling", scaling.map(|(k, v)| (k.to_string(), v)).into_iter().collect::<Table>());
            }
        }
    }
    let half = rope_is_in_halves(m, kind, r);
    r.set("model.rope_layout", if half { "half" } else { "interleaved" });
}

/// `adapt_hf`, or its opposite `qk_interleaved` of later versions.
fn rope_is_in_halves(m: &mut Section, kind: Kind, r: &mut Report) -> bool {
    let halves = m.flag(r, "adapt_hf");
    let interleaved = m.flag(r, "qk_interleaved");
    if let (Some(a), Some(b)) = (&halves, &interleaved)
        && a.value == b.value
    {
        r.refuse(&b.place, format!("{} = {} contradicts {} on line {}", b.key, python(b.value), a.key, a.place.line));
    }
    let given = halves.or(interleaved.map(|given| Given { value: !given.value, ..given }));
    match (kind, given) {
        (Kind::InternLm, Some(given)) if !given.value => {
            r.refuse(&given.place, format!("{}: INTERNLM has its rotary pairs in halves; remove it", given.key));
            true
        }
        (_, Some(given)) => given.value,
        (Kind::Llama2, None) => false,
        (_, None) => true,
    }
}

fn python(flag: bool) -> &'static str {
    if flag { "True" } else { "False" }
}

fn initial_weights(m: &mut Section, kind: Kind, r: &mut Report) {
    let scaled = m.flag(r, "use_scaled_init").is_none_or(|given| given.value);
    r.set("model.scaled_init", scaled);
    if kind == Kind::InternLm {
        r.set("model.initializer_range", 0.006);
        let why = "INTERNLM's embedding and head begin with a standard deviation of 0.0052 in the original, here with 0.006 as all others";
        r.note("model_type", &Place { line: 0, ..m.place.clone() }, why);
        if !scaled {
            let why = "out_proj and w2 begin with a standard deviation of 0.0015 in the original, here with 0.006";
            r.note("model.use_scaled_init", &m.place, why);
        }
        return;
    }
    let keys = [
        "attn_wqkv_init_std",
        "embedding_init_std",
        "attn_other_init_std",
        "ffn_uplayer_init_std",
        "ffn_other_init_std",
        "out_head_init_std",
    ];
    let stds = keys.map(|key| (m.number(r, key), 0.02));
    let of = |(given, default): &(Option<Given<f64>>, f64)| given.as_ref().map_or(*default, |given| given.value);
    let range = of(&stds[0]);
    r.set("model.initializer_range", range);
    for (key, std) in keys.iter().zip(&stds).filter(|(_, std)| of(std) != range) {
        let place = std.0.as_ref().map_or(&m.place, |given| &given.place).clone();
        let why = format!("all matrices begin with one standard deviation here, {range} of attn_wqkv_init_std");
        r.note(&m.key(key), &place, &why);
    }
    m.only(r, "init_type", Value::Str("normal".into()), "initial weights are normal");
}
