"""The whole error tree: what went wrong, what to do about it, and the exit code that says so.

The message is the cause in one line; `hint` is the remedy in one line. An operator reads
both, so neither ever contains a secret, and a traceback is shown only with `--debug`. What a peer
or a file wrote may stand in them: it is made harmless to terminals and logs here, once for all.

Exit codes: 2 usage, configuration or input · 10s network · 20s identity and authorisation ·
30s key files · 40s protocol · 50s privacy budget and policy · 60s storage and audit ·
70s versions · 99 a bug.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from secfed.ids import ClientId, one_line

__all__ = [
    "AttackSucceededError",
    "AuditFailedError",
    "AuditLogError",
    "AuthenticationError",
    "BudgetExceededError",
    "CertificateExpiredError",
    "ConfigError",
    "DataError",
    "DecisionConflictError",
    "DifferenceRuleError",
    "EncodingError",
    "InfeasibleCohortError",
    "KeyFileError",
    "KeyPermissionsError",
    "LedgerError",
    "LockedError",
    "LostUploadError",
    "NetworkError",
    "NotPermittedError",
    "PassphraseError",
    "PeerError",
    "PolicyRefusedError",
    "PortBusyError",
    "RevokedError",
    "RosterError",
    "RoundAbortedError",
    "SecfedError",
    "ShareConflictError",
    "StaleAttemptError",
    "StorageError",
    "UnexpectedMessageError",
    "VersionMismatchError",
]


class SecfedError(Exception):
    """Anything that secfed refuses or that went wrong outside a caller's bug.

    Args:
        message: The cause; kept as `one_line`.
        hint: The remedy, likewise; the class's own where none is given.
    """

    exit_code: ClassVar[int] = 99
    hint: str = "This is a bug in secfed: please report it with the output of --debug."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(one_line(message))
        if hint is not None:
            self.hint = one_line(hint)


# -- 2: usage, configuration, input ------------------------------------------------------------


class ConfigError(SecfedError):
    """A configuration file or an option is wrong."""

    exit_code = 2
    hint = "Mend the named file or option and start again; nothing was sent."


class DataError(SecfedError):
    """A data file lacks a declared column, or holds a value of the wrong type."""

    exit_code = 2
    hint = "Run `secfed data check --config FILE` after mending the file or the configuration."


class EncodingError(SecfedError):
    """Numbers cannot be carried exactly: not finite, out of bound, wrong name, shape or type."""

    exit_code = 2
    hint = "The line above says where the update differs from the job; mend the update. Nothing was sent."


# -- 10s: network ------------------------------------------------------------------------------


class NetworkError(SecfedError):
    """The other side cannot be reached, or did not answer in time."""

    exit_code = 10
    hint = "Check the address, the firewall's one inbound port, and that the aggregator runs."


class PortBusyError(NetworkError):
    """The port to listen on is taken."""

    exit_code = 11
    hint = "Stop the program that holds the port, or choose another `listen` in aggregator.toml."


# -- 20s: identity and authorisation -----------------------------------------------------------


class RosterError(SecfedError):
    """A roster is forged, malformed, rolled back or forked."""

    exit_code = 20
    hint = "Ask the federation's owner for the current roster and compare the fingerprint by phone."


class AuthenticationError(RosterError):
    """The other side, or this one, is not who it claims to be."""

    exit_code = 21
    hint = "Check that key file, invite and roster belong to the same site and federation."


class NotPermittedError(RosterError):
    """The identity is known, but its role may not do this."""

    exit_code = 22
    hint = "Use a key whose role allows it (`secfed roster show`)."


class RevokedError(RosterError):
    """The member was revoked."""

    exit_code = 23
    hint = "Ask the federation's owner; a revoked site returns only with a new key and a new enrolment."


class CertificateExpiredError(RosterError):
    """A certificate or a roster entry is outside its validity."""

    exit_code = 24
    hint = "Make a new key with `secfed keys rotate` and have it enrolled."


# -- 30s: key files ----------------------------------------------------------------------------


class KeyFileError(SecfedError):
    """A key file cannot be read or written."""

    exit_code = 30
    hint = "Check the path; key files are never overwritten."


class PassphraseError(KeyFileError):
    """The passphrase is wrong or missing."""

    exit_code = 31
    hint = "Enter the passphrase again, or give `--passphrase-file FILE`."


class KeyPermissionsError(KeyFileError):
    """A private key can be read by others than its owner."""

    exit_code = 32


# -- 40s: protocol -----------------------------------------------------------------------------


class PeerError(SecfedError):
    """A peer broke the protocol, or somebody changed its message on the way.

    Args:
        message: Which rule, one line.
        culprits: The sites that the evidence names; empty where it names nobody.
    """

    exit_code = 40
    hint = "The attempt is over for this site; keep the audit trail and ask who is named."

    def __init__(self, message: str, *, culprits: Iterable[ClientId] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.culprits: tuple[ClientId, ...] = tuple(culprits)


class RoundAbortedError(SecfedError):
    """A round ended without a sum, and nothing was published."""

    exit_code = 41
    hint = "`secfed status` says who was missing; a vector round may be offered again."


class UnexpectedMessageError(PeerError):
    """A message came in a state that does not take it."""

    exit_code = 42


class ShareConflictError(PeerError):
    """One client was reported as survivor and as dropout at once.

    Answering would hand over both kinds of its shares, and so its update.
    """

    exit_code = 43
    hint = "Do not retry against this aggregator; keep the audit trail."


class DifferenceRuleError(PeerError):
    """The difference of two sums would show the vectors of fewer members than the floor."""

    exit_code = 44
    hint = "Wait until all members of the earlier sum are back, or send a new vector on a new base."


class StaleAttemptError(PeerError):
    """An attempt that is not newer than one this site already took part in."""

    exit_code = 45


class InfeasibleCohortError(SecfedError):
    """No threshold protects this many members against this many corrupt ones."""

    exit_code = 46
    hint = "Enrol more sites, or lower the tolerated corrupt members in the roster."


class AttackSucceededError(SecfedError):
    """`secfed attack` came by something that no adversary may come by."""

    exit_code = 47
    hint = "Do not run a federation with this version; report the evidence (SECURITY.md)."


# -- 50s: privacy budget and policy ------------------------------------------------------------


class BudgetExceededError(SecfedError):
    """The next charge would pass the data set's cap. Decided from parameters, never from data."""

    exit_code = 50
    hint = "`secfed report` shows what was spent; a cap is raised by no one but its owner, for new data."


