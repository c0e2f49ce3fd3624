"""A second rank of a site, as a process: `second_rank.py MEETING FOLDER WITNESS`.

What it does is written to the folder WITNESS.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from witness import Witness

from secfed.training.channel import Channel
from secfed.training.ranks import assist

if __name__ == "__main__":
    torch.set_num_threads(1)
    meeting, folder, seen = map(Path, sys.argv[1:])
    Witness(seen, 1).watch()
    assist(Channel(1, 2, meeting), lambda _id: folder, device="cpu", precision="float32")
