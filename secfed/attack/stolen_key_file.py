"""A key file was stolen (from a backup, say) and its passphrase was not.

The thief reads every byte, tries what people choose, and asks whether anything in it is of use
without the passphrase; then changes the file and puts it back, for its owner to load. If a key
comes out, it is used: the thief calls the federation's aggregator as that member. The passphrase
of the victim is a strong one: a weak one can be guessed, at the price of one stretching a guess.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from secfed.attack import sentinels
from secfed.attack.finding import Evidence, Report
from secfed.attack.town import Refusal, Town
from secfed.attack.venue import Venue
from secfed.errors import KeyFileError
from secfed.identity import keyfile, membership, pkcs8
from secfed.identity.keyfile import MemberKeys
from secfed.identity.roles import Role
from secfed.ids import ClientId
from secfed.transport.hello import GREETING

__all__ = ["run"]

_SITE = ClientId("robbed")

_GUESSES = (None, "", "passphrase", "secfed", _SITE, f"{_SITE}.key", "password", "0" * 8)
"""What costs a thief nothing to try: none at all, and what stands on the file."""

_BYTES_MAX = 32
"""Places of the file that are changed, spread over all of it."""


def run(venue: Venue, report: Report) -> None:
    """Steal one site's key file, and try to be that site."""
    evidence = report.part("what stands in the file")
    root = venue.root / "stolen"
    root.mkdir(parents=True)
    path = root / f"{_SITE}.key"
    now = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1)
    passphrase = secrets.token_urlsafe(24)
    true = keyfile.create(path, site=_SITE, role=Role.CLIENT, passphrase=passphrase, now=now)
    loot = path.read_bytes()
    shown = sentinels.found_in(loot, _private(true))
    evidence.saw(f"the file, {len(loot)} bytes, shows name, role, dates, fingerprint and certificate")
    for each in shown:
        evidence.gained(f"{each.name}, in the clear in the file")
    guesses = report.part("guesses")
    keys = _guess(path, guesses)
    if keys is not None:
        _use(venue, keys, guesses)
    _change(path, loot, true, passphrase, report.part("a file changed and put back"))


def _private(keys: MemberKeys) -> list[sentinels.Sentinel]:
    """What must not be readable: the judge knows it, the thief does not."""
    tls = pkcs8.read(keys.tls_key_pem, None)
    encoded = tls.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return [
        sentinels.of_secret("the identity key", keys.signing.seed),
        sentinels.of_secret("the TLS key", encoded),
    ]


def _guess(path: Path, evidence: Evidence) -> MemberKeys | None:
    """Try passphrases; the keys if one fits."""
    errors: dict[str, int] = {}
    begun = time.monotonic()
    for guess in _GUESSES:
        try:
            keys = keyfile.load(path, guess)
        except KeyFileError as error:
            errors[type(error).__name__] = errors.get(type(error).__name__, 0) + 1
        else:
            evidence.saw(f"the guess {guess!r} fits")
            evidence.gained(f"both private keys, by the guess {guess!r}")
            return keys
    spent = (time.monotonic() - begun) / len(_GUESSES)
    evidence.saw(f"{len(_GUESSES)} guesses: {errors}; {1000 * spent:.0f} ms each on this machine")
    return None


def _change(path: Path, loot: bytes, true: MemberKeys, passphrase: str, evidence: Evidence) -> None:
    """A changed or cut file, put back in its place, must not make its owner somebody else."""
    altered, loaded, same = path.with_suffix(".changed"), 0, 0
    altered.touch(mode=0o600)
    places = range(0, len(loot), max(1, len(loot) // _BYTES_MAX))
    changed = [loot[:at] + bytes([loot[at] ^ 1]) + loot[at + 1 :] for at in places]
    changed += [
        loot[:-100],
        loot.replace(b"ENCRYPTED PRIVATE KEY", b"PRIVATE KEY"),
        loot.replace(f"site: {true.site}".encode(), b"site: another"),
    ]
    for data in changed:
        altered.write_bytes(data)
        with contextlib.suppress(KeyFileError):
            found = keyfile.load(altered, passphrase)
            loaded += 1
            if _powers(found) == _powers(true):
                same += 1
            else:
                evidence.gained(f"an owner who loads a changed file as {found.site}, {found.role.value}")
    evidence.saw(
        f"{len(changed)} changed or cut files under the true passphrase: {len(changed) - loaded} refused, "
        f"{loaded} loaded, {same} of them with the very same name, role and keys"
    )


def _powers(keys: MemberKeys) -> tuple[ClientId, Role, bytes, bytes]:
    """What a member acts with; dates are the roster's to judge."""
    return keys.site, keys.role, keys.signing.seed, keys.tls_key_pem


def _use(venue: Venue, keys: MemberKeys, evidence: Evidence) -> None:
    """Be the robbed member."""
    with Town(venue) as town:
        now = datetime.now(UTC).replace(microsecond=0)
        town.publish(membership.enroll(town.roster, town.owner.key, [keys.enrolment], now=now))
        town.until(lambda: _answered(town, keys), "an answer to the thief")
        evidence.gained(f"an answer of the aggregator to {_SITE}, whose keys these are")


def _answered(town: Town, keys: MemberKeys) -> bool:
    return not isinstance(town.call(keys, GREETING, b""), Refusal)
