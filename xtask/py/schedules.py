"""PyTorch's pipeline schedules as text.

Reads lines `POLICY PIPELINE CHUNKS MICROS` and prints, as JSON, the PyTorch version and for each line the passes of every
rank, or the words with which PyTorch refuses these numbers. No tensor is made and no process group: a schedule looks only
at the numbers of its stages. Transfers, which PyTorch adds to its plans, are left out.

What a schedule of one stage a rank does is written down while it is done. (Its own table is not what it does: that of 1F1B
in PyTorch 2.15 numbers the forwards of the last stage from 1.)
"""

import json
import logging
import sys
import warnings

warnings.simplefilter("ignore")  # NumPy may be absent; nothing here needs it.

import torch
from torch.distributed.pipelining import schedules

logging.disable(logging.WARNING)

SINGLE = {"gpipe": schedules.ScheduleGPipe, "1f1b": schedules.Schedule1F1B}
MULTI = {
    "interleaved": schedules.ScheduleInterleaved1F1B,
    "zb-h1": schedules.ScheduleInterleavedZeroBubble,
    "zbv": schedules.ScheduleZBVZeroBubble,
}
for schedule in MULTI.values():
    schedule._prepare_schedule_with_comms = lambda *args, **kwargs: None


class Stage:
    """A stage that only remembers what it was asked for."""

    def __init__(self, index, stages, rank, ranks):
        self.stage_index, self.num_stages = index, stages
        self.group_rank, self.group_size = rank, ranks
        self.is_first, self.is_last = index == 0, index == stages - 1
        self.submod = self.group = None
        self.has_backward = True
        self.done = []

    def forward_one_chunk(self, micro, *args, **kwargs):
        self.done.append(f"{self.stage_index}F{micro}")

    def backward_one_chunk(self, micro, **kwargs):
        self.done.append(f"{self.stage_index}B{micro}")

    def __getattr__(self, name):
        """Everything else has nothing to do: no transfer, no loss, no gradient to scale."""
        return lambda *args, **kwargs: []


def done(policy, ranks, micros):
    """The passes that a schedule of one stage a rank does."""
    stages = [Stage(rank, ranks, rank, ranks) for rank in range(ranks)]
    for stage in stages:
        schedule = SINGLE[policy](stage, micros)
        schedule._initialize_stage = lambda *args: None
        schedule._step_microbatches([()] * micros, [{}] * micros)
    return [" ".join(stage.done) for stage in stages]


def planned(policy, ranks, chunks, micros):
    """The passes that a schedule of several stages a rank has planned for all ranks."""
    indices = (0, 2 * ranks - 1) if policy == "zbv" else range(0, ranks * chunks, ranks)
    stages = [Stage(index, ranks * chunks, 0, ranks) for index in indices]
    actions = MULTI[policy](stages, micros).pipeline_order
    passes = (schedules.F, schedules.I, schedules.W, schedules.B)
    return [" ".join(str(a) for a in actions[rank] if a and a.computation_type in passes) for rank in range(ranks)]


def main():
    answers = []
    for line in sys.stdin:
        policy, *numbers = line.split()
        ranks, chunks, micros = map(int, numbers)
        try:
            one = policy in SINGLE
            answers.append(done(policy, ranks, micros) if one else planned(policy, ranks, chunks, micros))
        except ValueError as refusal:
            answers.append(str(refusal))
    json.dump({"torch": torch.__version__, "answers": answers}, sys.stdout)


main()
