"""The register of refusals: for each rule of the client, an attack that only this rule stops.

A scenario tampers with one honest attempt and hands the result to one client. It ends in the
error whose text names the rule; with the rule taken out it ends in anything else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from simfed.stage import Stage

from secfed.errors import SecfedError

Attack = Callable[[Stage], object]


@dataclass(frozen=True)
class Refusal:
    """One attack and the rule that must stop it.

    Attributes:
        rule: A part of the error's text, found in no other rule's.
        error: The exact class raised.
        ring: It is an attack on a cohort whose graph is a ring.
    """

    name: str
    rule: str
    error: type[SecfedError]
    attack: Attack
    ring: bool = False


REGISTER: dict[str, Refusal] = {}


def refused(rule: str, error: type[SecfedError], *, ring: bool = False) -> Callable[[Attack], Attack]:
    """Enter an attack into the register under its function's name."""

    def enter(attack: Attack) -> Attack:
        name = attack.__name__
        assert name not in REGISTER, name
        REGISTER[name] = Refusal(name, rule, error, attack, ring)
        return attack

    return enter


def enter_one(name: str, rule: str, error: type[SecfedError], attack: Attack) -> None:
    """Enter an attack that is one of a family."""
    assert name not in REGISTER, name
    REGISTER[name] = Refusal(name, rule, error, attack)
