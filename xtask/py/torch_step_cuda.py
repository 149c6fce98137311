"""A training step of PyTorch on a card, of the shapes of `internevo bench step --preset`: what docs/gpu.md compares with.

A LLaMA as people write it, in bf16 throughout: linear layers with q | k | v and gate | up joined, F.rms_norm,
F.scaled_dot_product_attention by flash attention or cuDNN, cross-entropy in float32, gradient clipping, fused AdamW. Moments
and weights are bf16, too, which is less to move than our f32 ones: the comparison favours PyTorch. Prints one JSON object:
the median step, of which the first ones do not count, and the card's peak memory.
"""
import argparse
import json
import statistics
import time

SHAPES = {
    "15m": dict(vocab=8192, hidden=256, layers=8, heads=8, kv=4, ffn=768, seq=512, batch=4),
    "125m": dict(vocab=32000, hidden=768, layers=12, heads=12, kv=4, ffn=2048, seq=1024, batch=2),
    "1.8b": dict(vocab=92544, hidden=2048, layers=24, heads=16, kv=8, ffn=8192, seq=4096, batch=1),
    "7b": dict(vocab=32000, hidden=4096, layers=32, heads=32, kv=32, ffn=11008, seq=4096, batch=1),
}
parser = argparse.ArgumentParser()
parser.add_argument("--preset", choices=SHAPES, required=True)
parser.add_argument("--layers", type=int)
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--warm-up", type=int, default=3)
parser.add_argument("--card", type=int, default=0)
parser.add_argument("--compile", action="store_true")
parser.add_argument("--recompute", action="store_true")
args = parser.parse_args()

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

torch.manual_seed(0)
torch.set_default_device(f"cuda:{args.card}")
torch.set_default_dtype(torch.bfloat16)
shape = argparse.Namespace(**SHAPES[args.preset])
shape.layers = args.layers or shape.layers
dim = shape.hidden // shape.heads


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ParameterList([torch.ones(shape.hidden), torch.ones(shape.hidden)])
        self.qkv = linear(shape.hidden, (shape.heads + 2 * shape.kv) * dim)
        self.o = linear(shape.heads * dim, shape.hidden)
        self.gate_up = linear(shape.hidden, 2 * shape.ffn)
        self.down = linear(shape.ffn, shape.hidden)

    def forward(self, x, cos, sin):
        def turned(y):
            a, b = y.chunk(2, -1)
            return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

        n = F.rms_norm(x, (shape.hidden,), self.norms[0], 1e-5)
        qkv = self.qkv(n).unflatten(-1, (-1, dim)).transpose(1, 2)
        q, k, v = qkv.split((shape.heads, shape.kv, shape.kv), 1)
        o = F.scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True, enable_gqa=shape.kv < shape.heads)
        x = x + self.o(o.transpose(1, 2).flatten(2))
        n = F.rms_norm(x, (shape.hidden,), self.norms[1], 1e-5)
        gate, up = self.gate_up(n).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Llama(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(shape.vocab, shape.hidden)
        self.blocks = nn.ModuleList(Block() for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.hidden))
        self.head = linear(shape.hidden, shape.vocab)
        power = -torch.arange(0, dim, 2, dtype=torch.float32) / dim
        angle = torch.outer(torch.arange(shape.seq, dtype=torch.float32), 10000.0**power)
        self.register_buffer("cos", angle.cos().bfloat16())
        self.register_buffer("sin", angle.sin().bfloat16())

    def forward(self, ids, labels):
        x = self.embedding(ids)
        for block in self.blocks:
            again = args.recompute
            x = checkpoint(block, x, self.cos, self.sin, use_reentrant=False) if again else block(x, self.cos, self.sin)
        logits = self.head(F.rms_norm(x, (shape.hidden,), self.norm, 1e-5))
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())


model = Llama()
for p in model.parameters():
    if p.dim() > 1:
        nn.init.normal_(p, 0, 0.02)
groups = [
    dict(params=[p for p in model.parameters() if p.dim() > 1], weight_decay=0.1),
    dict(params=[p for p in model.parameters() if p.dim() == 1], weight_decay=0.0),
]
optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), fused=True)
loss_of = torch.compile(model) if args.compile else model
tokens = torch.randint(shape.vocab, (shape.batch, shape.seq + 1))
ids, labels = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

times = []
with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]):
    for step in range(args.warm_up + args.steps):
        torch.cuda.synchronize()
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(ids, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()
        torch.cuda.synchronize()
        if step >= args.warm_up:
            times.append(time.perf_counter() - began)

median = statistics.median(times)
out = dict(
    torch=torch.__version__,
    on=torch.cuda.get_device_name(args.card),
    preset=args.preset,
    layers=shape.layers,
    compile=args.compile,
    recompute=args.recompute,
    tokens_per_s=shape.batch * shape.seq / median,
    step_ms=1e3 * median,
    peak_memory_bytes=torch.cuda.max_memory_allocated(args.card),
    loss=loss.item(),
)
print(json.dumps(out))
