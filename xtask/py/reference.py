"""A decoder by its formulas, in whatever precision its weights have; shares nothing with transformers.

`Shape` says what the decoder is. `logits` is the model, `parameters` the names and sizes of its
weights: those of LLaMA's directories, and of the families that have more (Qwen 3's q_norm and k_norm,
Gemma 2's norms behind attention and MLP).
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Shape:
    """One model; `rope` is its rotary embedding as config.json spells it, {} for ALiBi."""

    name: str
    family: str
    seed: int
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    norm_eps: float
    rope: dict
    seq_len: int = 24
    tied: bool = False
    schedule: dict = None
    write_head_dim: bool = False
    max_positions: int = 128
    norm: str = "rms"  # or "one": of 1 + w, or "layer"
    sandwich: bool = False
    attention_bias: str = "none"  # or "qkv", or "all"
    qk_norm: bool = False
    window: int = 0
    window_layers: tuple = ()  # those that have it
    query_scalar: float = 0.0  # 0: head_dim
    score_cap: float = 0.0
    logit_cap: float = 0.0
    gated: bool = True
    act: str = "silu"  # or "gelu", or "gelu_pytorch_tanh"
    mlp_bias: bool = False
    scaled_embedding: bool = False
    embed_grad_scale: float = 1.0
    norm_head: bool = False
    smoothing: float = 0.0
    config: dict = field(default_factory=dict)  # more fields of its config.json

    def scaling(self) -> tuple[float, str, dict]:
        """Base, kind and fields of the rotary embedding, whichever the spelling."""
        fields = dict(self.rope.get("rope_parameters") or self.rope.get("rope_scaling") or {})
        theta = fields.pop("rope_theta", None) or self.rope.get("rope_theta")
        kind = fields.pop("rope_type", None) or fields.pop("type", "default")
        fields.pop("type", None)
        return theta, kind, fields


def parameters(shape: Shape) -> dict[str, tuple]:
    d, f, h = shape.hidden, shape.ffn, shape.head_dim
    out = {"model.embed_tokens.weight": (shape.vocab, d)}

    def matrix(name, rows, columns, bias):
        out[f"{name}.weight"] = (rows, columns)
        if bias:
            out[f"{name}.bias"] = (rows,)

    def norm(name):
        out[f"{name}.weight"] = (d,)
        if shape.norm == "layer":
            out[f"{name}.bias"] = (d,)

    for i in range(shape.layers):
        at = f"model.layers.{i}."
        for p, n in ("q", shape.heads), ("k", shape.kv_heads), ("v", shape.kv_heads):
            matrix(f"{at}self_attn.{p}_proj", n * h, d, shape.attention_bias != "none")
        matrix(f"{at}self_attn.o_proj", d, shape.heads * h, shape.attention_bias == "all")
        if shape.qk_norm:
            out[f"{at}self_attn.q_norm.weight"] = out[f"{at}self_attn.k_norm.weight"] = (h,)
        for p in ("gate", "up") if shape.gated else ("up",):
            matrix(f"{at}mlp.{p}_proj", f, d, shape.mlp_bias)
        matrix(f"{at}mlp.down_proj", d, f, shape.mlp_bias)
        norm(f"{at}input_layernorm")
        norm(f"{at}post_attention_layernorm")
        if shape.sandwich:
            norm(f"{at}pre_feedforward_layernorm")
            norm(f"{at}post_feedforward_layernorm")
    norm("model.norm")
    if not shape.tied:
        out["lm_head.weight"] = (shape.vocab, d)
    return out


def angles(shape: Shape, length: int) -> tuple[torch.Tensor, float]:
    """Angle of each position (S) and pair (H/2), and the factor of its cosine and sine."""
    half, h = shape.head_dim // 2, shape.head_dim
    theta, kind, fields = shape.scaling()
    factor, stretch = fields.get("factor", 1.0), 1.0
    if kind == "dynamic":
        ratio = max(length, shape.max_positions) / shape.max_positions
        theta *= (factor * ratio - (factor - 1)) ** (h / (h - 2))
    plain = [theta ** (-j / half) for j in range(half)]
    if kind in ("default", "dynamic"):
        turns = plain
    elif kind == "linear":
        turns = [p / factor for p in plain]
    elif kind == "llama3":
        low, high = fields["low_freq_factor"], fields["high_freq_factor"]
        original = fields["original_max_position_embeddings"]
        turns = []
        for p in plain:
            keep = (original * p / (2 * math.pi) - low) / (high - low)
            keep = min(max(keep, 0.0), 1.0)
            turns.append(keep * p + (1 - keep) * p / factor)
    elif kind == "yarn":
        original = fields["original_max_position_embeddings"]
        pair = lambda rotations: h * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))
        low, high = pair(fields.get("beta_fast", 32)), pair(fields.get("beta_slow", 1))
        if fields.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, h - 1)
        high += 0.001 * (low == high)
        turns = []
        for j, p in enumerate(plain):
            keep = 1 - min(max((j - low) / (high - low), 0.0), 1.0)
            turns.append(keep * p + (1 - keep) * p / factor)
        mscale = lambda m: 0.1 * m * math.log(factor) + 1 if factor > 1 else 1.0
        m, all_dim = fields.get("mscale"), fields.get("mscale_all_dim")
        stretch = fields.get("attention_factor") or (mscale(m) / mscale(all_dim) if m and all_dim else mscale(1))
    else:
        raise ValueError(kind)
    return torch.tensor([[t * p for p in turns] for t in range(length)], dtype=torch.float64), stretch


def slopes(heads: int) -> list[float]:
    """ALiBi: 2^(-8i/n) for a power of two; else those of the next lower one, and every other of the next higher."""
    if heads & (heads - 1) == 0:
        return [2 ** (-8 * (i + 1) / heads) for i in range(heads)]
    lower = 1 << (heads.bit_length() - 1)
    return slopes(lower) + slopes(2 * lower)[0::2][: heads - lower]


def cap(x, limit):
    return limit * torch.tanh(x / limit) if limit else x


def gradient_times(x, scale):
    """x, whose gradient is multiplied."""
    return x if scale == 1 else scale * x + (1 - scale) * x.detach()


def logits(shape: Shape, weights: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """Logits (rows, S, V) of `ids` (rows, S)."""
    dtype = weights["model.norm.weight"].dtype
    length, half = ids.shape[1], shape.head_dim // 2
    future = torch.triu(torch.ones(length, length, dtype=torch.bool), diagonal=1)
    distance = torch.arange(length)[:, None] - torch.arange(length)

    def norm(x, name):
        w = weights[f"{name}.weight"]
        if shape.norm == "layer":
            x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + shape.norm_eps).sqrt()
        x = x * (1 + w) if shape.norm == "one" else x * w
        return x + weights[f"{name}.bias"] if shape.norm == "layer" else x

    def linear(x, name):
        y = x @ weights[f"{name}.weight"].T
        return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y

    def head_norm(x, name):
        return x / (x.square().mean(-1, keepdim=True) + shape.norm_eps).sqrt() * weights[f"{name}.weight"]

    if shape.rope:
        angle, stretch = angles(shape, length)
        cos, sin = (stretch * f.to(dtype)[:, None] for f in (angle.cos(), angle.sin()))

    def rotate(x):  # (rows, S, heads, head_dim), the two halves are real and imaginary part
        if not shape.rope:
            return x
        a, b = x[..., :half], x[..., half:]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def attention(y, at, layer):
        q, k, v = (linear(y, f"{at}.{p}_proj").unflatten(-1, (-1, shape.head_dim)) for p in "qkv")
        if shape.qk_norm:
            q, k = head_norm(q, f"{at}.q_norm"), head_norm(k, f"{at}.k_norm")
        q, k = rotate(q), rotate(k)
        hidden = future | (distance >= shape.window) if layer in shape.window_layers else future
        heads = []
        for n in range(shape.heads):
            g = n // (shape.heads // shape.kv_heads)
            scores = q[:, :, n] @ k[:, :, g].transpose(1, 2) / math.sqrt(shape.query_scalar or shape.head_dim)
            scores = cap(scores, shape.score_cap)
            if not shape.rope:
                scores = scores - slopes(shape.heads)[n] * distance.to(dtype)
            heads.append(scores.masked_fill(hidden, -math.inf).softmax(-1) @ v[:, :, g])
        return linear(torch.cat(heads, -1), f"{at}.o_proj")

    def activation(x):
        if shape.act == "silu":
            return x * x.sigmoid()
        if shape.act == "gelu":
            return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def mlp(y, at):
        up = linear(y, f"{at}.up_proj")
        y = activation(linear(y, f"{at}.gate_proj")) * up if shape.gated else activation(up)
        return linear(y, f"{at}.down_proj")

    embedding = weights["model.embed_tokens.weight"]
    x = gradient_times(embedding, shape.embed_grad_scale)[ids]
    if shape.scaled_embedding:
        x = x * math.sqrt(shape.hidden)
    for i in range(shape.layers):
        at = f"model.layers.{i}."
        y = attention(norm(x, at + "input_layernorm"), at + "self_attn", i)
        x = x + (norm(y, at + "post_attention_layernorm") if shape.sandwich else y)
        before = "pre_feedforward_layernorm" if shape.sandwich else "post_attention_layernorm"
        y = mlp(norm(x, at + before), at + "mlp")
        x = x + (norm(y, at + "post_feedforward_layernorm") if shape.sandwich else y)
    head = embedding if shape.tied else weights["lm_head.weight"]
    head = gradient_times(head, shape.embed_grad_scale)
    if shape.norm_head:
        head = F.normalize(head)
    return cap(norm(x, "model.norm") @ head.T, shape.logit_cap)
