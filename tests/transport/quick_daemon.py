"""An aggregator that keeps nobody waiting: `quick_daemon.py CONFIG POLL_S [SITE]`.

The daemon as `secfed aggregator run` builds it, but a client with nothing to hear is told so after POLL_S
seconds and not after 20, so that a test of thousands of calls can tell a late answer from a kept one. A
SITE that breaks a rule is refused as ever and then asked again, where the daemon would drop it: so that
thousands of wrong answers come as far as the first one.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from secfed import telemetry
from secfed.cli import build_aggregator
from secfed.config import AggregatorConfig, load
from secfed.ids import ClientId
from secfed.rounds.attempt import LiveAttempt


def spare(spared: str) -> None:
    """From now on this site is dropped from no attempt."""
    lose = LiveAttempt.lose

    def lose_others(attempt: LiveAttempt, site: ClientId, reason: str) -> None:
        if site != spared:
            lose(attempt, site, reason)

    LiveAttempt.lose = lose_others  # type: ignore[method-assign]


if __name__ == "__main__":
    settings = load(Path(sys.argv[1]), AggregatorConfig)
    telemetry.configure(settings.log_level)
    daemon = build_aggregator.build_daemon(settings, build_aggregator.load_keys(settings, None), sys.stdout)
    daemon.poll_s = float(sys.argv[2])
    if len(sys.argv) > 3:
        spare(sys.argv[3])
    asyncio.run(build_aggregator.run(daemon))
