"""Errors over the wire: the same class, message and hint, and nothing of the inside."""

from __future__ import annotations

import json

import grpc
import pytest

from secfed import errors
from secfed.errors import NetworkError, SecfedError, StorageError
from secfed.secagg.aggregator import AttemptVoidError
from secfed.transport.hello import RestartedError, RosterChangedError
from secfed.transport.status import DETAIL_KEY, refusal, restore

PUBLIC = [
    errors.ConfigError,
    errors.EncodingError,
    errors.NetworkError,
    errors.RosterError,
    errors.AuthenticationError,
    errors.NotPermittedError,
    errors.RevokedError,
    errors.CertificateExpiredError,
    errors.PeerError,
    errors.RoundAbortedError,
    errors.InfeasibleCohortError,
    errors.LedgerError,
    errors.VersionMismatchError,
    RosterChangedError,
    RestartedError,
]
"""All that an aggregator may say of a call; what it means stands in the caller's exit code."""

ALL = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SecfedError)]


@pytest.mark.parametrize("kind", PUBLIC, ids=lambda kind: kind.__name__)
def test_a_refusal_comes_out_as_it_went_in(kind: type[SecfedError]) -> None:
    """Every class an aggregator may raise at a caller, with its own text and remedy."""
    sent = refusal(kind("site hosp-a did x", hint="Do y."))
    back = restore(sent.code, sent.details, sent.metadata)
    assert (type(back), str(back), back.hint) == (kind, "site hosp-a did x", "Do y.")
    assert back.exit_code == kind.exit_code


@pytest.mark.parametrize("kind", sorted(set(ALL) - set(PUBLIC), key=str), ids=lambda kind: kind.__name__)
def test_a_peer_chooses_no_exit_code_that_is_not_its_to_give(kind: type[SecfedError]) -> None:
    """Budget, policy, data, key files, disk, the site's own rules: none of it is an aggregator's word."""
    detail = json.dumps({"class": kind.__name__, "message": "x", "hint": "y"}).encode()
    back = restore(grpc.StatusCode.FAILED_PRECONDITION, "x", [(DETAIL_KEY, detail)])
    assert type(back) is (kind if kind is SecfedError else errors.PeerError)
    assert back.exit_code in (40, 99)


def test_a_subclass_goes_out_as_its_nearest_public_parent() -> None:
    sent = refusal(AttemptVoidError("two are lost"))
    assert type(restore(sent.code, sent.details, sent.metadata)) is errors.RoundAbortedError


@pytest.mark.parametrize(
    "error",
    [
        StorageError("/var/lib/x: disk full"),
        errors.AuditLogError("/var/lib/x"),
        errors.LockedError("/var/lib/x"),
    ],
)
def test_the_aggregators_own_disk_is_not_told_of(error: SecfedError) -> None:
    """The caller hears that it may try again, and no path."""
    sent = refusal(error)
    assert "/var" not in str(sent)
    assert type(restore(sent.code, sent.details, sent.metadata)) is NetworkError


@pytest.mark.parametrize("error", [KeyError("secret"), ValueError("secret"), errors.KeyFileError("secret")])
def test_a_bug_shows_nothing_of_itself(error: Exception) -> None:
    sent = refusal(error)
    assert sent.code is grpc.StatusCode.INTERNAL
    assert "secret" not in str(sent)
    assert type(restore(sent.code, sent.details, sent.metadata)) is SecfedError


@pytest.mark.parametrize(
    "detail",
    [b"", b"{", b"[]", b'{"class": "SystemExit", "message": "", "hint": ""}', b'{"class": "PeerError"}',
     b'{"class": "PeerError", "message": 1, "hint": ""}', b"x" * 5000],
)  # fmt: skip
def test_a_detail_of_another_form_counts_for_nothing(detail: bytes) -> None:
    """A hostile server chooses no class and no exit: what is left is the code."""
    back = restore(grpc.StatusCode.UNAVAILABLE, "gone", [(DETAIL_KEY, detail)])
    assert type(back) is NetworkError


def test_a_peers_text_cannot_command_a_terminal() -> None:
    detail = json.dumps(
        {"class": "PeerError", "message": "a\x1b[2Jb\n" + "c" * 2000, "hint": "\x07"}
    ).encode()
    back = restore(grpc.StatusCode.INTERNAL, "", [(DETAIL_KEY, detail)])
    assert str(back).isprintable()
    assert back.hint.isprintable()
    assert len(str(back)) <= 512


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNIMPLEMENTED, errors.VersionMismatchError),
        (grpc.StatusCode.UNAUTHENTICATED, errors.AuthenticationError),
        (grpc.StatusCode.PERMISSION_DENIED, errors.NotPermittedError),
        (grpc.StatusCode.FAILED_PRECONDITION, errors.PeerError),
        (grpc.StatusCode.INVALID_ARGUMENT, errors.PeerError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, NetworkError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, NetworkError),
    ],
)
def test_without_a_detail_the_code_decides(code: grpc.StatusCode, kind: type[SecfedError]) -> None:
    assert type(restore(code, None, None)) is kind
