"""Five clients that cannot start, each for a reason of its own: made for a test and for a benchmark."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from loopback import NOBODY, PATIENCE_S, Loopback

from secfed.identity import keyfile
from secfed.identity.roles import Role
from secfed.ids import ClientId


@dataclass(frozen=True)
class Fault:
    """What is wrong with one client.

    Attributes:
        code: The documented exit code.
        says: Words of the one line of cause.
        options: What its commands need beside their configuration.
    """

    name: str
    config: Path
    code: int
    says: str
    options: tuple[str, ...] = ()

    def start(self, play: Loopback, *words: str) -> subprocess.Popen[str]:
        """Give a command to this client, in a process of its own."""
        command = [*words, "--config", str(self.config), *self.options]
        return subprocess.Popen(
            [sys.executable, "-m", "secfed", *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=play.environment({"PYTHONPATH": str(Path(__file__).parents[2])}),
        )  # fmt: skip


@contextlib.contextmanager
def impostor(folder: Path) -> Iterator[str]:
    """An address where something speaks TLS as an aggregator does, with a certificate of its own."""
    keys = keyfile.create(
        folder / "impostor.key", site=ClientId("aggregator"), role=Role.AGGREGATOR, passphrase=None,
        now=datetime.now(UTC),
    )  # fmt: skip
    server = grpc.server(futures.ThreadPoolExecutor(1))
    pair = (keys.tls_key_pem, keys.tls_certificate_pem)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


def five(play: Loopback, folder: Path, stranger: str) -> list[Fault]:
    """The five of a federation that has hosp-a, hosp-b and hosp-c; what they have stays as it is.

    Args:
        folder: For copies of those sites, to be spoilt.
        stranger: Where an impostor listens.
    """
    away, fooled, locked = (_copy(play, name, folder) for name in ("hosp-a", "hosp-b", "hosp-c"))
    _dial(away, NOBODY)
    _dial(fooled, stranger)
    right, wrong = _passphrase(folder / "right"), _passphrase(folder / "wrong")
    play.done("keys", "passphrase", locked.with_name("hosp-c.key"), "--new-passphrase-file", right)
    expired, revoked = "hosp-x", "hosp-r"
    play.enroll([revoked, expired])
    play.join(revoked)
    play.join(expired)
    for path in play.site(expired).glob(f"{expired}.*"):
        path.unlink()
    keyfile.create(
        play.site(expired) / f"{expired}.key", site=ClientId(expired), role=Role.CLIENT, passphrase=None,
        now=datetime.now(UTC) - timedelta(days=2), validity=timedelta(days=1),
    )  # fmt: skip
    before = play.overview()["roster_version"]
    play.done("revoke", revoked, "--dir", play.federation)
    play.until(lambda: play.overview()["roster_version"] > before, "the newer roster", PATIENCE_S)
    return [
        Fault("wrong address", away, 10, "nothing listens"),
        Fault("wrong certificate", fooled, 21, "another TLS certificate"),
        Fault("expired key", play.config(expired), 24, "valid"),
        Fault("revoked key", play.config(revoked), 23, "revoked"),
        Fault("wrong passphrase", locked, 31, "hosp-c.key", ("--passphrase-file", str(wrong))),
    ]


def _copy(play: Loopback, name: str, folder: Path) -> Path:
    """A site's folder, copied; its client.toml."""
    shutil.copytree(play.site(name), folder / name)
    return folder / name / "client.toml"


def _dial(config: Path, address: str) -> None:
    text = config.read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("aggregator = ")]
    config.write_text(text.replace(line, f'aggregator = "{address}"'))


def _passphrase(path: Path) -> Path:
    path.touch(mode=0o600)
    path.write_text(f"the {path.name} one")
    return path
