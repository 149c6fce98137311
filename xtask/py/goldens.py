"""Golden training runs of small models, one or more of each family, by PyTorch in float64.

Run it from anywhere, with a Python that has torch, transformers >= 5, safetensors and numpy:

    python xtask/py/goldens.py [MODEL ...]

It rewrites internevo/tests/goldens/<model>/ (all models, or those named), and model/tests/goldens/rope.json:

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

or `lr` throughout for the constant schedule. Label smoothing is in the training's loss alone.

A model that a class of transformers computes is run by that class (InternLM and InternLM2 as the LLaMA
they are) and checked, before it is written, against the second implementation in reference.py: logits to
1e-12, gradients to 1e-10 of their largest entry. Other models are run by that second implementation. The
same run in float32 is printed beside it: how far an honest float32 implementation may stray. Some seeds
let it stray by 3e-6 in a gradient norm; those of the models are chosen to keep it within half of what the
tests grant (`FLOAT32_MAY_STRAY`, asserted). The output is deterministic: same versions, same bytes.

rope.json: frequencies and attention factor of every kind of RoPE, by transformers' own functions.
"""

import json
import math
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.utils.logging import disable_progress_bar

import families
import reference
from float64 import build, rope_table
from reference import Shape

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "internevo" / "tests" / "goldens"
ROPE = ROOT / "model" / "tests" / "goldens" / "rope.json"

