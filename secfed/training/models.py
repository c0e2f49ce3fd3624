"""Base models as local folders: where the cache keeps one, and which weights they are. No torch."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from secfed.errors import ConfigError

__all__ = ["model_folder", "weights_sha256"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Last part of a model's public id: no separator and no leading dot, so it stays inside the cache."""


def model_folder(cache: Path, model_id: str) -> Path:
    """Where the cache holds a base model.

    Raises:
        ConfigError: It is not one of the cache's models, or it was not prepared.
    """
    name = model_id.rpartition("/")[2]
    folder = cache / "models" / name
    if not _NAME.fullmatch(name) or not (folder / "config.json").is_file():
        raise ConfigError(
            f"base model {model_id!r} is not in {folder.parent}",
            hint="Run `make setup-assets`, or name the model's folder in the site's configuration.",
        )
    return folder


def weights_sha256(folder: Path) -> str:
    """SHA-256 of a base model's weights, hexadecimal; the `weights_sha256` of a job plan.

    A model in several files is hashed as one, in the order of their names.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"no safetensors weights in {folder}")
    state = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                state.update(block)
    return state.hexdigest()
