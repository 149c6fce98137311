"""Golden inputs, outputs and gradients of the single operations, by PyTorch autograd in float64.

    python xtask/py/op_goldens.py

needs torch, transformers >= 5, safetensors and numpy, and rewrites backend/tests/goldens/ops.safetensors.
Floats are F64 but every *input* is exactly a float32, so a float32 kernel starts from the same numbers;
integers are U32. `d<x>` is the gradient of sum(<output> * d<output>) in x. Matrices are row major, T is tokens.

  rmsnorm        x (7,13), w (13), dy -> y, dx, dw              y = w x / sqrt(mean(x^2) + 1e-5)
  linear         x (5,7), w (11,7), dy -> y, dx, dw             y = x w^T
  embedding      ids (9), w (6,5), dy -> y, dw                  ids repeat; row 3 is never used
  rope           qkv (6,50), positions (6), dy -> y, dx         3 query, 1 key, 1 value head of 10; theta 1e4.
                 A row is all query heads, then key heads, then value heads; the value heads are not turned.
                 The pair (j, j + head_dim/2) turns by position / theta^(2j / head_dim).
  attention      qkv (13,48), cu_seqlens (4), do -> o (13,24), lse (4,13), dqkv
                 4 query, 2 kv heads of 6; token t sees its own segment up to itself; scale 1/sqrt(6);
                 query head n uses kv head n / 2 (rounded down); lse is the natural log-sum-exp of the
                 scaled scores. Segments 0..5, 5..6, 6..13. No rotation.
  attention_mha  the same with 3 query, 3 kv heads of 5: qkv (13,45), o (13,15), lse (3,13)
  swiglu         h (5,18), ds -> s (5,9), dh                    s = silu(h[:, :9]) * h[:, 9:]
  cross_entropy  logits (6,17), labels (6) -> loss (1), dlogits
                 two labels are 0xFFFFFFFF and count for nothing; loss is the sum of -log softmax over the
                 others, dlogits the gradient of loss / 4.
  adamw          p, g, m, v (23) -> p1, m1, v1                  step t = 3 (the first step is 1), lr 1e-2,
                 betas 0.9, 0.95, eps 1e-8, decay 0.1, clip scale 0.7, as torch.optim.AdamW:
                     g' = 0.7 g;  m1 = 0.9 m + 0.1 g';  v1 = 0.95 v + 0.05 g'^2
                     p1 = p (1 - lr decay) - lr / (1 - 0.9^t) * m1 / (sqrt(v1 / (1 - 0.95^t)) + eps)
  rope_table     inverse frequencies, by transformers' own functions run in float64:
                 default (4): theta 1e4, head_dim 8;  linear (4): the same, factor 2;
                 llama3 (32): theta 5e5, head_dim 64, factor 8, low 1, high 4, original length 8192

  rmsnorm_offset    as rmsnorm, with 1 + w in the place of w
  layernorm         x (7,13), w, b (13), dy -> y, dx, dw, db    eps 1e-5
  head_norm         x (5,30), w (2,6), dy -> y, dx, dw          3 query, 1 key, 1 value head of 6; every query head
                    and every key head is rms-normalised, by the first and by the second row of w; values pass
  unit_rows         w (6,7), dy -> y, dw                        y = w / max(|w|, 1e-12), by rows
  gelu, gelu_tanh   h (41), ds -> s, dh
  rope_interleaved  as rope, but the pair (2j, 2j + 1) turns
  attention_window, attention_cap, attention_alibi, attention_all
                    as attention, segments 0..4, 4..13. One way of making scores each, and all of them:
                    window: 4 query, 2 kv heads of 4; token i sees j > i - 3 only;  cap: the same heads, 1.5 tanh(s / 1.5)
                    alibi: 12 query, 3 kv heads of 2; s - slope (i - j);
                    all: 3 query, 1 kv heads of 4; scale 0.8, cap 2, window 5, alibi
  cross_entropy_smoothed, cross_entropy_capped
                    as cross_entropy, label smoothing 0.1; the second of logits 2.5 tanh(z / 2.5). nll (1) is the sum
                    without smoothing.

Where PyTorch has the operation built in, the plain formula written here is checked against it.
"""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from transformers import LlamaConfig

from float64 import rope_table

OUT = Path(__file__).resolve().parents[2] / "backend" / "tests" / "goldens" / "ops.safetensors"
MASKED = 0xFFFFFFFF

rng = np.random.default_rng(20)


