"""A training step of PyTorch on the CPU, of the shapes of `internevo bench step --preset`: the other side of the table in
docs/performance.md.

A LLaMA as people write it: linear layers one by one, F.rms_norm, F.scaled_dot_product_attention with grouped heads, SiLU
gate, cross-entropy in float32, gradient clipping, fused AdamW. Writes one JSON object: the median step, of which the first
two do not count, and the peak memory of the process.
"""
import argparse
import json
import os
import resource
import statistics
import time

SHAPES = {
    "15m": dict(vocab=8192, hidden=256, layers=8, heads=8, kv=4, ffn=768, seq=512, batch=4),
    "125m": dict(vocab=32000, hidden=768, layers=12, heads=12, kv=4, ffn=2048, seq=1024, batch=2),
}
parser = argparse.ArgumentParser()
parser.add_argument("--preset", choices=SHAPES, required=True)
parser.add_argument("--steps", type=int, default=12)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--compile", action="store_true")
parser.add_argument("--json", required=True)
args = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(args.threads)

import torch
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(args.threads)
torch.manual_seed(0)
shape = argparse.Namespace(**SHAPES[args.preset])
dim = shape.hidden // shape.heads


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ParameterList([torch.ones(shape.hidden), torch.ones(shape.hidden)])
        self.q = linear(shape.hidden, shape.heads * dim)
        self.k, self.v = linear(shape.hidden, shape.kv * dim), linear(shape.hidden, shape.kv * dim)
        self.o = linear(shape.heads * dim, shape.hidden)
        self.gate, self.up = linear(shape.hidden, shape.ffn), linear(shape.hidden, shape.ffn)
        self.down = linear(shape.ffn, shape.hidden)

    def forward(self, x, cos, sin):
        def turned(y):
            a, b = y.chunk(2, -1)
            return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

        n = F.rms_norm(x, (shape.hidden,), self.norms[0], 1e-5)
        q, k, v = (y(n).unflatten(-1, (-1, dim)).transpose(1, 2) for y in (self.q, self.k, self.v))
        o = F.scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True, enable_gqa=True)
        x = x + self.o(o.transpose(1, 2).flatten(2))
        n = F.rms_norm(x, (shape.hidden,), self.norms[1], 1e-5)
        return x + self.down(F.silu(self.gate(n)) * self.up(n))


class Llama(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(shape.vocab, shape.hidden)
        self.blocks = nn.ModuleList(Block() for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.hidden))
        self.head = linear(shape.hidden, shape.vocab)
        angle = torch.outer(torch.arange(shape.seq), 10000.0 ** (-torch.arange(0, dim, 2) / dim))
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, ids, labels):
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = self.head(F.rms_norm(x, (shape.hidden,), self.norm, 1e-5))
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


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
for step in range(args.steps):
    began = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    loss = loss_of(ids, labels)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    loss.item()
    if step >= 2:
        times.append(time.perf_counter() - began)

median = statistics.median(times)
with open(args.json, "w") as out:
    rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    json.dump(dict(tokens_per_s=shape.batch * shape.seq / median, ms=1e3 * median, rss_mib=rss_mib), out)
