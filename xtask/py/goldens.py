"""Golden training runs of four small models, by PyTorch and transformers in float64.

Run it from anywhere, with a Python that has torch, transformers >= 5, safetensors and numpy:

    python xtask/py/goldens.py [MODEL ...]

It rewrites internevo/tests/goldens/<model>/ (all models, or those named):

  config.json        as Hugging Face has it, in the spelling of the model's family
  model.safetensors  F32 initial weights, under the tensor names of the family
  tokens.bin         flat little-endian u16. Sequence r is ids[r*S .. r*S+S+1]: S inputs, and as labels
                     the same shifted by one. Step i takes the sequences i*M*B .. (i+1)*M*B, in M
                     micro-batches of B rows. No id below 3 occurs (they are bos, eos, pad in spirit).
  golden.json        the run's numbers in, and per step: learning rate, loss, gradient norm before
                     clipping; `initial_eval_loss`, `eval_loss`: mean loss over the first 4 sequences
                     with the initial and the final weights
  golden.safetensors grad.<name>  F64, the first step's gradients before clipping
                     final.<name> F32, the weights after the last step
                     logits       F64 (S, V), of sequence 0 with the initial weights
                     <name> is always the LLaMA spelling, with wq, wk, wv apart; tied: no lm_head.

The loss is the sum over all label tokens of the step divided by their number. The gradient is scaled by
clip / norm when the norm exceeds clip (no 1e-6 in the denominator). AdamW is torch.optim.AdamW, with
weight decay on matrices (embedding and head too) and none on norms. The learning rate of step s is

    s < warmup:  lr * (s + 1) / warmup
    else:        min_lr + (lr - min_lr) * 0.5 * (1 + cos(pi * (s - warmup) / (steps - warmup)))

or `lr` throughout for the constant schedule. InternLM2 is trained as the LLaMA it is, and written with
its fused wqkv, whose rows are grouped by kv head: the group's query heads, its key head, its value head.

Each model is checked, before it is written, against a second implementation in this file: logits to
1e-12, gradients to 1e-10 of their largest entry. The same run in float32 is printed beside it: how far
an honest float32 implementation may stray. Some seeds let it stray by 3e-6 in a gradient norm; those of
the models are chosen to keep it within half of what the tests grant (`FLOAT32_MAY_STRAY`, asserted).
The output is deterministic: same versions, same bytes.
"""

import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.utils.logging import disable_progress_bar

from float64 import build_llama, rope_table

OUT = Path(__file__).resolve().parents[2] / "internevo" / "tests" / "goldens"

STEPS, MICRO_BATCHES, MICRO_BATCH_SIZE = 10, 2, 2
STEP_ROWS = MICRO_BATCHES * MICRO_BATCH_SIZE
EVAL_ROWS = 4
FLOAT32_MAY_STRAY = {"losses": 1e-6, "norms": 1e-6, "step-1 gradients": 5e-6, "final weights": 5e-4}
BETAS, EPS, WEIGHT_DECAY, CLIP = (0.9, 0.95), 1e-8, 0.1, 1.0
CONSTANT = {"kind": "constant", "lr": 1e-2, "min_lr": 1e-2, "warmup_steps": 0, "steps": STEPS}
COSINE = {"kind": "cosine", "lr": 1e-2, "min_lr": 1e-3, "warmup_steps": 3, "steps": STEPS}


@dataclass(frozen=True)
class Shape:
    """One model; `rope` is its rotary embedding as config.json spells it."""

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

    def llama_config(self) -> LlamaConfig:
        """The LLaMA that computes this model, in transformers' spelling of the day."""
        scaling = self.rope.get("rope_scaling")
        rope = dict(self.rope.get("rope_parameters") or {"rope_type": "default"})
        if scaling:
            rope = {"rope_type": scaling["type"], "factor": scaling["factor"]}
        rope.setdefault("rope_theta", self.rope.get("rope_theta"))
        return LlamaConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            intermediate_size=self.ffn,
            rms_norm_eps=self.norm_eps,
            rope_parameters=rope,
            tie_word_embeddings=self.tied,
            pad_token_id=None,  # a padding row would get no gradient
            use_cache=False,
        )

    def config_json(self) -> dict:
        llama = self.family == "llama"
        config = {
            "architectures": ["LlamaForCausalLM" if llama else "InternLM2ForCausalLM"],
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.ffn,
            "max_position_embeddings": 128,
            "model_type": self.family,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": self.norm_eps,
            "tie_word_embeddings": self.tied,
            "torch_dtype": "float32",
            "use_cache": True,
            "vocab_size": self.vocab,
            **self.rope,
            **({"attention_bias": False, "mlp_bias": False} if llama else {"bias": False, "pad_token_id": 2}),
            **({"head_dim": self.head_dim} if self.write_head_dim else {}),
        }
        return dict(sorted(config.items()))


