"""What transformers makes of a checkpoint directory, exactly as it lies on disk.

    python xtask/py/open_checkpoint.py DIR TOKENS.json

TOKENS.json holds a list of token ids, or a list of such lists (`-` reads standard input). DIR is opened
with AutoModelForCausalLM in float32 and AutoTokenizer, nothing patched or renamed on the way; a weight that
is missing, left over or of another shape is an error. One line of JSON goes to standard output:

  logits   one row per list: the logits at its last position
  vocab    their number
  loss     mean nats per predicted token of each list, over ids[1..]; null for a list of one
  decoded  each list as text; null when DIR has no tokenizer files
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar


def open_model(folder: Path):
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    wrong = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
    if wrong:
        sys.exit(f"{folder}: the weights do not fit the model: {wrong}")
    return model.eval()


@torch.no_grad()
def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: python open_checkpoint.py DIR TOKENS.json")
    disable_progress_bar()
    folder = Path(sys.argv[1])
    if not folder.is_dir():
        sys.exit(f"{folder}: no such directory")
    lists = json.loads(sys.stdin.read() if sys.argv[2] == "-" else Path(sys.argv[2]).read_text())
    if lists and isinstance(lists[0], int):
        lists = [lists]
    model = open_model(folder)
    logits, loss = [], []
    for ids in lists:
        rows = model(torch.tensor([ids]), use_cache=False).logits[0]
        logits.append(rows[-1].tolist())
        loss.append(F.cross_entropy(rows[:-1], torch.tensor(ids[1:])).item() if len(ids) > 1 else None)
    decoded = None
    if any(folder.glob("tokenizer*")):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        decoded = [tokenizer.decode(ids) for ids in lists]
    print(json.dumps({"logits": logits, "loss": loss, "vocab": model.config.vocab_size, "decoded": decoded}))


if __name__ == "__main__":
    main()