class PolicyRefusedError(SecfedError):
    """A plan asks for something that this site's policy file does not allow."""

    exit_code = 51
    hint = "Compare the plan with policy.toml; change the policy only if its owner agrees."


class AuditFailedError(SecfedError):
    """An audit found something that contradicts the claimed epsilon."""

    exit_code = 52
    hint = "Do not publish the figure; keep the audit's files and report them (SECURITY.md)."


# -- 60s: storage and audit --------------------------------------------------------------------


class StorageError(SecfedError):
    """A file of the state directory is missing, damaged, full or read-only; it was left untouched."""

    exit_code = 60
    hint = "Check the disk and the named file; what lies in a state directory never comes from a backup."


class LedgerError(StorageError):
    """A ledger's chain, signature or content is wrong, so nothing may be charged to it."""

    exit_code = 61
    hint = "`secfed ledger verify FILE` names the entry; restore the ledger, never edit it."


class DecisionConflictError(StorageError):
    """Something else was already decided, durably, under the same key."""

    exit_code = 62
    hint = "A decision stands for good; keep the audit trail and ask who asked twice."


class LostUploadError(StorageError):
    """A masked vector that was acknowledged is gone, or is another one: no restart brings it back."""

    exit_code = 65
    hint = "The round is aborted; find out who touched the spool of the state directory."


class LockedError(StorageError):
    """Another process holds this state directory or ledger."""

    exit_code = 63
    hint = "Only one process may use a state directory: stop the other one first."


class AuditLogError(StorageError):
    """The audit log is damaged or cannot be written, so the daemon accepts nothing."""

    exit_code = 64
    hint = (
        "Mend or free the disk. A damaged log is kept for whoever must explain it: move it away, with the "
        "note beside it (.head), and a new one begins."
    )


# -- 70s: versions -----------------------------------------------------------------------------


class VersionMismatchError(SecfedError):
    """The two sides speak different protocol versions."""

    exit_code = 70
    hint = "Install the same secfed version on both sides."
