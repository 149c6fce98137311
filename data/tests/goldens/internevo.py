"""Writes internevo/: tokenised files, and the batches that InternEvo's data layer makes of them.

Needs numpy. The batches are worked out here token by token, from what that layer is documented to do, and not with the
tables of places and lengths that the crate has. Run as `python internevo.py`; the bytes are always the same.
"""

import io
import json
import pathlib
import re
import shutil

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent / "internevo"
VOCAB = 400


# ---- NumPy's generator ---------------------------------------------------------------------------------------------


def numpy_goldens():
    for seed in [0, 1024, 1999, 2**32 - 1]:
        rng = np.random.RandomState(seed)
        bounds = [(1, 30), (10, 200), (5, 6), (0, 2), (0, 1 << 16), (7, 2**31), (0, 2**32 - 1), (3, 3 + 3 * 2**29)]
        randint = [(low, high, rng.randint(low, high, size=12).tolist()) for low, high in bounds]
        permutations = [rng.permutation(n).tolist() for n in [0, 1, 2, 3, 10, 33]]
        shuffled = np.arange(700)
        rng.shuffle(shuffled)
        long = rng.permutation(100_000).tolist()
        after = int(rng.randint(0, 1 << 30))
        yield {
            "seed": seed,
            "randint": randint,
            "permutations": permutations + [shuffled.tolist()],
            "long": (len(long), long[::9973], after),
        }


# ---- files ---------------------------------------------------------------------------------------------------------


def samples(rng, lengths, negative):
    """Lists of tokens, some of them with a minus, some 0."""
    for length in lengths:
        tokens = rng.randint(0, VOCAB, size=length)
        signs = np.where(rng.random_sample(length) < negative, -1, 1)
        yield (tokens * signs).tolist()


def write(name, lines, dtype, columns=2, version=(1, 0), order="C"):
    path = HERE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    file, rows = io.BytesIO(), []
    for i, tokens in enumerate(lines):
        spaced = {"tokens": tokens} if i % 3 else {"source": "a \n b", "tokens": tokens}
        rows.append([file.tell()] + [99] * (columns - 2) + [len(tokens)])
        file.write((json.dumps(spaced, separators=(",", ":") if i % 2 else None) + "\n").encode())
    path.write_bytes(file.getvalue())
    with open(f"{path}.meta", "wb") as meta:
        np.lib.format.write_array(meta, np.asarray(rows, dtype, order=order), version=version)


def files():
    rng = np.random.RandomState(1)
    of = lambda n, low, high, negative: list(samples(rng, rng.randint(low, high, size=n), negative))
    # Samples of 16 make packs end where samples do; the long one fills several packs alone.
    whole = list(samples(rng, [16] * 9, 0.0))
    long = list(samples(rng, [5, 230, 1, 48], 0.0))
    write("train/cn/whole.bin", whole, np.int64)
    write("train/cn/a/signed.bin", of(20, 1, 40, 0.5), np.int32)
    write("train/en/long.bin", long, np.int64, columns=3, version=(2, 0))
    write("train/en/z_en/more.bin", of(12, 1, 30, 0.1), np.int64, order="F", version=(3, 0))
    write("train/en/few.bin", of(1, 4, 5, 0.0), np.int64)
    write("train/z_code/x.bin", of(14, 3, 25, 0.0), np.int32, columns=4, order="F")
    write("valid/news/v.bin", of(7, 1, 60, 0.3), np.int64)
    write("valid/code/v.bin", of(5, 10, 30, 0.0), np.int32)
    write("valid/tiny/v.bin", of(1, 10, 11, 0.0), np.int32)


def walk(folder):
    """Files of a folder and then of its folders, by name."""
    names = sorted(folder.iterdir())
    yield from (path for path in names if path.suffix == ".bin")
    for path in names:
        if path.is_dir():
            yield from walk(path)


def read(path, least):
    meta = np.load(io.BytesIO(pathlib.Path(f"{path}.meta").read_bytes()))
    text = path.read_bytes()
    lines = [text[start:].split(b"\n", 1)[0] for start in meta[:, 0]]
    found = [json.loads(line)["tokens"] for line in lines]
    assert [len(tokens) for tokens in found] == meta[:, -1].tolist()
    return [tokens for tokens in found if len(tokens) >= least]


def type_of(path, types):
    relative = "/" + str(path.relative_to(HERE / "train"))
    (found,) = [i for i, name in enumerate(types) if re.search(rf"^/[z_]*{name}/", relative)]
    return found


# ---- packing -------------------------------------------------------------------------------------------------------

IGNORE = 2**32 - 1


def label(token):
    return IGNORE if token is None or token <= 0 else token


class Token:
    def __init__(self, tokens, place, type_id):
        self.token, self.type_id = tokens[place], type_id
        self.first = place == 0
        self.next = tokens[place + 1] if place + 1 < len(tokens) else None


def batch_of(pack, seq_len, cross):
    """A whole pack, a list of Token."""
    labels, positions, cu_seqlens = [], [], []
    for i, token in enumerate(pack):
        is_last = i + 1 == len(pack)
        labels.append(label(None if cross and is_last else token.next))
        starts = i % seq_len == 0 if cross else i == 0 or token.first or positions[-1] + 1 == seq_len
        positions.append(0 if starts else positions[-1] + 1)
        cu_seqlens += [i] if starts else []
    return {
        "ids": [abs(token.token) for token in pack],
        "labels": labels,
        "positions": positions,
        "cu_seqlens": cu_seqlens + [len(pack)],
        "types": [token.type_id for token in pack],
    }