STEPS, MICRO_BATCHES, MICRO_BATCH_SIZE = 10, 2, 2
STEP_ROWS = MICRO_BATCHES * MICRO_BATCH_SIZE
EVAL_ROWS = 4
FLOAT32_MAY_STRAY = {"losses": 1e-6, "norms": 1e-6, "step-1 gradients": 5e-6, "final weights": 5e-4}
BETAS, EPS, WEIGHT_DECAY, CLIP = (0.9, 0.95), 1e-8, 0.1, 1.0
CONSTANT = {"kind": "constant", "lr": 1e-2, "min_lr": 1e-2, "warmup_steps": 0, "steps": STEPS}
COSINE = {"kind": "cosine", "lr": 1e-2, "min_lr": 1e-3, "warmup_steps": 3, "steps": STEPS}


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
    # Dynamic NTK: the rows are longer than what the model was made for.
    Shape(
        "internlm", "internlm", seed=5, vocab=53, hidden=24, layers=2, heads=3, kv_heads=3, head_dim=8, ffn=32,
        norm_eps=1e-6, rope={"rope_theta": 10000.0, "rope_scaling": {"type": "dynamic", "factor": 1.0}},
        schedule=COSINE, max_positions=16, attention_bias="all", config={"rotary": {"type": "dynamic", "base": 10000}},
    ),
    Shape(
        "mistral", "mistral", seed=6, vocab=61, hidden=20, layers=2, heads=4, kv_heads=2, head_dim=6, ffn=36,
        norm_eps=1e-5, rope={"rope_theta": 10000.0}, schedule=COSINE, write_head_dim=True, window=7,
        window_layers=(0, 1),
    ),
    Shape(
        "qwen2", "qwen2", seed=7, vocab=71, hidden=24, layers=3, heads=4, kv_heads=2, head_dim=6, ffn=28,
        norm_eps=1e-6, schedule=COSINE, tied=True, attention_bias="qkv", window=5, window_layers=(1, 2),
        rope={"rope_theta": 10000.0, "rope_scaling": {
            "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}}, max_positions=64,
    ),
    Shape(
        "qwen3", "qwen3", seed=8, vocab=59, hidden=20, layers=2, heads=4, kv_heads=2, head_dim=8, ffn=36,
        norm_eps=1e-6, rope={"rope_theta": 1000000.0, "rope_scaling": None}, schedule=COSINE, write_head_dim=True,
        qk_norm=True,
    ),
    Shape(
        "baichuan2", "baichuan", seed=9, vocab=53, hidden=24, layers=2, heads=3, kv_heads=3, head_dim=8, ffn=32,
        norm_eps=1e-6, rope={"rope_theta": 10000.0}, schedule=COSINE, norm_head=True,
        config={"model_max_length": 128, "z_loss_weight": 0},
    ),
    Shape(
        "baichuan_alibi", "baichuan", seed=10, vocab=53, hidden=18, layers=2, heads=3, kv_heads=3, head_dim=6, ffn=32,
        norm_eps=1e-6, rope={}, schedule=COSINE, config={"gradient_checkpointing": False, "model_max_length": 128},
    ),
    Shape(
        "gemma", "gemma", seed=11, vocab=67, hidden=20, layers=2, heads=3, kv_heads=1, head_dim=10, ffn=48,
        norm_eps=1e-6, rope={"rope_theta": 10000.0, "rope_scaling": None}, schedule=COSINE, write_head_dim=True,
        tied=True, norm="one", act="gelu_pytorch_tanh", scaled_embedding=True,
    ),
    Shape(
        "gemma2", "gemma2", seed=12, vocab=67, hidden=20, layers=3, heads=4, kv_heads=2, head_dim=6, ffn=28,
        norm_eps=1e-6, rope={"rope_theta": 10000.0}, schedule=COSINE, write_head_dim=True, tied=True, norm="one",
        act="gelu_pytorch_tanh", scaled_embedding=True, sandwich=True, window=6, window_layers=(0, 2),
        query_scalar=5.0, score_cap=2.0, logit_cap=5.0,
    ),
    # What no family has: LayerNorm, a plain MLP and biases everywhere, as GPT-2 but for the rotation.
    Shape(
        "layernorm_gelu", "internevo", seed=13, vocab=53, hidden=20, layers=2, heads=2, kv_heads=2, head_dim=10,
        ffn=40, norm_eps=1e-5, rope={"rope_theta": 10000.0}, schedule=COSINE, norm="layer", attention_bias="all",
        gated=False, act="gelu", mlp_bias=True, smoothing=0.1,
    ),
    # And most of the rest at once.
    Shape(
        "many_variants", "internevo", seed=14, vocab=47, hidden=16, layers=3, heads=4, kv_heads=2, head_dim=6,
        ffn=20, norm_eps=1e-5, schedule=COSINE, norm="layer", sandwich=True, attention_bias="qkv", qk_norm=True,
        act="gelu_pytorch_tanh", mlp_bias=True, embed_grad_scale=0.3, norm_head=True, logit_cap=4.0, window=8,
        window_layers=(0, 1), config={"sliding_window": 8, "sliding_window_pattern": 3, "rope_layout": "interleaved"},
        rope={"rope_theta": 10000.0, "rope_scaling": {
            "rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32, "beta_fast": 8.0,
            "beta_slow": 0.5, "truncate": False, "mscale": 0.8, "mscale_all_dim": 0.5}},
    ),
]  # fmt: skip

# (RoPE as config.json has it, head_dim, max_position_embeddings, length of the row)
ROPES = [
    ({"rope_type": "default", "rope_theta": 10000.0}, 8, 128, 16),
    ({"rope_type": "default", "rope_theta": 500000.0}, 6, 128, 16),
    ({"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}, 8, 128, 16),
    ({"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 1.0}, 8, 16, 16),
    ({"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 1.0}, 8, 16, 40),
    ({"rope_type": "dynamic", "rope_theta": 1000000.0, "factor": 2.0}, 12, 16, 17),
    ({"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
      "original_max_position_embeddings": 64}, 16, 512, 16),
    ({"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0, "original_max_position_embeddings": 32768},
     128, 131072, 16),
    ({"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 2048,
      "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False}, 64, 8192, 16),
    ({"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "original_max_position_embeddings": 4096,
      "mscale": 0.707, "mscale_all_dim": 1.0}, 64, 163840, 16),
    ({"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 32,
      "attention_factor": 1.25}, 8, 64, 16),
]  # fmt: skip


# Inputs.


def initial_weights(shape: Shape) -> dict[str, np.ndarray]:
    """Normal(0, 0.08) matrices, norms near one (or zero, where one is added) and small biases, rounded to float32."""
    rng = np.random.default_rng(shape.seed)

    def draw(name, size):
        noise = rng.standard_normal(size)
        if len(size) == 2:
            return 0.08 * noise
        near = 0 if name.endswith(".bias") or shape.norm == "one" else 1
        return near + 0.05 * noise

    return {name: draw(name, size).astype(np.float32) for name, size in reference.parameters(shape).items()}


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


# Training.


def learning_rate(schedule: dict, step: int) -> float:
    lr, low, warmup = schedule["lr"], schedule["min_lr"], schedule["warmup_steps"]
    if schedule["kind"] == "constant":
        return lr
    if step < warmup:
        return lr * (step + 1) / warmup
    return low + (lr - low) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (schedule["steps"] - warmup)))


def summed_loss(logits_of, sequences: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    logits, labels = logits_of(sequences[:, :-1]).flatten(0, 1), sequences[:, 1:].flatten()
    return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)


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
            sequences = rows(tokens, shape.seq_len, first, MICRO_BATCH_SIZE)
            part = summed_loss(logits_of, sequences, shape.smoothing) / labels
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


def reference_run(shape: Shape, weights: dict, tokens: np.ndarray, dtype) -> tuple[torch.Tensor, dict]:
    """Logits of the first row, and the training, by reference.py."""
    params = {n: torch.tensor(w, dtype=dtype, requires_grad=True) for n, w in weights.items()}
    logits_of = lambda ids: reference.logits(shape, params, ids)
    with torch.no_grad():
        first = logits_of(rows(tokens, shape.seq_len, 0, 1)[:, :-1])[0]
    return first, train(shape, params, logits_of, tokens)


def transformers_run(shape: Shape, config, weights: dict, tokens: np.ndarray) -> tuple[torch.Tensor, dict]:
    """The same by a class of transformers."""
    model = build(config)
    params = dict(model.named_parameters())
    assert {n: tuple(p.shape) for n, p in params.items()} == reference.parameters(shape)
    params = {name: params[name] for name in weights}
    with torch.no_grad():
        for name, p in params.items():
            p.copy_(torch.from_numpy(weights[name]))
    table, stretch = rope_table(model.config)
    assert torch.allclose(model.model.rotary_emb.inv_freq, table, rtol=0, atol=0)
    logits_of = lambda ids: model(ids).logits
    with torch.no_grad():
        first = logits_of(rows(tokens, shape.seq_len, 0, 1)[:, :-1])[0]
    return first, train(shape, params, logits_of, tokens)


def check_against_reference(shape: Shape, weights: dict, golden: dict, logits: torch.Tensor, tokens: np.ndarray):
    """Two implementations agree in float64."""
    first, run = reference_run(shape, weights, tokens, torch.float64)
    assert (first - logits).abs().max() < 1e-12, "the two implementations disagree on the logits"
    assert worst(run["grads"], golden["grads"]) < 1e-10, "the two implementations disagree on the gradients"
    # Adam divides by the root of a squared gradient, so a tiny gradient's rounding error is magnified.
    assert worst(run["final"], golden["final"]) < 1e-6, "the two implementations disagree after training"


def check_float32(shape: Shape, weights: dict, golden: dict, logits: torch.Tensor, tokens: np.ndarray) -> None:
    """How far float32 is from the golden run."""
    first, run = reference_run(shape, weights, tokens, torch.float32)
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
    """transformers reads the folder as it lies there and computes the same."""
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        weights = {n: p.detach().numpy() for n, p in model.named_parameters()}
        model = build(model.config)
        for name, p in model.named_parameters():
            p.copy_(torch.from_numpy(weights[name]))
        again = model(rows(tokens, seq_len, 0, 1)[:, :-1]).logits[0]
    assert (again - logits).abs().max() < 1e-12, "the folder does not open as it was meant"


# Writing.


def make(shape: Shape) -> None:
    weights, tokens = initial_weights(shape), make_tokens(shape)
    config = families.transformers_config(shape)
    if config:
        logits, run = transformers_run(shape, config, weights, tokens)
    else:
        logits, run = reference_run(shape, weights, tokens, torch.float64)
    assert run["eval_loss"] < 0.9 * run["initial_eval_loss"], "nothing was learnt"

    folder = OUT / shape.name
    folder.mkdir(parents=True, exist_ok=True)

    def write_json(name, value):
        (folder / name).write_text(json.dumps(value, indent=2) + "\n")

    def save(name, tensors):
        save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, folder / name, metadata={"format": "pt"})
        (folder / name).chmod(0o644)

    named = families.tensors(shape, weights)
    write_json("config.json", families.config_json(shape))
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
            **({"label_smoothing": shape.smoothing} if shape.smoothing else {}),
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
    check_float32(shape, weights, run, logits, tokens)
    if config:
        check_against_reference(shape, weights, run, logits, tokens)
    if shape.family in families.CLASSES:
        check_opens(folder, tokens, shape.seq_len, logits)
    if shape.family == "internlm2":
        check_fused(shape, weights, named)


def make_ropes() -> None:
    out = []
    for rope, head_dim, max_positions, length in ROPES:
        config = LlamaConfig(
            hidden_size=head_dim, num_attention_heads=1, rope_parameters=rope, max_position_embeddings=max_positions
        )
        table, attention_factor = rope_table(config, length)
        case = {"rope": rope, "head_dim": head_dim, "max_positions": max_positions, "length": length}
        out.append({**case, "frequencies": table.tolist(), "attention_factor": attention_factor})
    ROPE.parent.mkdir(parents=True, exist_ok=True)
    ROPE.write_text(json.dumps(out, indent=1) + "\n")


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
    make_ropes()


if __name__ == "__main__":
    main()
