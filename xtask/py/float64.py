"""Hugging Face's Llama in true float64, for the scripts that write golden data.

Moving a transformers model to float64 is not enough: RMSNorm squares in float32, the rotary table
and its angles are float32, and eager attention takes its softmax in float32. Import this module and
build the model with `build_llama`, and none of these is left.
"""

from contextlib import contextmanager
from unittest import mock

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama import modeling_llama as llama


def _norm(self, x):
    return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


@torch.no_grad()
def _rotary(self, x, position_ids):
    assert self.inv_freq.dtype == torch.float64, "the table was built in float32"
    angle = position_ids[..., None].double() * self.inv_freq
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos() * self.attention_scaling, angle.sin() * self.attention_scaling


def _attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **_):
    key = llama.repeat_kv(key, module.num_key_value_groups)
    value = llama.repeat_kv(value, module.num_key_value_groups)
    scores = query @ key.transpose(2, 3) * scaling + attention_mask
    weights = scores.softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


llama.LlamaRMSNorm.forward = _norm
llama.LlamaRotaryEmbedding.forward = _rotary
llama.eager_attention_forward = _attention


@contextmanager
def float_is_double():
    """Inside, code that says `torch.float` (as transformers' rotary tables do) computes in float64."""
    with mock.patch.object(torch, "float", torch.float64):
        yield


def build_llama(config: LlamaConfig) -> LlamaForCausalLM:
    """A float64 model; its weights are the caller's to set."""
    config._attn_implementation = "eager"
    with float_is_double():
        model = LlamaForCausalLM(config).double()
    return model.train()


def rope_table(config: LlamaConfig) -> torch.Tensor:
    """The inverse frequencies of `config` in float64, by transformers' own functions."""
    kind = config.rope_parameters["rope_type"]
    default = llama.LlamaRotaryEmbedding.compute_default_rope_parameters
    with float_is_double():
        table, scaling = (default if kind == "default" else ROPE_INIT_FUNCTIONS[kind])(config)
    assert table.dtype == torch.float64 and scaling == 1.0
    return table