def shuffled(n):
    order = np.arange(n)
    np.random.RandomState(1024).shuffle(order)
    return order


def row_of(tokens, seq_len):
    """Not packed: cut, or filled up."""
    tokens = tokens[:seq_len]
    filler = seq_len - len(tokens)
    return {
        "ids": [abs(token) for token in tokens] + [0] * filler,
        "labels": [label(token) for token in tokens[1:]] + [IGNORE] * (filler + 1),
        "positions": list(range(seq_len)),
        "types": [0] * seq_len,
    }


def batch_of_rows(rows, size, seq_len):
    """Rows end to end; those that are missing are the first without labels."""
    missing = [rows[0] | {"labels": [IGNORE] * seq_len}] * -(len(rows) % -size)
    joined = []
    for at in range(0, len(rows), size):
        chosen = (rows + missing)[at : at + size]
        batch = {key: [x for row in chosen for x in row[key]] for key in rows[0]}
        joined.append(batch | {"cu_seqlens": list(range(0, size * seq_len + 1, seq_len))})
    return joined


def epochs(total, seed, step, count):
    """Which pack is the next, over epochs."""
    rng = np.random.RandomState(seed)
    for _ in range(count):
        order = np.arange(total)
        rng.shuffle(order)
        yield order[: total // step * step].tolist()


# ---- cases ---------------------------------------------------------------------------------------------------------


def case(seq_len, size, cross, least, least_of, seed, step):
    types = sorted(path.name for path in (HERE / "train").iterdir())
    packs = []
    for path in walk(HERE / "train"):
        given = [n for key, n in least_of.items() if key in str(path.relative_to(HERE))]
        found = read(path, given[0] if given else least)
        order = [found[i] for i in shuffled(len(found))]
        stream = [Token(tokens, i, type_of(path, types)) for tokens in order for i in range(len(tokens))]
        t = seq_len * size
        packs += [batch_of(stream[at : at + t], seq_len, cross) for at in range(0, len(stream) // t * t, t)]
    valid = []
    for folder in sorted((HERE / "valid").iterdir()):
        rows = [row_of(tokens, seq_len) for path in walk(folder) for tokens in read(path, least)]
        if len(rows) >= size:
            valid.append((folder.name, batch_of_rows(rows, size, seq_len)))
    keys = dict(
        seq_len=seq_len, micro_batch_size=size, cross_documents=cross, min_length=least, min_length_of=least_of
    )
    order = list(epochs(len(packs), seed, step, 3))
    return {"keys": keys, "seed": seed, "step": step, "types": types, "packs": packs, "order": order, "valid": valid}


class RandomSamples:
    def __init__(self, count, seq_len, fixed):
        rng = np.random.RandomState(1999)
        self.n = rng.randint(1, 30, size=(count,))
        self.r = rng.randint(10, 200, size=(count,))
        while fixed and (short := self.n * self.r < seq_len).any():
            self.r = np.where(short, 2 * self.r, self.r)
        self.seq_len = seq_len
        self.lengths = np.minimum(2 + self.n * self.r, seq_len)

    def __getitem__(self, i):
        n, r = int(self.n[i]), int(self.r[i])
        return ([n, r] + list(range(n)) * r)[: self.seq_len]


def random_case(seq_len, size, cross, fixed, seed, step):
    made, t = RandomSamples(1_000_000, seq_len, fixed), seq_len * size
    order = shuffled(1_000_000)
    starts = np.concatenate([[0], np.cumsum(made.lengths[order])])
    total = int(starts[-1]) // t
    packs = {}
    for k in [0, 1, 12_345, total - 1]:
        first, last = np.searchsorted(starts, [k * t, (k + 1) * t - 1], side="right") - 1
        touched = [made[i] for i in order[first : last + 1]]
        stream = [Token(tokens, i, 0) for tokens in touched for i in range(len(tokens))]
        at = k * t - int(starts[first])
        packs[k] = batch_of(stream[at : at + t], seq_len, cross)
    rng = np.random.RandomState(seed)
    heads = []
    for _ in range(2):
        whole = np.arange(total)
        rng.shuffle(whole)
        heads.append(whole[:5].tolist())
    few = RandomSamples(500, seq_len, fixed)
    rows = [row_of(few[i], seq_len) for i in range(500)]
    valid = batch_of_rows(rows, size, seq_len)
    return {
        "keys": dict(seq_len=seq_len, micro_batch_size=size, cross_documents=cross, fixed_length=fixed),
        "seed": seed,
        "step": step,
        "total": total,
        "packs": packs,
        "order": heads,
        "largest": int(max(made.n.max(), made.r.max())),
        "valid": [valid[0], valid[-1]],
        "valid_len": len(valid),
    }


def save(name, value):
    compact = (json.dumps(part, separators=(",", ":")) for part in value)
    (HERE / name).write_text("[\n" + ",\n".join(compact) + "\n]\n")


shutil.rmtree(HERE, ignore_errors=True)
HERE.mkdir()
files()
save("numpy.json", numpy_goldens())
save(
    "batches.json",
    [
        case(16, 3, False, 0, {}, 1024, 4),
        case(8, 2, False, 6, {"cn/whole": 0}, 5, 7),
        case(16, 2, True, 0, {}, 1024, 5),
        case(24, 1, True, 4, {"z_": 9, "few": 3}, 2**32 - 1, 3),
    ],
)
save("random.json", [random_case(64, 2, False, False, 1024, 5), random_case(600, 1, True, True, 7, 4)])
