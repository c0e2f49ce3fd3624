"""Each refusal of a client, by an attack that only it stops; and each one is needed.

The second half takes the rules out of the source one at a time and shows that the attack then
no longer ends in that rule's error: every test of the first half can turn red.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from simfed import refusals_open, refusals_phases, refusals_ring
from simfed.cast import Cast
from simfed.pure import remembered
from simfed.refusals import REGISTER, Refusal
from simfed.stage import Stage

from secfed.errors import SecfedError
from secfed.secagg.messages import Phase

MODULES = tuple(f"secfed.secagg.{name}" for name in ("attempt", "states", "client", "manifest"))

RING = 130
"""Members of the ring."""

LARGE = pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(0)])
"""The honest attempt behind these is played once, in the first of them: a minute on a quiet core."""


@cache
def stage_of(clients: int) -> Stage:
    """One honest attempt for all scenarios of a size; each returns to the snapshot that it needs."""
    return Stage(clients)


@cache
def ring() -> Stage:
    """One honest attempt on a ring, with as few neighbours as one corrupt member and one loss allow."""
    with remembered():
        return Stage(RING, cast=Cast(RING, length=RING, losses=1)).at(Phase.DONE)


def home(refusal: Refusal) -> Stage:
    """Where an attack takes place if nothing else is said."""
    return ring() if refusal.ring else stage_of(5)


COMPLETE = {name: refusal for name, refusal in REGISTER.items() if not refusal.ring}


@pytest.mark.parametrize("clients", [5, 17, LARGE])
@pytest.mark.parametrize("refusal", COMPLETE.values(), ids=COMPLETE)
def test_the_attack_is_refused_by_its_rule(refusal: Refusal, clients: int) -> None:
    """The error is the rule's own, in class and text; another one would prove nothing about the rule."""
    with pytest.raises(refusal.error, match=re.escape(refusal.rule)) as caught:
        refusal.attack(stage_of(clients))
    assert type(caught.value) is refusal.error


@pytest.mark.parametrize(
    "refusal", [each for each in REGISTER.values() if each.ring], ids=lambda refusal: refusal.name
)
def test_the_attack_on_a_ring_is_refused_by_its_rule(refusal: Refusal) -> None:
    with pytest.raises(refusal.error, match=re.escape(refusal.rule)) as caught:
        refusal.attack(ring())
    assert type(caught.value) is refusal.error


@pytest.mark.parametrize("refusal", REGISTER.values(), ids=REGISTER)
def test_a_refused_phase_ends_the_attempt_and_a_refused_opening_does_not(refusal: Refusal) -> None:
    """Secrets serve once: after an error in a phase nothing of the attempt can be asked for again."""
    stage = home(refusal)
    with pytest.raises(refusal.error):
        refusal.attack(stage)
    left = stage.clients[refusals_open.VICTIM]
    if refusal.attack.__module__ in (refusals_phases.__name__, refusals_ring.__name__):
        assert left.live is None


# -- every rule is needed ----------------------------------------------------------------------


@dataclass(frozen=True)
class Mutation:
    """One rule taken out of one function's source."""

    module: str
    function: str
    before: str
    after: str
    rule: str

    def __str__(self) -> str:
        return f"{self.function}: {self.rule or self.before}"


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    yield f"{node.name}.{part.name}", part


def _rule_of(node: ast.Raise) -> str:
    """The longest constant part of the error's text."""
    assert isinstance(node.exc, ast.Call)
    text = node.exc.args[0]
    parts = [part.value for part in ast.walk(text) if isinstance(part, ast.Constant)]
    return max((part for part in parts if isinstance(part, str)), key=len)


def raises() -> list[Mutation]:
    """Every `raise` of the client's modules, by the rule that its text names."""
    found = []
    for module in MODULES:
        source = Path(importlib.import_module(module).__file__ or "").read_text()
        for name, function in _functions(ast.parse(source)):
            for node in ast.walk(function):
                if isinstance(node, ast.Raise):
                    before = ast.get_source_segment(source, node) or ""
                    found.append(Mutation(module, name, before, "pass", _rule_of(node)))
    return found


