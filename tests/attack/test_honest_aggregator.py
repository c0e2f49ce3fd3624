"""The rows in which members, thieves or their data are hostile: each attack fails on the real parties,
and works on weakened ones.

The aggregator is the real daemon on a thread here, and so are the clients; `secfed attack` starts processes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from weaker import WEAKER, unencrypted

from secfed.attack import hostile_bytes, stolen_key_file, weight_over_cap
from secfed.attack.catalogue import find
from secfed.attack.clients import Victims
from secfed.attack.finding import Finding, Verdict
from secfed.attack.town import Town
from secfed.attack.venue import Venue
from secfed.cli import build_aggregator
from secfed.errors import NetworkError
from secfed.identity import certificate, keyfile, pkcs8
from secfed.identity.signed import Signed
from secfed.rounds.contribution import ContributionStore
from secfed.transport import client, daemon
from secfed.transport.hello import GREETING

GAINS = {
    "noise-shortfall": ("a site that takes part in a job of mode distributed, and makes no noise share",),
    "weight-over-cap": ("in which its own weight is 65535 of 65537",),
    "chosen-graph": (
        "the sum of 2 honest vectors (site-0, site-1), true to the last bit",
        "the vector of site-000, true to the last bit, where 59 is the fewest honest vectors of a sum",
    ),
    "bad-shares": ("a round that it could stop (a holder gives shares that nobody dealt)",),
    "leaked-secrets": ("the vector of site-0 in ",),
    "telling-metadata": ("what tells the two apart, in 3 rounds of one kind alone: message 3: Exchange of",),
    "saturation-leak": ("that site-0 stays out where its update goes beyond the bound",),
    "hostile-bytes": (
        "to a body of an unknown field in Exchange",
        "to a call and an unknown field in Exchange",
    ),
    "stolen-key-file": (
        "the identity key, in the clear in the file",
        "both private keys, by the guess None",
        "an answer of the aggregator to robbed",
    ),
    "revoked-member": ("an answer to site-2 over its open connection", "an answer to site-3 over a new one"),
    "wrong-role": ("an answer to StartJob with the key of a client", "a job that no admin stopped"),
    "roster-fork": ("a client that goes by an older version", "an aggregator that goes by an older version"),
}
"""What each attack gets where its row's defences are gone: a part of the evidence."""

NOT_BUILT = {"noise-shortfall"}


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at often, a late roster is given up soon, and passphrases are stretched little."""
    monkeypatch.setattr(daemon, "ROSTER_POLL_S", 0.1)
    monkeypatch.setattr(client, "ROSTER_LAG_S", 0.5)
    monkeypatch.setattr(pkcs8, "_SCRYPT_N", 16)


def attack(name: str, disk: Path, victims: Victims) -> Finding:
    return find(name).run(Venue(disk / "venue", victims, processes=False)).finding


@pytest.mark.parametrize("name", sorted(WEAKER))
def test_the_real_parties_hold(name: str, disk: Path) -> None:
    """The attack is carried to its end, and the adversary holds nothing that it must not."""
    finding = attack(name, disk, Victims(aggregator=build_aggregator.build_daemon))
    expected = Verdict.NOT_BUILT if name in NOT_BUILT else Verdict.DEFENDED
    assert finding.verdict is expected, "\n".join(finding.evidence)
    assert finding.evidence


@pytest.mark.parametrize("name", sorted(WEAKER))
def test_the_attack_works_without_the_defences(
    name: str, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against parties without what the row names, the same attack gets what it is after."""
    weaker = WEAKER[name]
    for place, attribute, value in weaker.places:
        monkeypatch.setattr(place, attribute, value)
    finding = attack(name, disk, weaker.victims)
    assert finding.verdict is Verdict.BROKEN, "\n".join(finding.evidence)
    for gain in GAINS[name]:
        assert any("the adversary holds" in line and gain in line for line in finding.evidence), gain


def test_keys_in_the_clear_are_found(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other half of secrets in state: key files whose passphrase encrypts nothing."""
    monkeypatch.setattr(keyfile, "create", unencrypted)
    finding = attack("leaked-secrets", disk, Victims(aggregator=build_aggregator.build_daemon))
    assert finding.verdict is Verdict.BROKEN
    assert any("the identity key of site-0 in " in line for line in finding.evidence)


# -- attacks that do not reach what they aim at ------------------------------------------------


def test_a_weight_that_never_came_proves_nothing(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The corrupt site weighs what it should: no abort to speak of, and no verdict."""
    monkeypatch.setattr(weight_over_cap._Heavy, "save", ContributionStore.save)
    with pytest.raises(NetworkError, match="without the weight of site-2: this proves nothing"):
        attack("weight-over-cap", disk, Victims(aggregator=build_aggregator.build_daemon))


def test_bodies_that_are_refused_at_the_door_prove_nothing(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hellos that nobody signed: no body comes to its parser, and there is no verdict."""

    class Unsigned(Town):
        def hello(self, keys, method, body, *, roster=None):
            call = super().hello(keys, method, body, roster=roster)
            return (
                replace(call, hello=Signed(call.hello.statement, bytes(64))) if method != GREETING else call
            )

    monkeypatch.setattr(hostile_bytes, "Town", Unsigned)
    with pytest.raises(NetworkError, match="in Exchange never came to its parser"):
        attack("hostile-bytes", disk, Victims(aggregator=build_aggregator.build_daemon))


def test_a_changed_key_file_that_speaks_for_another_is_found(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the certificate's name, nothing holds the name in a key file."""
    parse = certificate.parse
    monkeypatch.setattr(certificate, "parse", lambda pem, _site: parse(pem, stolen_key_file._SITE))
    finding = attack("stolen-key-file", disk, Victims(aggregator=build_aggregator.build_daemon))
    assert finding.verdict is Verdict.BROKEN
    assert any("loads a changed file as another, client" in line for line in finding.evidence)