MODELS = [
    Shape(
        "llama_mha", "llama", seed=1, vocab=97, hidden=24, layers=3, heads=3, kv_heads=3, head_dim=8, ffn=40,
        norm_eps=1e-6, rope={"rope_theta": 10000.0, "rope_scaling": None}, schedule=CONSTANT,
    ),
    Shape(
        "llama_gqa_tied", "llama", seed=24, vocab=131, hidden=40, layers=2, heads=4, kv_heads=2, head_dim=16, ffn=56,
        norm_eps=1e-5, rope={"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
        seq_len=17, tied=True, schedule=COSINE, write_head_dim=True,
    ),
    Shape(
        "internlm2_gqa", "internlm2", seed=3, vocab=113, hidden=48, layers=2, heads=6, kv_heads=3, head_dim=8, ffn=64,
        norm_eps=1e-5, rope={"rope_theta": 1000000.0, "rope_scaling": None}, schedule=COSINE,
    ),
    Shape(
        "internlm2_mqa", "internlm2", seed=4, vocab=61, hidden=32, layers=4, heads=4, kv_heads=1, head_dim=8, ffn=72,
        norm_eps=1e-6, rope={"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.0}}, schedule=COSINE,
    ),
]  # fmt: skip


# Inputs.


def initial_weights(shape: Shape, names: dict[str, torch.Size]) -> dict[str, np.ndarray]:
    """Normal(0, 0.08) matrices and norms near one, rounded to float32."""
    rng = np.random.default_rng(shape.seed)

    def draw(size):
        noise = rng.standard_normal(tuple(size))
        return (0.08 * noise if len(size) == 2 else 1 + 0.05 * noise).astype(np.float32)

    return {name: draw(size) for name, size in names.items()}


def make_tokens(shape: Shape) -> np.ndarray:
    """A stream of a dozen recurring phrases, some much more common than others, and a little noise."""
    rng = np.random.default_rng(100 + shape.seed)
    count = STEPS * STEP_ROWS * shape.seq_len + 1
    phrases = [rng.integers(3, shape.vocab, size=rng.integers(2, 6)) for _ in range(12)]
    odds = 1.0 / np.arange(1, len(phrases) + 1)
    stream = []
    while len(stream) < count:
        stream.extend(phrases[rng.choice(len(phrases), p=odds / odds.sum())])
        if rng.random() < 0.15:
            stream.append(rng.integers(3, shape.vocab))
    return np.array(stream[:count], dtype="<u2")


def rows(tokens: np.ndarray, seq_len: int, first: int, count: int) -> torch.Tensor:
    """Sequences first .. first + count, each with the label of its last input: (count, seq_len + 1)."""
    picked = [tokens[r * seq_len : r * seq_len + seq_len + 1] for r in range(first, first + count)]
    return torch.from_numpy(np.stack(picked).astype(np.int64))


# The second implementation: shares nothing with transformers.


def own_logits(shape: Shape, weights: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """Logits (rows, S, V) of `ids` (rows, S), in the precision of `weights`."""
    dtype = weights["model.norm.weight"].dtype
    length, half = ids.shape[1], shape.head_dim // 2
    theta = shape.rope.get("rope_theta") or shape.rope["rope_parameters"]["rope_theta"]
    factor = (shape.rope.get("rope_scaling") or {"factor": 1.0})["factor"]
    angle = torch.tensor(
        [[t / factor / theta ** (j / half) for j in range(half)] for t in range(length)], dtype=torch.float64
    )
    cos, sin = angle.cos().to(dtype)[:, None], angle.sin().to(dtype)[:, None]
    future = torch.triu(torch.ones(length, length, dtype=torch.bool), diagonal=1)

    def norm(x, name):
        return x / (x.square().mean(-1, keepdim=True) + shape.norm_eps).sqrt() * weights[name]

    def rotate(x):  # (rows, S, heads, head_dim), the two halves are real and imaginary part
        a, b = x[..., :half], x[..., half:]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    x = weights["model.embed_tokens.weight"][ids]
    for i in range(shape.layers):
        at = f"model.layers.{i}."
        y = norm(x, at + "input_layernorm.weight")
        q, k, v = ((y @ weights[f"{at}self_attn.{p}_proj.weight"].T).unflatten(-1, (-1, shape.head_dim)) for p in "qkv")
        q, k = rotate(q), rotate(k)
        heads = []
        for n in range(shape.heads):
            g = n // (shape.heads // shape.kv_heads)
            scores = q[:, :, n] @ k[:, :, g].transpose(1, 2) / math.sqrt(shape.head_dim)
            heads.append(scores.masked_fill(future, -math.inf).softmax(-1) @ v[:, :, g])
        x = x + torch.cat(heads, -1) @ weights[at + "self_attn.o_proj.weight"].T
        y = norm(x, at + "post_attention_layernorm.weight")
        gate, up, down = (weights[f"{at}mlp.{p}_proj.weight"] for p in ("gate", "up", "down"))
        g = y @ gate.T
        x = x + (g * g.sigmoid() * (y @ up.T)) @ down.T
    head = "model.embed_tokens.weight" if shape.tied else "lm_head.weight"
    return norm(x, "model.norm.weight") @ weights[head].T


# Training.


def learning_rate(schedule: dict, step: int) -> float:
    lr, low, warmup = schedule["lr"], schedule["min_lr"], schedule["warmup_steps"]
    if schedule["kind"] == "constant":
        return lr
    if step < warmup:
        return lr * (step + 1) / warmup
    return low + (lr - low) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (schedule["steps"] - warmup)))


def summed_loss(logits_of, sequences: torch.Tensor) -> torch.Tensor:
    logits = logits_of(sequences[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), sequences[:, 1:].flatten(), reduction="sum")


def train(shape: Shape, params: dict[str, torch.Tensor], logits_of, tokens: np.ndarray) -> dict:
    """Ten steps over `params`, in place; what golden.json and golden.safetensors keep of them."""
    matrices = [p for p in params.values() if p.dim() == 2]
    norms = [p for p in params.values() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": norms, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPS, foreach=False)
    labels = STEP_ROWS * shape.seq_len

    def eval_loss():
        with torch.no_grad():
            return summed_loss(logits_of, rows(tokens, shape.seq_len, 0, EVAL_ROWS)).item() / (EVAL_ROWS * shape.seq_len)

    run = {"lrs": [], "losses": [], "grad_norms": [], "initial_eval_loss": eval_loss()}
    for step in range(STEPS):
        adamw.zero_grad()
        loss = 0.0
        for micro in range(MICRO_BATCHES):
            first = step * STEP_ROWS + micro * MICRO_BATCH_SIZE
            part = summed_loss(logits_of, rows(tokens, shape.seq_len, first, MICRO_BATCH_SIZE)) / labels
            part.backward()
            loss += part.item()
        if step == 0:
            run["grads"] = {name: p.grad.clone() for name, p in params.items()}
        norm = math.sqrt(sum(p.grad.double().square().sum().item() for p in params.values()))
        if norm > CLIP:
            for p in params.values():
                p.grad *= CLIP / norm
        for group in adamw.param_groups:
            group["lr"] = learning_rate(shape.schedule, step)
        adamw.step()
        run["lrs"].append(learning_rate(shape.schedule, step))
        run["losses"].append(loss)
        run["grad_norms"].append(norm)
    run["eval_loss"] = eval_loss()
    run["final"] = {name: p.detach().clone() for name, p in params.items()}
    return run


# Checks.


def worst(got: dict, want: dict) -> float:
    """The largest max|a-b| / max|b| over the tensors of two runs."""
    return max(((got[n].double() - w).abs().max() / w.abs().max()).item() for n, w in want.items())


def check_against_own(shape: Shape, weights: dict, golden: dict, logits: torch.Tensor, tokens: np.ndarray) -> None:
    """Two implementations agree in float64; and says how far float32 is from it."""

    def own_run(dtype):
        params = {n: torch.tensor(w, dtype=dtype, requires_grad=True) for n, w in weights.items()}
        logits_of = lambda ids: own_logits(shape, params, ids)
        with torch.no_grad():
            first = logits_of(rows(tokens, shape.seq_len, 0, 1)[:, :-1])[0]
        return first, train(shape, params, logits_of, tokens)

    first, run = own_run(torch.float64)
    assert (first - logits).abs().max() < 1e-12, "the two implementations disagree on the logits"
    assert worst(run["grads"], golden["grads"]) < 1e-10, "the two implementations disagree on the gradients"
    # Adam divides by the root of a squared gradient, so a tiny gradient's rounding error is magnified.
    assert worst(run["final"], golden["final"]) < 1e-6, "the two implementations disagree after training"

    first, run = own_run(torch.float32)
    relative = lambda key: max(abs(a - b) / b for a, b in zip(run[key], golden[key]))
    strays = {
        "logits": (first - logits).abs().max().item(),
        "losses": relative("losses"),
        "norms": relative("grad_norms"),
        "step-1 gradients": worst(run["grads"], golden["grads"]),
        "final weights": worst(run["final"], golden["final"]),
    }
    print("  float32 strays by:", ", ".join(f"{what} {by:.1e}" for what, by in strays.items()))
    for what, limit in FLOAT32_MAY_STRAY.items():
        assert strays[what] < limit, f"choose another seed: float32 cannot follow the {what}"


def check_fused(shape: Shape, weights: dict, fused: dict) -> None:
    """Splitting the fused projection's output the way InternLM2's own code does gives q, k and v."""
    x = torch.randn(5, shape.hidden, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    project = lambda w: x @ torch.from_numpy(w).double().T
    for i in range(shape.layers):
        # "b q (h gs d) -> b q h gs d", gs = 2 + query heads per kv head; then [:-2], [-2], [-1]
        qkv = project(fused[f"model.layers.{i}.attention.wqkv.weight"])
        qkv = qkv.unflatten(-1, (shape.kv_heads, -1, shape.head_dim))
        for name, part in ("q", qkv[..., :-2, :]), ("k", qkv[..., -2, :]), ("v", qkv[..., -1, :]):
            want = project(weights[f"model.layers.{i}.self_attn.{name}_proj.weight"])
            assert (part.reshape(want.shape) - want).abs().max() < 1e-12, f"{name} is not where it should be"


def check_opens(folder: Path, tokens: np.ndarray, seq_len: int, logits: torch.Tensor) -> None:
    """transformers reads the folder as it lies there (LLaMA family only) and computes the same."""
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        weights = {n: p.detach().numpy() for n, p in model.named_parameters()}
        model = build_llama(model.config)
        for name, p in model.named_parameters():
            p.copy_(torch.from_numpy(weights[name]))
        again = model(rows(tokens, seq_len, 0, 1)[:, :-1]).logits[0]
    assert (again - logits).abs().max() < 1e-12, "the folder does not open as it was meant"


# Writing.


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


def make(shape: Shape) -> None:
    model = build_llama(shape.llama_config())
    params = dict(model.named_parameters())
    assert ("lm_head.weight" in params) != shape.tied
    weights = initial_weights(shape, {name: p.shape for name, p in params.items()})
    with torch.no_grad():
        for name, p in params.items():
            p.copy_(torch.from_numpy(weights[name]))
    assert torch.allclose(model.model.rotary_emb.inv_freq, rope_table(model.config), rtol=0, atol=0)

    tokens = make_tokens(shape)
    logits_of = lambda ids: model(ids).logits
    with torch.no_grad():
        logits = logits_of(rows(tokens, shape.seq_len, 0, 1)[:, :-1])[0]
    run = train(shape, params, logits_of, tokens)
    assert run["eval_loss"] < 0.9 * run["initial_eval_loss"], "nothing was learnt"

    folder = OUT / shape.name
    folder.mkdir(parents=True, exist_ok=True)

    def write_json(name, value):
        (folder / name).write_text(json.dumps(value, indent=2) + "\n")

    def save(name, tensors):
        save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, folder / name, metadata={"format": "pt"})
        (folder / name).chmod(0o644)

    named = weights if shape.family == "llama" else internlm2_tensors(shape, weights)
    write_json("config.json", shape.config_json())
    save("model.safetensors", named)
    (folder / "tokens.bin").write_bytes(tokens.tobytes())
    write_json(
        "golden.json",
        {
            "seq_len": shape.seq_len,
            "micro_batch_size": MICRO_BATCH_SIZE,
            "micro_batches": MICRO_BATCHES,
            "schedule": shape.schedule,
            "adam": {"beta1": BETAS[0], "beta2": BETAS[1], "eps": EPS, "weight_decay": WEIGHT_DECAY},
            "clip": CLIP,
            "eval_rows": EVAL_ROWS,
            **{k: run[k] for k in ("lrs", "losses", "grad_norms", "initial_eval_loss", "eval_loss")},
        },
    )
    save(
        "golden.safetensors",
        {
            "logits": logits.numpy(),
            **{f"grad.{n}": g.numpy() for n, g in run["grads"].items()},
            **{f"final.{n}": w.float().numpy() for n, w in run["final"].items()},
        },
    )

    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{shape.name}: {sum(w.size for w in weights.values())} weights, {size / 1000:.0f} kB")
    print("  losses", *(f"{x:.4f}" for x in run["losses"]))
    print(f"  eval   {run['initial_eval_loss']:.4f} -> {run['eval_loss']:.4f}")
    print("  norms ", *(f"{x:.4f}" for x in run["grad_norms"]))
    check_against_own(shape, weights, run, logits, tokens)
    if shape.family == "llama":
        check_opens(folder, tokens, shape.seq_len, logits)
    else:
        check_fused(shape, weights, named)


def main() -> None:
    disable_progress_bar()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    wanted = sys.argv[1:] or [shape.name for shape in MODELS]
    unknown = set(wanted) - {shape.name for shape in MODELS}
    if unknown:
        sys.exit(f"no such model: {', '.join(sorted(unknown))}")
    for shape in MODELS:
        if shape.name in wanted:
            make(shape)


if __name__ == "__main__":
    main()
