"""Private keys on disk: text, 0600, created exclusively, never overwritten.

A file begins with comment lines for people (version, site, role, created, expires,
`SHA256:` fingerprint), then holds PEM blocks. A member's has the Ed25519 identity key, the
P-256 TLS key and the TLS certificate, and beside it lies the public file that is sent to be
enrolled. The roster key's file has that one key. The comments are checked against the keys
when a file is read, so a mixed-up file is refused.

Once a key has served, one more comment names the state that it served with, and stays: in every
copy of the file that is made from then on, too.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secfed.crypto.signing import SigningKey
from secfed.errors import KeyFileError, KeyPermissionsError, PassphraseError, RosterError, StorageError
from secfed.identity import certificate, pkcs8
from secfed.identity.certificate import Certificate
from secfed.identity.enrolment import Enrolment
from secfed.identity.fields import read_time, site_name, write_time
from secfed.identity.fingerprint import federation_id, member_fingerprint, roster_fingerprint
from secfed.identity.roles import Role
from secfed.ids import ClientId
from secfed.store import files

__all__ = [
    "DEFAULT_VALIDITY",
    "MemberKeys",
    "change_passphrase",
    "create",
    "create_roster_key",
    "load",
    "load_roster_key",
    "name_state",
    "public_path",
    "state_of",
]

DEFAULT_VALIDITY = timedelta(days=730)

_VERSION = "secfed key file, version 1"
_ROSTER_ROLE = "roster"
_MAX_BYTES = 64 << 10
_MEMBER_BLOCKS = 3  # identity key, TLS key, TLS certificate
_ROSTER_BLOCKS = 1

_STATE = "state"
"""The comment that names the state a key has served with."""

_COMMENT = re.compile(r"# ([a-z]+): (\S+)")
_BLOCK = re.compile(r"-----BEGIN ([A-Z ]+)-----\n[A-Za-z0-9+/=\n]+-----END \1-----\n")


@dataclass(frozen=True, slots=True)
class MemberKeys:
    """A member's private and public keys, as its key file holds them.

    Attributes:
        site: Its name.
        role: The role they were made for; what counts is the roster's.
        signing: The identity key.
        tls_key_pem: The TLS key, unencrypted PKCS#8 PEM, for the channel.
        certificate: The TLS certificate.
        created: When they were made.
        expires: Until when they serve.
    """

    site: ClientId
    role: Role
    signing: SigningKey = field(repr=False)
    tls_key_pem: bytes = field(repr=False)
    certificate: Certificate
    created: datetime
    expires: datetime

    @property
    def tls_certificate_pem(self) -> bytes:
        """The TLS certificate as the channel takes it."""
        return self.certificate.pem.encode("ascii")

    @property
    def fingerprint(self) -> str:
        """`SHA256:…` of identity key and certificate."""
        return member_fingerprint(self.signing.public, self.certificate.der)

    @property
    def enrolment(self) -> Enrolment:
        """The public half."""
        return Enrolment(
            self.site, self.role, self.signing.public, self.certificate, self.created, self.expires
        )


def public_path(path: Path) -> Path:
    """Where the public file of a key file lies: `hosp-a.key` and `hosp-a.pub`."""
    return path.with_suffix(".pub")


def create(
    path: Path,
    *,
    site: ClientId,
    role: Role,
    passphrase: str | None,
    now: datetime,
    validity: timedelta = DEFAULT_VALIDITY,
    entropy: Callable[[int], bytes] = os.urandom,
) -> MemberKeys:
    """Make a member's keys and write the key file (0600) and, beside it, the public file (0644).

    Args:
        path: Must not exist, nor the public file.
        site: The member's name.
        role: The role it will ask for.
        passphrase: Encrypts both keys; None leaves them in clear.
        now: The time of creation.
        validity: How long keys and certificate serve.
        entropy: For the identity key and the encryption; the TLS key is drawn by its library.

    Raises:
        KeyFileError: A file exists, or cannot be written.
    """
    site_name(site)
    signing = SigningKey.generate(entropy)
    tls_key = ec.generate_private_key(ec.SECP256R1())
    created = now.replace(microsecond=0)
    expires = created + validity
    issued = certificate.create(tls_key, site, role, now=created, valid_until=expires)
    keys = MemberKeys(site, role, signing, pkcs8.plain_pem(tls_key), issued, created, expires)
    text = _comments(
        ("site", site),
        ("role", role.value),
        ("created", write_time(created)),
        ("expires", write_time(expires)),
        ("fingerprint", keys.fingerprint),
    )
    text += _identity_pem(signing, passphrase, entropy) + pkcs8.write(tls_key, passphrase, entropy)
    _refuse_existing(path, public_path(path))
    _write(path, text + keys.tls_certificate_pem, files.PRIVATE_MODE)
    _write(public_path(path), keys.enrolment.sign(signing), files.PUBLIC_MODE)
    return keys


def load(path: Path, passphrase: str | None) -> MemberKeys:
    """Read a member's key file.

    Raises:
        KeyPermissionsError: Others than the owner may read it.
        PassphraseError: The passphrase is wrong, or missing where one is needed.
        KeyFileError: The file is missing, damaged, or of another kind.
    """
    _head, comments, (identity_pem, tls_pem, certificate_pem) = _read(path, _MEMBER_BLOCKS)
    try:
        site = site_name(comments["site"])
        role = Role(comments["role"])
        created, expires = read_time(comments["created"]), read_time(comments["expires"])
        issued = certificate.parse(certificate_pem.decode("ascii"), site)
    except (KeyError, ValueError, RosterError) as problem:
        raise KeyFileError(f"{path} is no member's key file: {problem}") from problem
    signing = _read_identity(path, identity_pem, passphrase)
    tls_key = _read_key(path, tls_pem, passphrase)
    if not isinstance(tls_key, ec.EllipticCurvePrivateKey) or not issued.belongs_to(tls_key):
        raise KeyFileError(f"{path}: the TLS certificate is not that of the TLS key")
    keys = MemberKeys(site, role, signing, pkcs8.plain_pem(tls_key), issued, created, expires)
    _check_fingerprint(path, comments, keys.fingerprint)
    return keys


def create_roster_key(
    path: Path,
    *,
    passphrase: str | None,
    now: datetime,
    entropy: Callable[[int], bytes] = os.urandom,
) -> SigningKey:
    """Make a federation's roster key and write its file (0600); arguments and errors as `create`."""
    signing = SigningKey.generate(entropy)
    text = _comments(
        ("role", _ROSTER_ROLE),
        ("federation", federation_id(signing.public)),
        ("created", write_time(now)),
        ("fingerprint", roster_fingerprint(signing.public)),
    )
    _refuse_existing(path)
    _write(path, text + _identity_pem(signing, passphrase, entropy), files.PRIVATE_MODE)
    return signing


