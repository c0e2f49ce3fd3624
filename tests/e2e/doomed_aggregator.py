"""An aggregator that dies: `doomed_aggregator.py POINT COMMAND...` runs a `secfed` command and is killed.

POINT is the beginning of what a store calls its barrier with, such as `before:decide frozen/`: the
moment before a survivor list is durable. `after:commit` is an upload that is durable and not
acknowledged. The process ends by its own SIGKILL: no handler runs, nothing is flushed.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial

from secfed.cli import build_aggregator
from secfed.cli.main import main
from secfed.store.decisions import DecisionStore
from secfed.store.spool import Spool


def barrier(what: str) -> None:
    if what.startswith(point):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    point = sys.argv.pop(1)
    build_aggregator.DecisionStore = partial(DecisionStore, barrier=barrier)  # type: ignore[assignment,misc]
    build_aggregator.Spool = partial(Spool, barrier=barrier)  # type: ignore[assignment,misc]
    main()
