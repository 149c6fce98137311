"""transformers on what our checkpoints are written as: every golden model, rewritten by `rewrite` (checkpoint/examples).

    python xtask/py/open_families.py WRITTEN

WRITTEN/<model>/ is opened as it lies there, in float32, and must give the golden's logits to 1e-5 of the largest. Models
that no class of transformers computes are named and passed over.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers.utils.logging import disable_progress_bar

from open_checkpoint import open_model

GOLDENS = Path(__file__).resolve().parents[2] / "internevo" / "tests" / "goldens"
WITHOUT_CLASS = {"baichuan", "internevo"}


@torch.no_grad()
def main() -> None:
    disable_progress_bar()
    folders = sorted(f for f in Path(sys.argv[1]).iterdir() if f.is_dir())
    opened = 0
    for folder in folders:
        kind = json.loads((folder / "config.json").read_text())["model_type"]
        if kind in WITHOUT_CLASS:
            print(f"{folder.name}: written as {kind}, which has no class")
            continue
        golden = GOLDENS / folder.name
        want = torch.from_numpy(load_file(golden / "golden.safetensors")["logits"])
        ids = np.fromfile(golden / "tokens.bin", dtype="<u2")[: len(want)].astype(np.int64)
        got = open_model(folder)(torch.from_numpy(ids)[None], use_cache=False).logits[0].double()
        error = ((got - want).abs().max() / want.abs().max()).item()
        print(f"{folder.name}: written as {kind}, logits within {error:.1e} of the largest")
        if error > 1e-5:
            sys.exit(f"{folder.name}: {error} is too far")
        opened += 1
    if opened < len(folders) - 3:
        sys.exit(f"only {opened} of {len(folders)} models were written for a class of transformers")


if __name__ == "__main__":
    main()
