"""An aggregator that keeps nobody waiting: `quick_daemon.py CONFIG POLL_S [OPTIONS]`.

The daemon as `secfed aggregator run` builds it, but a client with nothing to hear is told so after POLL_S
seconds and not after 20, so that a test of thousands of calls can tell a late answer from a kept one. A
site that is `--spared` and breaks a rule is refused as ever and then asked again, where the daemon would
drop it: so that thousands of wrong answers come as far as the first one. `--idle-s` ends a connection
without a call sooner.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from secfed import telemetry
from secfed.cli import build_aggregator
from secfed.config import AggregatorConfig, load
from secfed.ids import ClientId
from secfed.rounds.attempt import LiveAttempt
from secfed.transport import daemon as daemon_module


def spare(spared: str) -> None:
    """From now on this site is dropped from no attempt."""
    lose = LiveAttempt.lose

    def lose_others(attempt: LiveAttempt, site: ClientId, reason: str) -> None:
        if site != spared:
            lose(attempt, site, reason)

    LiveAttempt.lose = lose_others  # type: ignore[method-assign]


def shorten(idle_s: float) -> None:
    """From now on a connection without a call is ended after so long."""
    name = "grpc.max_connection_idle_ms"
    daemon_module.OPTIONS[:] = [
        (key, int(1000 * idle_s) if key == name else value) for key, value in daemon_module.OPTIONS
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("poll_s", type=float)
    parser.add_argument("--spared")
    parser.add_argument("--idle-s", type=float)
    options = parser.parse_args()
    settings = load(options.config, AggregatorConfig)
    telemetry.configure(settings.log_level)
    if options.spared is not None:
        spare(options.spared)
    if options.idle_s is not None:
        shorten(options.idle_s)
    daemon = build_aggregator.build_daemon(settings, build_aggregator.load_keys(settings, None), sys.stdout)
    daemon.poll_s = options.poll_s
    asyncio.run(build_aggregator.run(daemon))
