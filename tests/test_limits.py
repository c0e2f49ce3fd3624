"""The bounds on what others send stand in one file, each with its reason."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from pathlib import Path

import secfed
from secfed import limits

PACKAGE = Path(secfed.__file__).parent

MEETS_OTHERS = ("identity", "encoding", "store", "secagg", "rounds", "wire", "transport")
"""Packages that parse, check or store what others send."""

OWN = {
    "identity/keyfile.py _MAX_BYTES": "a member's own key",
    "encoding/fixedpoint.py GRID_BITS_MAX": "what float64 can round exactly",
    "encoding/ring.py BITS_MAX": "a word's bits",
    "store/checkpoint.py _NOTE_MAX_BYTES": "a note that this side wrote and signed",
    "store/decisions.py _MAX_VALUE_BYTES": "a decision that this side took",
    "secagg/params.py COMPLETE_GRAPH_MAX": "a rule of the protocol: where the ring begins",
    "rounds/contribution.py _HEADER_MAX_BYTES": "a file that this side wrote and sealed",
    "rounds/conversation.py PAUSE_MOST_S": "how long this side waits",
    "rounds/round.py _BACK_OFF_MAX_S": "how long this side waits",
    "rounds/round.py _VOIDS_MAX": "how often this side tries",
    "transport/client.py RETRY_MOST_S": "how long this side waits",
}
"""Bounds on what is one's own, and why they are no limits on others."""


def constants(file: Path) -> Iterator[str]:
    """Names that a module gives a value at its top, except in a part that is indented."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        for target in node.targets if isinstance(node, ast.Assign) else ():
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            yield from (name.id for name in names if isinstance(name, ast.Name))


def test_no_bound_on_others_stands_elsewhere() -> None:
    found = {
        f"{file.relative_to(PACKAGE).as_posix()} {name}"
        for package in MEETS_OTHERS
        for file in (PACKAGE / package).rglob("*.py")
        if "pb" not in file.parts
        for name in constants(file)
        if {"MAX", "MOST", "LIMIT"} & set(name.split("_"))
    }
    assert found == OWN.keys()


def test_every_limit_says_why() -> None:
    body = ast.parse(Path(limits.__file__).read_text(encoding="utf-8")).body
    said = set()
    for node, following in itertools.pairwise(body):
        match node, following:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str())):
                said.add(name)
    assert said == set(limits.__all__)