def draw(*shape, scale=1.0) -> torch.Tensor:
    """A random float64 tensor of float32 values that collects a gradient."""
    values = (scale * rng.standard_normal(shape)).astype(np.float32)
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def u32(values) -> np.ndarray:
    return np.array(values, dtype=np.uint32)


def backward(y: torch.Tensor) -> torch.Tensor:
    """A random gradient for `y`, sent back to its leaves."""
    dy = draw(*y.shape)
    y.backward(dy.detach())
    return dy


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    assert (a - b).abs().max() < 1e-13


def rmsnorm(offset=0.0):
    x, w = draw(7, 13), draw(13)
    y = (offset + w) * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    same(y, F.rms_norm(x, (13,), offset + w, 1e-5))
    dy = backward(y)
    return dict(x=x, w=w, y=y, dy=dy, dx=x.grad, dw=w.grad)


def linear():
    x, w = draw(5, 7), draw(11, 7)
    y = x @ w.T
    dy = backward(y)
    return dict(x=x, w=w, y=y, dy=dy, dx=x.grad, dw=w.grad)


def embedding():
    ids, w = [4, 0, 4, 1, 5, 4, 2, 0, 1], draw(6, 5)
    y = w[ids]
    dy = backward(y)
    return dict(ids=u32(ids), w=w, y=y, dy=dy, dw=w.grad)


def layernorm():
    x, w, b = draw(7, 13), draw(13), draw(13)
    centered = x - x.mean(-1, keepdim=True)
    y = centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w + b
    same(y, F.layer_norm(x, (13,), w, b, 1e-5))
    dy = backward(y)
    return dict(x=x, w=w, b=b, y=y, dy=dy, dx=x.grad, dw=w.grad, db=b.grad)


def head_norm(heads=3, kv_heads=1, head_dim=6):
    x, w = draw(5, (heads + 2 * kv_heads) * head_dim), draw(2, head_dim)
    q, k, v = x.unflatten(-1, (-1, head_dim)).split([heads, kv_heads, kv_heads], dim=1)
    q, k = (F.rms_norm(part, (head_dim,), w[i], 1e-5) for i, part in enumerate((q, k)))
    y = torch.cat((q, k, v), 1).flatten(1)
    dy = backward(y)
    return dict(x=x, w=w, y=y, dy=dy, dx=x.grad, dw=w.grad)


def unit_rows():
    w = draw(6, 7)
    y = F.normalize(w, eps=1e-12)
    same(y, w / w.square().sum(-1, keepdim=True).sqrt())
    dy = backward(y)
    return dict(w=w, y=y, dy=dy, dw=w.grad)


def gelu(approximate):
    h = draw(41, scale=2.0)
    s = F.gelu(h, approximate=approximate)
    ds = backward(s)
    return dict(h=h, s=s, ds=ds, dh=h.grad)


def rope(heads=3, kv_heads=1, head_dim=10, theta=1e4):
    positions = [0, 1, 2, 0, 1, 2]
    qkv = draw(len(positions), (heads + 2 * kv_heads) * head_dim)
    angle = torch.tensor(positions)[:, None] * theta ** (-torch.arange(0, head_dim, 2).double() / head_dim)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    turned, value = qkv.unflatten(-1, (-1, head_dim)).split([heads + kv_heads, kv_heads], dim=1)
    a, b = turned.chunk(2, dim=-1)
    y = torch.cat((torch.cat((a * cos - b * sin, b * cos + a * sin), -1), value), 1).flatten(1)
    dy = backward(y)
    return dict(qkv=qkv, positions=u32(positions), y=y, dy=dy, dx=qkv.grad)


def rope_interleaved(heads=3, kv_heads=1, head_dim=10, theta=1e4):
    """By complex numbers: the pair (a, b) is a + ib, and turning is a product."""
    positions = [5, 1, 2, 0, 7, 2]
    qkv = draw(len(positions), (heads + 2 * kv_heads) * head_dim)
    angle = torch.tensor(positions)[:, None] * theta ** (-torch.arange(0, head_dim, 2).double() / head_dim)
    turned, value = qkv.unflatten(-1, (-1, head_dim)).split([heads + kv_heads, kv_heads], dim=1)
    numbers = torch.view_as_complex(turned.unflatten(-1, (-1, 2)).contiguous())
    turned = torch.view_as_real(numbers * torch.polar(torch.ones_like(angle), angle)[:, None]).flatten(-2)
    y = torch.cat((turned, value), 1).flatten(1)
    dy = backward(y)
    return dict(qkv=qkv, positions=u32(positions), y=y, dy=dy, dx=qkv.grad)


