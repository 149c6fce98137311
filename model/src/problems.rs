//! Everything about a decoder that does not fit together, each with its way out. Keys are those of `[model]`.
use crate::{Decoder, Position, Scaling};
use backend::Heads;

/// More than a hundred times those of the deepest models.
const MOST_LAYERS: usize = 10_000;

/// Heads up to which the numbers that divide them are listed; no model has more.
const MOST_LISTED: usize = 1024;

/// Why a model cannot have so many layers, if so. To be asked before anything is made for each of them.
pub(crate) fn too_many_layers(layers: usize) -> Option<String> {
    let text = || format!("model.num_hidden_layers = {layers} is too large; at most {MOST_LAYERS} can be");
    (layers > MOST_LAYERS).then(text)
}

impl Decoder {
    pub fn problems(&self) -> Vec<String> {
        let mut out = self.size_problems();
        let mut positive = |key: &str, x: f64, try_: &str| {
            if !(x > 0.0 && x.is_finite()) {
                out.push(format!("model.{key} = {x}: must be positive; {try_}"));
            }
        };
        positive("rms_norm_eps", self.norm_eps, "try 1e-5");
        positive("initializer_range", self.init_std, "try 0.02");
        positive("embed_grad_scale", self.embed_grad_scale, "1.0 leaves the gradients as they are");
        for (key, x) in [
            ("query_pre_attn_scalar", self.query_scalar),
            ("attn_logit_softcapping", self.score_cap),
            ("final_logit_softcapping", self.logit_cap),
        ] {
            positive(key, x.unwrap_or(1.0), "remove it to do without");
        }
        if self.window.is_some_and(|w| w.size == 0) {
            out.push("model.sliding_window = 0: a token sees at least itself; remove it to do without".into());
        }
        if let Position::Rope(rope) = self.position {
            out.extend(rope.problems());
            if self.heads.dim % 2 == 1 {
                let (dim, even) = (self.heads.dim, self.heads.dim + 1);
                out.push(format!("model.head_dim = {dim} is odd, but RoPE rotates pairs; try {even}"));
            }
            if matches!(rope.scaling, Some(Scaling::Dynamic { .. })) && self.heads.dim <= 2 {
                out.push(format!("model.head_dim = {}: dynamic NTK needs at least 4", self.heads.dim));
            }
        }
        out
    }

    fn size_problems(&self) -> Vec<String> {
        let mut out = vec![];
        let sizes = [
            ("vocab_size", self.vocab),
            ("hidden_size", self.hidden),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads.n),
            ("num_key_value_heads", self.heads.kv),
            ("head_dim", self.heads.dim),
            ("intermediate_size", self.ffn),
            ("max_position_embeddings", self.max_positions),
        ];
        for (key, _) in sizes.iter().filter(|(_, n)| *n == 0) {
            out.push(format!("model.{key} = 0: must be at least 1"));
        }
        let Heads { n, kv, dim } = self.heads;
        // What is counted from the sizes fits a machine word, and a program of all layers fits the memory; those of a
        // damaged file or of a slip of the pen would not.
        let width = self.vocab as f64 + self.ffn as f64 + (n as f64 + 2.0 * kv as f64) * dim as f64;
        let parameters = self.hidden as f64 * self.layers.max(1) as f64 * width;
        if let Some(problem) = too_many_layers(self.layers) {
            out.push(problem);
        } else if parameters > 1e15 {
            out.push(format!(
                "model.hidden_size = {}, num_hidden_layers = {} and a width of {width:e} make {parameters:e} parameters; one of the sizes is too large",
                self.hidden, self.layers
            ));
        }
        if kv > 0 && n % kv != 0 {
            let fits: Vec<String> = (1..=n.min(MOST_LISTED)).filter(|k| n % k == 0).map(|k| k.to_string()).collect();
            out.push(format!(
                "model.num_key_value_heads = {kv} does not divide model.num_attention_heads = {n}; try one of {}",
                fits.join(", ")
            ));
        }
        out
    }
}