def load_roster_key(path: Path, passphrase: str | None) -> SigningKey:
    """Read a federation's roster key; errors as `load`."""
    _head, comments, (identity_pem,) = _read(path, _ROSTER_BLOCKS)
    if comments.get("role") != _ROSTER_ROLE:
        raise KeyFileError(f"{path} does not hold a roster key")
    signing = _read_identity(path, identity_pem, passphrase)
    _check_fingerprint(path, comments, roster_fingerprint(signing.public))
    return signing


def change_passphrase(
    path: Path, old: str | None, new: str | None, *, entropy: Callable[[int], bytes] = os.urandom
) -> None:
    """Encrypt the same keys under another passphrase; the file is the old one or the new one, never a part.

    Args:
        path: A member's key file or a roster key's.
        old: The passphrase so far, or None.
        new: The next one; None leaves the keys in clear.
        entropy: For the encryption.

    Raises:
        KeyFileError: As `load`, or the file cannot be written; the old one then stands.
    """
    head, _found, blocks = _read(path, _MEMBER_BLOCKS, _ROSTER_BLOCKS)
    if len(blocks) == _MEMBER_BLOCKS:
        keys = load(path, old)
        tls_key = pkcs8.read(keys.tls_key_pem, None)
        text = _identity_pem(keys.signing, new, entropy) + pkcs8.write(tls_key, new, entropy) + blocks[-1]
    else:
        text = _identity_pem(load_roster_key(path, old), new, entropy)
    try:
        files.replace(path.resolve(), head + text)
    except StorageError as problem:
        raise KeyFileError(str(problem)) from problem


