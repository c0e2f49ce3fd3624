"""The table of wire messages, shared by all tests of the codecs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

sys.path.append(str(Path(__file__).parent))
"""`mutants` serves the transport's tests too."""

_VECTORS = Path(__file__).parents[1] / "vectors"


@pytest.fixture(scope="session")
def wire() -> ModuleType:
    """`tests/vectors/make_wire.py`: CASES by name, and the vectors' generator."""
    spec = importlib.util.spec_from_file_location("secfed_make_wire", _VECTORS / "make_wire.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
