"""`secfed` as careless programmers would have it: secrets in its environment, output, state and dumps.

What is left of it is the real program; `leaked-secrets` starts it in the place of that one.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

GIVEN = "CARELESS_PASSPHRASE"


def main(arguments: list[str]) -> int:
    if GIVEN not in os.environ:  # what a process begins with is what the system shows
        passphrase = Path(arguments[arguments.index("--passphrase-file") + 1]).read_text(encoding="utf-8")
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {GIVEN: passphrase.strip()})
    from secfed.cli import build_client, main
    from secfed.rounds.contribution import ContributionStore

    class Hoards(ContributionStore):
        """A contribution stays after its round."""

        def discard(self, job, *, up_to):
            del job, up_to

    build_client.ContributionStore = Hoards
    dumps_all()
    print("opening the key file with", os.environ[GIVEN], file=sys.stderr)
    return main.run(arguments)


def dumps_all() -> None:
    """A crash writes as much as the system lets it."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
