"""The PEFT folder: what is in it, what is not, and that reading gives back what was written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from secfed.aggregation import folder
from secfed.aggregation.spec import AdapterSpec
from secfed.aggregation.strategy import POINT
from secfed.errors import ConfigError, EncodingError, StorageError

SPEC = AdapterSpec("org/encoder", "main", "classify", ("query", "value"), 2, 4, ("no", 'yes|"maybe"'))
PLAIN = AdapterSpec("org/model", "main", "sft", ("q_proj",), 2, 4)
PAIRS = AdapterSpec("org/model", "main", "dpo", ("q_proj",), 2, 4)
THUMBS = AdapterSpec("org/model", "main", "kto", ("q_proj",), 2, 4)


def arrays(*, head: bool = True) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "base_model.model.l.query.lora_A.weight": (2, 6),
        "base_model.model.l.query.lora_B.weight": (6, 2),
    }
    if head:
        shapes |= {"head.weight": (2, 6), "head.bias": (2,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(("spec", "head"), [(SPEC, True), (PLAIN, False), (PAIRS, False), (THUMBS, False)])
def test_read_gives_back_what_was_written(tmp_path: Path, spec: AdapterSpec, head: bool) -> None:
    written = arrays(head=head)
    files = folder.write(tmp_path / "round-0001", spec, written)
    assert set(files) == {path.name for path in (tmp_path / "round-0001").iterdir()}
    found, values = folder.read(tmp_path / "round-0001")
    assert found == spec
    assert values.keys() == written.keys()
    assert all(np.array_equal(values[name], written[name]) for name in written)


def test_a_point_that_rides_along_stays_out_of_the_folder(tmp_path: Path) -> None:
    """PEFT would not know the name; the state of a running job keeps it."""
    written = arrays(head=False)
    folder.write(tmp_path, THUMBS, written | {POINT: np.ones(1, np.float32)})
    assert folder.read(tmp_path)[1].keys() == written.keys()
    with pytest.raises(EncodingError, match="not finite"):
        folder.write(tmp_path / "b", THUMBS, written | {POINT: np.full(1, np.nan, np.float32)})


def test_card_has_front_matter_notes_and_code(tmp_path: Path) -> None:
    folder.write(tmp_path, SPEC, arrays(), notes=[("epsilon", "2.9 at delta 1e-6")])
    card = (tmp_path / folder.CARD_FILE).read_text()
    assert card.startswith('---\nbase_model: "org/encoder"\nlibrary_name: peft\n')
    assert "| epsilon | 2.9 at delta 1e-6 |" in card
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert len(code.strip().splitlines()) <= 14


@pytest.mark.parametrize("spec", [PLAIN, PAIRS, THUMBS])
def test_card_of_a_language_model(tmp_path: Path, spec: AdapterSpec) -> None:
    folder.write(tmp_path, spec, arrays(head=False))
    card = (tmp_path / folder.CARD_FILE).read_text()
    assert "\npipeline_tag: text-generation\n" in card
    assert f"| trained for | {spec.trainer}: " in card
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert "AutoModelForCausalLM" in code


def test_nothing_local_in_the_folder(tmp_path: Path) -> None:
    folder.write(tmp_path, SPEC, arrays())
    for path in tmp_path.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()
    config = json.loads((tmp_path / folder.CONFIG_FILE).read_text())
    assert config["base_model_name_or_path"] == "org/encoder"


def test_path_as_base_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="path"):
        AdapterSpec("/data/model", "main", "sft", ("q",), 1, 1)


@pytest.mark.parametrize("broken", ["nan", "unknown", "no head", "head rows"])
def test_wrong_arrays_are_refused(tmp_path: Path, broken: str) -> None:
    given = arrays()
    if broken == "nan":
        given["head.bias"][0] = np.nan
    elif broken == "unknown":
        given["embed.weight"] = np.zeros((1,), np.float32)
    elif broken == "no head":
        del given["head.weight"]
    else:
        given["head.bias"] = np.zeros((3,), np.float32)
    with pytest.raises(EncodingError):
        folder.write(tmp_path / "x", SPEC, given)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", [folder.CONFIG_FILE, folder.WEIGHTS_FILE, folder.HEAD_FILE])
def test_damaged_folder_is_named(tmp_path: Path, name: str) -> None:
    folder.write(tmp_path, SPEC, arrays())
    (tmp_path / name).write_bytes(b"{")
    with pytest.raises(StorageError, match=str(tmp_path)):
        folder.read(tmp_path)
