"""Local training: torch, opacus, peft, transformers and datasets are imported here and nowhere else.

Importing this package alone imports none of them. It does switch their network access and
telemetry off for the process, before any of them is loaded: models and data are local files.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its thread pool would fight torch's over the same cores

# torch's threads wait asleep, not spinning: several sites of a demo, or other work, share the cores
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