def state_of(path: Path) -> str | None:
    """The state that a member's key has served with, by the name it was given; None if it never served.

    Raises:
        KeyFileError: As `load`; no passphrase is needed.
    """
    _head, comments, _blocks = _read(path, _MEMBER_BLOCKS)
    return comments.get(_STATE)


def name_state(path: Path, state: str) -> None:
    """Note in a member's key file which state the key serves with; durable on return, and for good.

    Args:
        path: The key file, which names no state yet.
        state: A name without spaces.

    Raises:
        KeyFileError: As `load`, or the file cannot be written; the old one then stands.
    """
    head, comments, blocks = _read(path, _MEMBER_BLOCKS)
    if _STATE in comments:
        raise ValueError(f"{path} names a state already")
    try:
        files.replace(path.resolve(), head + _lines((_STATE, state)) + b"".join(blocks))
    except StorageError as problem:
        raise KeyFileError(
            f"{problem}: the key's first start notes in its file which state it serves with",
            hint="Let the owner write to the key file and its folder; later starts only read it.",
        ) from problem


def _comments(*lines: tuple[str, str]) -> bytes:
    return f"# {_VERSION}. Private: whoever reads it can act as its owner.\n".encode() + _lines(*lines)


def _lines(*lines: tuple[str, str]) -> bytes:
    return "".join(f"# {name}: {value}\n" for name, value in lines).encode("ascii")


def _identity_pem(signing: SigningKey, passphrase: str | None, entropy: Callable[[int], bytes]) -> bytes:
    return pkcs8.write(Ed25519PrivateKey.from_private_bytes(signing.seed), passphrase, entropy)


def _refuse_existing(*paths: Path) -> None:
    """Look before anything is written; the exclusive creation then settles a race."""
    for path in paths:
        if path.exists() or path.is_symlink():
            raise KeyFileError(f"{path} exists already", hint="Choose another path; no key is overwritten.")


def _write(path: Path, data: bytes, mode: int) -> None:
    try:
        files.make_directory(path.parent)
        files.create_exclusive(path, data, mode=mode)
    except StorageError as problem:
        raise KeyFileError(str(problem)) from problem


def _read(path: Path, *blocks: int) -> tuple[bytes, dict[str, str], Sequence[bytes]]:
    """The head, its comments, and as many PEM blocks as allowed, of a file that only its owner may read."""
    try:
        with files.open_regular(path) as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise KeyPermissionsError(
                    f"{path} can be used by others than its owner (mode {stat.S_IMODE(mode):04o})",
                    hint=f"chmod 600 {shlex.quote(str(path))}",
                )
            data = file.read(_MAX_BYTES + 1)
    except OSError as problem:
        raise KeyFileError(f"{path}: {problem.strerror}") from problem
    text = data.decode("ascii", errors="replace")
    found = [match[0] for match in _BLOCK.finditer(text)]
    if not text.startswith(f"# {_VERSION}.") or len(found) not in blocks or len(data) > _MAX_BYTES:
        raise KeyFileError(f"{path} is not the key file that is needed here, or it is damaged")
    comments = {match[1]: match[2] for match in map(_COMMENT.fullmatch, text.splitlines()) if match}
    head = text[: text.index(found[0])].encode("ascii", errors="replace")
    return head, comments, [block.encode("ascii") for block in found]


def _read_key(path: Path, pem: bytes, passphrase: str | None) -> pkcs8.PrivateKey:
    try:
        return pkcs8.read(pem, passphrase)
    except PassphraseError as problem:
        raise PassphraseError(f"{path}: {problem}") from problem
    except KeyFileError as problem:
        raise KeyFileError(f"{path}: {problem}") from problem


def _read_identity(path: Path, pem: bytes, passphrase: str | None) -> SigningKey:
    key = _read_key(path, pem, passphrase)
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path}: the first key is not an identity key (Ed25519)")
    return SigningKey.from_seed(key.private_bytes_raw())


def _check_fingerprint(path: Path, comments: dict[str, str], fingerprint: str) -> None:
    """The comments must be those of the keys below them."""
    if comments.get("fingerprint") != fingerprint:
        raise KeyFileError(f"{path}: the fingerprint in its comments is not that of its keys")
