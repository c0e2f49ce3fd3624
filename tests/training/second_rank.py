"""A second rank of a site, as a process: `second_rank.py MEETING FOLDER PRECISION`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from secfed.training.channel import Channel
from secfed.training.ranks import assist

if __name__ == "__main__":
    torch.set_num_threads(1)
    meeting, folder, precision = sys.argv[1:]
    assist(Channel(1, 2, Path(meeting)), lambda _id: Path(folder), device="cpu", precision=precision)
