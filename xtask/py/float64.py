"""Hugging Face's decoders in true float64, for the scripts that write golden data.

Moving a transformers model to float64 is not enough: RMSNorm squares in float32, the rotary table
and its angles are float32, Gemma's scale of the embedding is, and eager attention takes its softmax
in float32. Import this module and build the model with `build`, and none of these is left.
"""

from contextlib import contextmanager
from unittest import mock

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.gemma import modeling_gemma as gemma
from transformers.models.gemma2 import modeling_gemma2 as gemma2
from transformers.models.llama import modeling_llama as llama
from transformers.models.mistral import modeling_mistral as mistral
from transformers.models.qwen2 import modeling_qwen2 as qwen2
from transformers.models.qwen3 import modeling_qwen3 as qwen3


def _norm(self, x):
    return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def _norm_of_one_plus(self, x):
    return (1 + self.weight) * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


@torch.no_grad()
def _rotary(self, x, position_ids):
    inv_freq = self.inv_freq
    if self.rope_type == "dynamic":  # as transformers' decorator does, which this function loses
        inv_freq = rope_table(self.config, int(position_ids.max()) + 1)[0]
    assert inv_freq.dtype == torch.float64, "the table was built in float32"
    angle = position_ids[..., None].double() * inv_freq
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos() * self.attention_scaling, angle.sin() * self.attention_scaling


def _attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, softcap=None, **_):
    key = llama.repeat_kv(key, module.num_key_value_groups)
    value = llama.repeat_kv(value, module.num_key_value_groups)
    scores = query @ key.transpose(2, 3) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    weights = (scores + attention_mask).softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


for _module, _name in (llama, "Llama"), (mistral, "Mistral"), (qwen2, "Qwen2"), (qwen3, "Qwen3"):
    getattr(_module, f"{_name}RMSNorm").forward = _norm
for _module, _name in (gemma, "Gemma"), (gemma2, "Gemma2"):
    getattr(_module, f"{_name}RMSNorm").forward = _norm_of_one_plus
for _module, _name in (
    (llama, "Llama"),
    (mistral, "Mistral"),
    (qwen2, "Qwen2"),
    (qwen3, "Qwen3"),
    (gemma, "Gemma"),
    (gemma2, "Gemma2"),
):
    getattr(_module, f"{_name}RotaryEmbedding").forward = _rotary
    _module.eager_attention_forward = _attention


@contextmanager
def float_is_double():
    """Inside, code that says `torch.float` (as transformers' rotary tables do) computes in float64."""
    with mock.patch.object(torch, "float", torch.float64):
        yield


def build(config):
    """A float64 model of the class that the config is of; its weights are the caller's to set."""
    config._attn_implementation = "eager"
    with float_is_double():
        model = AutoModelForCausalLM.from_config(config).double()
    rotary = model.model.rotary_emb
    rotary.inv_freq, rotary.attention_scaling = rope_table(config)
    embedding = model.model.embed_tokens
    if hasattr(embedding, "scalar_embed_scale"):
        embedding.embed_scale = torch.tensor(embedding.scalar_embed_scale, dtype=torch.float64)
    return model.train()


def build_llama(config: LlamaConfig) -> LlamaForCausalLM:
    return build(config)


def rope_table(config, length=None) -> tuple[torch.Tensor, float]:
    """Inverse frequencies in float64 and the factor of cosines and sines, by transformers' own functions."""
    kind = config.rope_parameters["rope_type"]
    default = llama.LlamaRotaryEmbedding.compute_default_rope_parameters
    # YaRN's ramp names float32 outright.
    with float_is_double(), mock.patch.object(torch, "float32", torch.float64):
        table, scaling = (default if kind == "default" else ROPE_INIT_FUNCTIONS[kind])(config, seq_len=length)
    assert table.dtype == torch.float64
    return table, scaling
