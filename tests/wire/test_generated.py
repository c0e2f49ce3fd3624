"""The checked-in code is the schema's, and importing it loads no network."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from secfed.wire import service

ROOT = Path(__file__).parents[2]


def test_generated_code_is_the_schemas(tmp_path: Path) -> None:
    """Regenerating gives the checked-in files byte for byte, and no file more or less."""
    spec = importlib.util.spec_from_file_location("secfed_protos_generate", ROOT / "protos" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.generate(tmp_path)
    fresh = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in module.PACKAGE.glob("*.py*")}
    assert fresh == kept


def test_codecs_load_neither_grpc_nor_torch() -> None:
    code = (
        "import sys, secfed.wire.codec, secfed.wire.sums, secfed.wire.calls, secfed.wire.status\n"
        "print([name for name in ('grpc', 'torch', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_paths_name_the_version_of_the_schema() -> None:
    assert service.path("Exchange") == "/secfed.v1.Federation/Exchange"
    assert set(service.METHODS) == {
        "Exchange", "Upload", "Download", "GetRoster", "StartJob", "ControlJob", "GetStatus",
    }  # fmt: skip
    with pytest.raises(ValueError, match="no call"):
        service.path("Erase")