def alibi_slopes(heads):
    """Press et al. 2022: a geometric sequence; between powers of two, every other one of the next sequence."""

    def of_power(n):
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

    power = 2 ** (heads.bit_length() - 1)
    return torch.tensor(of_power(power) + of_power(2 * power)[::2][: heads - power], dtype=torch.float64)


def attention_scores(heads, kv_heads, head_dim, scale=None, cap=None, window=None, alibi=False):
    cu_seqlens = [0, 4, 13]
    qkv = draw(cu_seqlens[-1], (heads + 2 * kv_heads) * head_dim)
    q, k, v = qkv.unflatten(-1, (-1, head_dim)).split([heads, kv_heads, kv_heads], dim=1)
    scale, slopes = scale or head_dim**-0.5, alibi_slopes(heads) * alibi
    outs, lses = [], []
    for start, end in zip(cu_seqlens, cu_seqlens[1:]):
        sq, sk, sv = (part[start:end].transpose(0, 1) for part in (q, k, v))
        sk, sv = (part.repeat_interleave(heads // kv_heads, dim=0) for part in (sk, sv))
        distance = torch.arange(end - start)[:, None] - torch.arange(end - start)
        hidden = (distance < 0) | (distance >= (window or end))
        scores = scale * sq @ sk.transpose(1, 2)
        scores = cap * (scores / cap).tanh() if cap else scores
        scores = (scores - slopes[:, None, None] * distance).masked_fill(hidden, -torch.inf)
        outs.append((scores.softmax(-1) @ sv).transpose(0, 1).flatten(1))
        lses.append(scores.logsumexp(-1))
        if not cap:
            mask = (-slopes[:, None, None] * distance).masked_fill(hidden, -torch.inf)
            builtin = F.scaled_dot_product_attention(sq[None], sk[None], sv[None], attn_mask=mask[None], scale=scale)[0]
            same(outs[-1], builtin.transpose(0, 1).flatten(1))
    o, lse = torch.cat(outs), torch.cat(lses, dim=1)
    do = backward(o)
    return dict(qkv=qkv, cu_seqlens=u32(cu_seqlens), o=o, lse=lse, do=do, dqkv=qkv.grad)


def attention(heads, kv_heads, head_dim):
    cu_seqlens = [0, 5, 6, 13]
    qkv = draw(cu_seqlens[-1], (heads + 2 * kv_heads) * head_dim)
    q, k, v = qkv.unflatten(-1, (-1, head_dim)).split([heads, kv_heads, kv_heads], dim=1)
    outs, lses = [], []
    for start, end in zip(cu_seqlens, cu_seqlens[1:]):
        # (heads, tokens of the segment, head_dim)
        sq, sk, sv = (part[start:end].transpose(0, 1) for part in (q, k, v))
        builtin = F.scaled_dot_product_attention(sq[None], sk[None], sv[None], is_causal=True, enable_gqa=True)[0]
        sk, sv = (part.repeat_interleave(heads // kv_heads, dim=0) for part in (sk, sv))
        future = torch.triu(torch.ones(end - start, end - start, dtype=torch.bool), diagonal=1)
        scores = (sq @ sk.transpose(1, 2) / head_dim**0.5).masked_fill(future, -torch.inf)
        outs.append((scores.softmax(-1) @ sv).transpose(0, 1).flatten(1))
        lses.append(scores.logsumexp(-1))
        same(outs[-1], builtin.transpose(0, 1).flatten(1))
    o, lse = torch.cat(outs), torch.cat(lses, dim=1)
    do = backward(o)
    return dict(qkv=qkv, cu_seqlens=u32(cu_seqlens), o=o, lse=lse, do=do, dqkv=qkv.grad)


def swiglu(ffn=9):
    h = draw(5, 2 * ffn, scale=2.0)
    s = F.silu(h[:, :ffn]) * h[:, ffn:]
    ds = backward(s)
    return dict(h=h, s=s, ds=ds, dh=h.grad)


def cross_entropy():
    logits, labels = draw(6, 17, scale=3.0), [3, MASKED, 16, 0, MASKED, 3]
    picked = [(t, label) for t, label in enumerate(labels) if label != MASKED]
    loss = sum(logits[t].logsumexp(0) - logits[t, label] for t, label in picked)
    signed = torch.tensor([-100 if label == MASKED else label for label in labels])
    same(loss, F.cross_entropy(logits, signed, reduction="sum"))
    (loss / 4).backward()
    return dict(logits=logits, labels=u32(labels), loss=loss.reshape(1), dlogits=logits.grad)


def cross_entropy_with(smoothing, cap=None):
    logits, labels = draw(6, 17, scale=3.0), [3, MASKED, 16, 0, MASKED, 3]
    signed = torch.tensor([-100 if label == MASKED else label for label in labels])
    z = cap * (logits / cap).tanh() if cap else logits
    loss = F.cross_entropy(z, signed, reduction="sum", label_smoothing=smoothing)
    nll = F.cross_entropy(z, signed, reduction="sum")
    (loss / 4).backward()
    return dict(
        logits=logits, labels=u32(labels), loss=loss.reshape(1), nll=nll.reshape(1), dlogits=logits.grad
    )


def adamw(step=3, clip_scale=0.7):
    p, g, m = draw(23), draw(23), draw(23, scale=0.1)
    v = torch.tensor((draw(23, scale=0.3) ** 2).detach().numpy().astype(np.float32), dtype=torch.float64)
    p1 = p.detach().clone().requires_grad_()
    p1.grad = clip_scale * g.detach()
    torch_adamw = torch.optim.AdamW([p1], lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    state = {"step": torch.tensor(float(step - 1)), "exp_avg": m.detach().clone(), "exp_avg_sq": v.clone()}
    torch_adamw.state[p1] = state
    torch_adamw.step()
    m1, v1 = 0.9 * m + 0.1 * clip_scale * g, 0.95 * v + 0.05 * (clip_scale * g) ** 2
    same(state["exp_avg"], m1)
    same(state["exp_avg_sq"], v1)
    same(p1, p * (1 - 1e-3) - 1e-2 / (1 - 0.9**step) * m1 / ((v1 / (1 - 0.95**step)).sqrt() + 1e-8))
    return dict(p=p, g=g, m=m, v=v, p1=p1, m1=state["exp_avg"], v1=state["exp_avg_sq"])


def rope_tables():
    def table(head_dim, **rope):
        return rope_table(LlamaConfig(head_dim=head_dim, max_position_embeddings=131072, rope_parameters=rope))

    default = table(8, rope_type="default", rope_theta=1e4)
    linear = table(8, rope_type="linear", rope_theta=1e4, factor=2.0)
    llama3 = table(
        64,
        rope_type="llama3",
        rope_theta=5e5,
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=8192,
    )
    same(default, torch.tensor([1.0, 0.1, 0.01, 0.001], dtype=torch.float64))
    same(linear, default / 2)
    plain = 5e5 ** (-torch.arange(0, 64, 2).double() / 64)
    kept, divided = llama3 == plain, llama3 == plain / 8
    assert kept.any() and divided.any() and not (kept | divided).all(), "all three bands must occur"
    return dict(default=default, linear=linear, llama3=llama3)


def main() -> None:
    ops = {
        "rmsnorm": rmsnorm(),
        "linear": linear(),
        "embedding": embedding(),
        "rope": rope(),
        "attention": attention(heads=4, kv_heads=2, head_dim=6),
        "attention_mha": attention(heads=3, kv_heads=3, head_dim=5),
        "swiglu": swiglu(),
        "cross_entropy": cross_entropy(),
        "adamw": adamw(),
        "rope_table": rope_tables(),
        "rmsnorm_offset": rmsnorm(offset=1.0),
        "layernorm": layernorm(),
        "head_norm": head_norm(),
        "unit_rows": unit_rows(),
        "gelu": gelu("none"),
        "gelu_tanh": gelu("tanh"),
        "rope_interleaved": rope_interleaved(),
        "attention_window": attention_scores(heads=4, kv_heads=2, head_dim=4, window=3),
        "attention_cap": attention_scores(heads=4, kv_heads=2, head_dim=4, cap=1.5),
        "attention_alibi": attention_scores(heads=12, kv_heads=3, head_dim=2, alibi=True),
        "attention_all": attention_scores(heads=3, kv_heads=1, head_dim=4, scale=0.8, cap=2.0, window=5, alibi=True),
        "cross_entropy_smoothed": cross_entropy_with(smoothing=0.1),
        "cross_entropy_capped": cross_entropy_with(smoothing=0.1, cap=2.5),
    }
    tensors = {}
    for op, parts in ops.items():
        for name, value in parts.items():
            if isinstance(value, torch.Tensor):
                value = value.detach().numpy()
            tensors[f"{op}.{name}"] = np.ascontiguousarray(value)
            print(f"{op}.{name}", value.dtype, value.shape)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, OUT)
    OUT.chmod(0o644)
    print(f"{OUT.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