CALLS = [
    ("Advertised.encapsulate", "agreement.check_public(", "bool(", "a_low_order_key"),
    ("Advertised.encapsulate", "self._refuse_repeated_keys(peers)", "pass", "a_reflected_x25519_key"),
    (
        "Advertised.encapsulate",
        "a.verify(item, Label.SIGN_ADVERT, member)",
        "item.statement",
        "keys_of_an_earlier_attempt",
    ),
    (
        "Encapsulated.share",
        "a.verify(item.index, Label.SIGN_CIPHERTEXTS, item.sender)",
        "item.index.statement",
        "a_ciphertext_list_signed_by_another",
    ),
    (
        "Shared.mask",
        "a.verify(item.index, Label.SIGN_BUNDLE, item.sender)",
        "item.index.statement",
        "a_bundle_signed_by_another",
    ),
    (
        "Confirmed.answer",
        "a.verify(Signed(self.statement, signature), Label.SIGN_CONFIRM, member)",
        "pass",
        "signatures_over_another_transcript",
    ),
    (
        "Confirmed.answer",
        'a.check_senders(signers, frozenset(self.survivors), "survivors\' signatures")',
        "pass",
        "one_signature_many_times",
    ),
    (
        "Masked.confirm",
        'a.check_senders(others, self.share_set, "survivors")',
        "pass",
        "a_survivor_outside_u1",
    ),
    ("Shared.mask", 'a.check_senders(senders, frozenset(self.edges), "bundles")', "pass", "a_bundle_twice"),
    (
        "Encapsulated.share",
        'a.check_senders(senders, frozenset(self.peers), "ciphertext lists")',
        "pass",
        "a_ciphertext_list_twice",
    ),
    (
        "Encapsulated.share",
        'a.check_whole(self.neighbours, statements, seen, "ciphertext list")',
        "pass",
        "a_neighbours_ciphertext_list_held_back",
    ),
    (
        "Shared.mask",
        'a.check_whole(self.neighbours, statements, seen, "bundle")',
        "pass",
        "a_neighbours_bundle_held_back",
    ),
    (
        "Advertised.encapsulate",
        'a.check_whole(neighbours, statements, seen, "advert")',
        "pass",
        "neighbours_that_the_aggregator_chose",
    ),
]
"""Checks that are calls: function, call, what stands in its place, the attack that then gets past it."""

UNREACHED = {
    "the contribution does not have the layout's length": "a caller's bug, tested in test_states.py",
}


def _code(mutation: Mutation) -> types.CodeType:
    """The function compiled from the source without the rule."""
    source = Path(importlib.import_module(mutation.module).__file__ or "").read_text()
    assert source.count(mutation.before) == 1, mutation
    compiled = compile(source.replace(mutation.before, mutation.after), mutation.module, "exec")
    todo = [compiled]
    while todo:
        code = todo.pop()
        if code.co_qualname == mutation.function:
            return code
        todo.extend(part for part in code.co_consts if isinstance(part, types.CodeType))
    raise AssertionError(f"{mutation.function} is gone")


def _function(mutation: Mutation) -> Any:
    found: Any = importlib.import_module(mutation.module)
    for name in mutation.function.split("."):
        found = inspect.getattr_static(found, name)
    return found


def _still_refused(mutation: Mutation, refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the attack ends in the rule's error although the rule is gone."""
    stage = home(refusal)
    monkeypatch.setattr(_function(mutation), "__code__", _code(mutation))
    try:
        refusal.attack(stage)
    except SecfedError as error:
        return type(error) is refusal.error and refusal.rule in str(error)
    except Exception:  # noqa: BLE001 - the rule was what kept the code behind it from such a value
        return False
    return False


def test_every_rule_of_the_source_has_an_attack() -> None:
    """A refusal that is written down and never tested would show here."""
    missing = [
        str(mutation)
        for mutation in raises()
        if mutation.rule not in UNREACHED and not _by_rule(mutation.rule)
    ]
    assert not missing


@pytest.mark.parametrize("mutation", [item for item in raises() if item.rule not in UNREACHED], ids=str)
def test_without_the_rule_its_test_turns_red(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least one named attack no longer ends in this rule's error once the rule is taken out."""
    attacks = _by_rule(mutation.rule)
    assert attacks
    assert not all(_still_refused(mutation, refusal, monkeypatch) for refusal in attacks)


@cache
def _texts() -> dict[str, str]:
    """What each attack ends in with all rules in place."""
    texts = {}
    for name, refusal in REGISTER.items():
        with pytest.raises(SecfedError) as caught:
            refusal.attack(home(refusal))
        texts[name] = str(caught.value)
    return texts


def _by_rule(rule: str) -> list[Refusal]:
    return [REGISTER[name] for name, text in _texts().items() if rule in text]


@pytest.mark.parametrize(
    ("function", "before", "after", "attack"), CALLS, ids=[f"{c[0]}-{c[3]}" for c in CALLS]
)
def test_without_the_check_its_test_turns_red(
    function: str, before: str, after: str, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for checks that are calls: a signature, a key's form, a list's senders."""
    mutation = Mutation("secfed.secagg.states", function, before, after, "")
    assert not _still_refused(mutation, REGISTER[attack], monkeypatch)


def test_a_digest_is_held_against_its_statement_and_its_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for what all three lists of a ring go through."""
    call = 'self.check_senders(tuple(member for member, _ in listed), allowed, "digests")'
    mutation = Mutation("secfed.secagg.attempt", "Attempt.entries", call, "pass", "")
    names = (
        "a_digest_twice",
        "a_digest_from_outside_the_cohort",
        "a_listed_bundle_without_a_ciphertext_list",
    )
    for name in (*names, "a_listed_ciphertext_list_without_an_advert"):
        with monkeypatch.context() as patch:
            assert not _still_refused(mutation, REGISTER[name], patch)
