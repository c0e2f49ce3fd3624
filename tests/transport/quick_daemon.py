"""An aggregator that keeps nobody waiting: `quick_daemon.py CONFIG POLL_S`.

The daemon as `secfed aggregator run` builds it, but a client with nothing to hear is told so after POLL_S
seconds and not after 20, so that a test of thousands of calls can tell a late answer from a kept one.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from secfed import telemetry
from secfed.cli import build_aggregator
from secfed.config import AggregatorConfig, load

if __name__ == "__main__":
    settings = load(Path(sys.argv[1]), AggregatorConfig)
    telemetry.configure(settings.log_level)
    daemon = build_aggregator.build_daemon(settings, build_aggregator.load_keys(settings, None), sys.stdout)
    daemon.poll_s = float(sys.argv[2])
    asyncio.run(build_aggregator.run(daemon))
