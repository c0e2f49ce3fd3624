"""A client that shows its secrets: `candid_client.py FOLDER ROOT COMMAND...` runs a `secfed` command.

In FOLDER it writes what the test has to look for: every ephemeral secret of the secure sum, a line each of
a name and hexadecimal digits, and the words of its contribution. Just before its masked vector leaves, it
copies to FOLDER/disk what lies under ROOT at that moment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from secfed.cli.main import main
from secfed.crypto import agreement, shamir
from secfed.crypto.agreement import EdgeSecret
from secfed.identity.signed import Signed
from secfed.ids import Digest, MemberIndex
from secfed.rounds import admission
from secfed.rounds.contribution import Encoded
from secfed.rounds.exchange import Told
from secfed.rounds.plan import JobPlan
from secfed.rounds.ports import Update
from secfed.secagg import derive
from secfed.transport.client import Connection


def note(name: str, secret: bytes) -> None:
    with (stage / "secrets").open("a") as file:
        file.write(f"{name} {secret.hex()}\n")


def random_secret(entropy: Callable[[int], bytes] = os.urandom) -> bytes:
    drawn = plain_random_secret(entropy)
    note("b_i or K_i", drawn)
    return drawn


def split(secret: bytes, threshold: int, places: list[int], entropy: Callable[[int], bytes]) -> list[bytes]:
    shares = plain_split(secret, threshold, places, entropy)
    for share in shares:
        note("a share", share)
    return shares


def edge_keys(secret: EdgeSecret, h: Digest, me: MemberIndex, other: MemberIndex) -> derive.EdgeKeys:
    keys = plain_edge_keys(secret, h, me, other)
    note("an edge mask's seed", keys.mask)
    note("an envelope's key", keys.outgoing)
    return keys


def self_mask_seed(secret: bytes, h: Digest, owner: MemberIndex) -> bytes:
    seed = plain_self_mask_seed(secret, h, owner)
    note("a self mask's seed", seed)
    return seed


def generate(entropy: Callable[[int], bytes] = os.urandom) -> agreement.KeyPair:
    def drawn(size: int) -> bytes:
        seed = entropy(size)
        note("an ephemeral private key", seed)
        return seed

    return plain_generate(drawn)


def encode(plan: JobPlan, update: Update, entropy: Callable[[int], bytes] = os.urandom) -> Encoded:
    encoded = plain_encode(plan, update, entropy)
    np.save(stage / "words.npy", encoded.words)
    return encoded


def copy(source: str, target: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # a draft that was moved to its place meanwhile
        shutil.copyfile(source, target)


def upload(self: Connection, attempt: Digest, statement: Signed, packed: bytes) -> Told:
    shutil.copytree(root, stage / "disk", copy_function=copy)
    return plain_upload(self, attempt, statement, packed)


if __name__ == "__main__":
    stage, root = Path(sys.argv.pop(1)), Path(sys.argv.pop(1))
    plain_random_secret, plain_split = shamir.random_secret, shamir.split
    plain_edge_keys, plain_self_mask_seed = derive.edge_keys, derive.self_mask_seed
    plain_generate, plain_encode, plain_upload = (
        agreement.KeyPair.generate,
        admission.encode,
        Connection.upload,
    )
    shamir.random_secret, shamir.split = random_secret, split  # type: ignore[assignment]
    derive.edge_keys, derive.self_mask_seed = edge_keys, self_mask_seed
    agreement.KeyPair.generate = generate  # type: ignore[method-assign]
    admission.encode = encode
    Connection.upload = upload  # type: ignore[method-assign]
    main()
