"""One rank of a client that is several: `shared_client.py FOLDER COMMAND...` runs a `secfed` command.

A launcher starts it. What the rank does in training is written to FOLDER, which is there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from secfed.cli.main import main

sys.path.append(str(Path(__file__).parents[1] / "training"))

from witness import Witness

if __name__ == "__main__":
    Witness(Path(sys.argv.pop(1)), int(os.environ["RANK"])).watch()
    main()
