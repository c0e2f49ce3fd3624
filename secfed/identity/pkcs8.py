"""Private keys as PKCS#8 PEM, encrypted under a passphrase that is expensive to guess.

The library's own encryption stretches a passphrase with 2048 rounds of PBKDF2, which a
graphics card tries millions of times a second. Here PBES2 uses scrypt instead: about 16 MiB
and a quarter of a second a guess. The form is the standard one, so `openssl pkey` reads it.

Source: RFC 5958 (PKCS#8), RFC 8018 section 6.2 (PBES2), RFC 7914 section 7 (scrypt in it).
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from secfed.errors import KeyFileError, PassphraseError

__all__ = ["PrivateKey", "is_encrypted", "plain_pem", "read", "write"]

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey

# The largest memory that `openssl pkey` takes without options; p = 5 makes up for it
# (OWASP counts N = 2^14, p = 5 equal to N = 2^17, p = 1).
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 1 << 14, 8, 5

_SALT_BYTES = 16
_BLOCK_BYTES = 16

_OID_PBES2 = bytes.fromhex("2a864886f70d01050d")  # 1.2.840.113549.1.5.13
_OID_SCRYPT = bytes.fromhex("2b06010401da47040b")  # 1.3.6.1.4.1.11591.4.11
_OID_AES256_CBC = bytes.fromhex("60864801650304012a")  # 2.16.840.1.101.3.4.1.42

_ENCRYPTED = "ENCRYPTED PRIVATE KEY"


def plain_pem(key: PrivateKey) -> bytes:
    """A key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write(key: PrivateKey, passphrase: str | None, entropy: Callable[[int], bytes] = os.urandom) -> bytes:
    """A key as PKCS#8 PEM, encrypted unless the passphrase is None.

    Args:
        key: Ed25519, or on an elliptic curve.
        passphrase: Not empty.
        entropy: For salt and initialisation vector.
    """
    if passphrase is None:
        return plain_pem(key)
    if not passphrase:
        raise ValueError("an empty passphrase protects nothing; pass None for no encryption")
    salt, vector = entropy(_SALT_BYTES), entropy(_BLOCK_BYTES)
    stretched = Scrypt(salt=salt, length=32, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P)
    encryptor = Cipher(AES256(stretched.derive(passphrase.encode())), CBC(vector)).encryptor()
    padder = padding.PKCS7(8 * _BLOCK_BYTES).padder()
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    sealed = encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()
    scrypt = _sequence(
        _oid(_OID_SCRYPT),
        _sequence(_octets(salt), _integer(_SCRYPT_N), _integer(_SCRYPT_R), _integer(_SCRYPT_P)),
    )
    cipher = _sequence(_oid(_OID_AES256_CBC), _octets(vector))
    algorithm = _sequence(_oid(_OID_PBES2), _sequence(scrypt, cipher))
    return _pem(_ENCRYPTED, _sequence(algorithm, _octets(sealed)))


def is_encrypted(pem: bytes) -> bool:
    """Whether a block of PEM needs a passphrase."""
    return pem.startswith(f"-----BEGIN {_ENCRYPTED}-----".encode())


def read(pem: bytes, passphrase: str | None) -> PrivateKey:
    """The inverse of `write`; also reads what other programs encrypted. A needless passphrase is ignored.

    Raises:
        PassphraseError: It is missing or wrong.
        KeyFileError: This is no private key of a kind that is used here.
    """
    if not is_encrypted(pem):
        secret = None
    elif not passphrase:
        raise PassphraseError("the key is encrypted and no passphrase was given")
    else:
        secret = passphrase.encode()
    try:
        key = load_pem_private_key(pem, secret)
    except ValueError as problem:
        if secret is not None:
            raise PassphraseError("the passphrase is wrong, or the key is damaged") from problem
        raise KeyFileError("the private key cannot be read: it is damaged") from problem
    except Exception as problem:
        raise KeyFileError(f"the private key cannot be read: {type(problem).__name__}") from problem
    if not isinstance(key, Ed25519PrivateKey | EllipticCurvePrivateKey):
        raise KeyFileError("the private key is of a kind that is not used here")
    return key


def _pem(label: str, der: bytes) -> bytes:
    text = base64.b64encode(der).decode("ascii")
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()


def _der(tag: int, body: bytes) -> bytes:
    """One value in DER (X.690): tag, length in its shortest form, content."""
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def _sequence(*parts: bytes) -> bytes:
    return _der(0x30, b"".join(parts))


def _octets(data: bytes) -> bytes:
    return _der(0x04, data)


def _oid(encoded: bytes) -> bytes:
    return _der(0x06, encoded)


def _integer(number: int) -> bytes:
    """A non-negative INTEGER; the extra bit keeps its sign positive."""
    return _der(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))
