"""Encrypted keys: the standard form, and a passphrase that is expensive to guess."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from secfed.errors import KeyFileError, PassphraseError
from secfed.identity import pkcs8

KEYS = [Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())]
NAMES = ["ed25519", "p256"]
PASSPHRASE = "correct horse ü"


@pytest.mark.parametrize("key", KEYS, ids=NAMES)
@pytest.mark.parametrize("passphrase", [PASSPHRASE, None])
def test_a_key_comes_back(key: pkcs8.PrivateKey, passphrase: str | None) -> None:
    pem = pkcs8.write(key, passphrase)
    assert pkcs8.is_encrypted(pem) == (passphrase is not None)
    assert pkcs8.plain_pem(pkcs8.read(pem, passphrase)) == pkcs8.plain_pem(key)


@pytest.mark.parametrize("wrong", ["correct horse u", "", None])
def test_a_wrong_or_missing_passphrase_is_named_so(wrong: str | None) -> None:
    pem = pkcs8.write(KEYS[0], PASSPHRASE)
    with pytest.raises(PassphraseError, match="wrong" if wrong else "no passphrase"):
        pkcs8.read(pem, wrong)


def test_an_empty_passphrase_is_a_callers_bug() -> None:
    with pytest.raises(ValueError, match="protects nothing"):
        pkcs8.write(KEYS[0], "")


def test_a_needless_passphrase_is_ignored() -> None:
    assert pkcs8.plain_pem(pkcs8.read(pkcs8.plain_pem(KEYS[0]), "x")) == pkcs8.plain_pem(KEYS[0])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl program is not installed")
@pytest.mark.parametrize("key", KEYS, ids=NAMES)
def test_openssl_reads_the_same_key(key: pkcs8.PrivateKey, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(pkcs8.write(key, PASSPHRASE))
    ended = subprocess.run(
        ["openssl", "pkey", "-in", path, "-passin", f"pass:{PASSPHRASE}"], capture_output=True, check=True
    )
    assert re.sub(rb"\s", b"", ended.stdout) == re.sub(rb"\s", b"", pkcs8.plain_pem(key))


def test_a_guess_is_expensive() -> None:
    """The library's own 2048 rounds of PBKDF2 take about 1 ms; scrypt takes at least fifty."""
    pem = pkcs8.write(KEYS[0], PASSPHRASE)
    start = time.perf_counter()
    pkcs8.read(pem, PASSPHRASE)
    assert time.perf_counter() - start > 0.05


def test_two_files_of_one_key_share_nothing() -> None:
    first, second = (pkcs8.write(KEYS[0], PASSPHRASE).splitlines()[1:-1] for _ in range(2))
    assert first[-1] != second[-1]


def test_the_librarys_own_encryption_is_read_too() -> None:
    pem = KEYS[0].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pw"))
    assert pkcs8.plain_pem(pkcs8.read(pem, "pw")) == pkcs8.plain_pem(KEYS[0])


def test_other_kinds_and_damage_are_key_file_errors() -> None:
    with pytest.raises(KeyFileError, match="of a kind"):
        pkcs8.read(pkcs8.plain_pem(rsa.generate_private_key(65537, 2048)), None)  # type: ignore[arg-type]
    with pytest.raises(KeyFileError, match="damaged"):
        pkcs8.read(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", None)
