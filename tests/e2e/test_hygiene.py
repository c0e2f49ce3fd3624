"""After a round of real processes nobody finds a secret who may read everything but their memory.

Searched are all files of the federation while masked vectors leave and after the round, names included; what
the processes print with logs at their most talkative; tracebacks; reports; /proc; the folder of temporary
files and the home folder. By design a site's update stands in its own file, its contribution in the state
folder until the round closes, and the passphrase in the file that the processes read it from.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from loopback import BITS, PATIENCE_S, Loopback, Process, secfed
from safetensors.numpy import save_file

from secfed.attack import procfs, sentinels
from secfed.attack.sentinels import Sentinel
from secfed.cli.playground import Playground
from secfed.encoding.fixedpoint import word_bits
from secfed.identity import keyfile, pkcs8

SITES = ("hosp-a", "hosp-b", "hosp-c")
SIZE = 480

EPHEMERAL = 2 + 2 * 2 + 2 * 2 + 1 + 2
"""Secrets of one site in one attempt of three: b and K with two shares each, two keys of each edge, the seed
of the self mask, and the seeds of two private keys."""


class Locked(Loopback):
    """Keys under a passphrase, logs at their most talkative, home and temporary files in the same folder."""

    found = Playground.found
    enroll = Playground.enroll

    def join(self, name: str, *options: str) -> str:
        given = (*options, "--passphrase-file", str(self.passphrase))
        told = super().join(name, *given)
        self._talk(self.config(name))
        return told

    def start_aggregator(self) -> Process:
        config = self.federation / "aggregator.toml"
        self._talk(config)
        options = ("--config", str(config), "--passphrase-file", str(self.passphrase))
        process = self.spawn("aggregator", "aggregator", "run", *options)
        self.until(lambda: self._listens() or not process.running, "the aggregator's port", PATIENCE_S)
        return process

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        folders = {name: self.root / name.lower() for name in ("HOME", "TMPDIR")}
        for folder in folders.values():
            folder.mkdir(exist_ok=True)
        return super().environment({**(extra or {}), **{name: str(path) for name, path in folders.items()}})

    def _talk(self, config: Path) -> None:
        text, changed = re.subn(r"(?m)^(# )?log_level = .*$", 'log_level = "debug"', config.read_text())
        assert changed == 1
        config.write_text(text)

    def push_candidly(self, name: str, stage: Path, copied: Path) -> Process:
        """`secfed client push` by candid_client.py."""
        stage.mkdir()
        update = str(self.site(name) / "update.safetensors")
        return self.spawn(
            name, str(copied), "client", "push", "--config", str(self.config(name)), "--update", update,
            "--passphrase-file", str(self.passphrase), script="candid_client.py", point=str(stage),
        )  # fmt: skip


def long_lived(play: Locked) -> list[Sentinel]:
    """Passphrase and private keys, in all their forms."""
    passphrase = play.passphrase.read_text().strip()
    found = [sentinels.of_text("the passphrase", passphrase)]
    files = {name: play.site(name) / f"{name}.key" for name in SITES}
    files |= {path.stem: path for path in play.federation.glob("*.key") if path.stem != "roster"}
    for name, path in files.items():
        keys = keyfile.load(path, passphrase)
        tls = pkcs8.read(keys.tls_key_pem, None)
        plain = tls.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        scalar = tls.private_numbers().private_value.to_bytes(32, "big")
        found += [
            sentinels.of_secret(f"the identity key of {name}", keys.signing.seed),
            sentinels.of_secret(f"the TLS key of {name}", scalar),
            sentinels.of_secret(f"the encoded TLS key of {name}", plain),
        ]
    roster = keyfile.load_roster_key(play.federation / "roster.key", passphrase)
    return [*found, sentinels.of_secret("the roster key", roster.seed)]


def vectors(play: Locked) -> dict[str, list[float]]:
    """An update at each site that nothing else looks like."""
    made = {}
    for name in SITES:
        values = np.random.default_rng(SITES.index(name)).uniform(-1, 1, SIZE).astype(np.float32)
        save_file({"x": values}, play.site(name) / "update.safetensors")
        made[name] = values.tolist()
    return made


def shown(process: Process) -> bytes:
    """What the system tells of a running process."""
    assert procfs.core_limits(process.popen.pid) == ("0", "0")
    return b"\n".join(procfs.exposed(process.popen.pid).values())


@pytest.fixture(autouse=True)
def _cheap_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    """New key files ask for little stretching, in which they say how much; it is not what is tested here."""
    monkeypatch.setattr(pkcs8, "_SCRYPT_N", 16)


def test_a_round_leaves_no_secret_behind(build: Callable[..., Locked], tmp_path: Path) -> None:
    play = build(*SITES, kind=Locked)
    lasting, updates = long_lived(play), vectors(play)
    play.start_job(_job(play))
    stages = {name: tmp_path / name for name in SITES}
    *early, late = SITES
    pushes = [play.push_candidly(name, stages[name], play.site(name)) for name in early]
    kept = [play.site(name) / "state" / "contributions" for name in early]
    play.until(lambda: all(any(folder.glob("*.bin")) for folder in kept), "two contributions", PATIENCE_S)
    seen = b"\n".join(map(shown, [play.processes[0], *pushes]))
    said = _failures(play, late)
    pushes.append(play.push_candidly(late, stages[late], play.root))
    for push in pushes:
        play.ends(push, 0)
    play.published("sum")
    said += _reports(play)
    play.processes[0].stop()

    own = {name: _vector(name, updates[name], stages[name]) for name in SITES}
    brief = [each for name in SITES for each in _ephemeral(name, stages[name])]
    assert len(brief) == len(SITES) * EPHEMERAL
    everything = [*lasting, *own.values(), *brief]
    assert sentinels.found_in(seen, everything) == []
    assert sentinels.found_in(said.encode(), everything) == []
    assert sentinels.search(play.root, everything, by_design=_by_design(play.root, own)) == []
    for name in early:
        assert _stored(stages[name] / "disk", "", everything, {name: own[name]}) == {own[name]}
    assert _stored(stages[late] / "disk", f"{late}/", everything, own) >= {own[late]}


def _stored(
    disk: Path, prefix: str, everything: Sequence[Sentinel], own: Mapping[str, Sentinel]
) -> set[Sentinel]:
    """What was found on a copied disk: vectors alone, in the folders of contributions alone."""
    finds = sentinels.search(disk, everything, by_design=_by_design(disk, own))
    folders = {f"{prefix}state/contributions"} | ({f"{name}/state/contributions" for name in SITES})
    assert {find.where.rpartition("/")[0] for find in finds} <= folders
    found = {find.sentinel for find in finds}
    assert found <= set(own.values())
    return found


def _job(play: Locked) -> Path:
    path = play.root / "sum.toml"
    path.write_text(
        f'name = "sum"\nrounds = 1\nbits = {BITS}\n[vector]\nbound = 1.0\n[vector.shapes]\nx = [{SIZE}]\n'
        "[deadlines]\ntraining_s = 600\nphase_s = 120\n"
    )
    return path


def _by_design(root: Path, own: Mapping[str, Sentinel]) -> Callable[[Path, Sentinel], bool]:
    allowed = {(root / name / "update.safetensors", vector.name) for name, vector in own.items()}
    allowed |= {(root / "update.safetensors", vector.name) for vector in own.values()}
    allowed.add((root / "passphrase", "the passphrase"))

    def check(path: Path, sentinel: Sentinel) -> bool:
        return (path, sentinel.name) in allowed

    return check


def _vector(name: str, values: list[float], stage: Path) -> Sentinel:
    words = np.load(stage / "words.npy")
    return sentinels.of_vector(f"the update of {name}", values, words, word_bits(len(SITES), BITS))


def _ephemeral(name: str, stage: Path) -> list[Sentinel]:
    lines = [line.rsplit(" ", 1) for line in (stage / "secrets").read_text().splitlines()]
    return [sentinels.of_secret(f"{what} of {name}", bytes.fromhex(digits)) for what, digits in lines]


def _failures(play: Locked, name: str) -> str:
    """What two commands of a site say as they fail, with a traceback."""
    wrong = play.root / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("not the one\n")
    unfit = play.root / "unfit.safetensors"
    save_file({"x": np.full(SIZE + 1, 0.5, np.float32)}, unfit)
    command = ("--debug", "client", "push", "--config", play.config(name))
    said = ""
    for update, passphrase, error in ((unfit, play.passphrase, 2), (unfit, wrong, 31)):
        failed = secfed(*command, "--update", update, "--passphrase-file", passphrase)
        assert failed.code == error, failed.err
        assert "Traceback" in failed.err
        said += failed.out + failed.err
    return said


def _reports(play: Locked) -> str:
    """What people and their monitors ask for after a round."""
    locked = ("--passphrase-file", play.passphrase)
    said = play.done("status", "--json", "--config", play.federation / "admin.toml", *locked).out
    for page in ("metrics", "healthz", "readyz"):
        with urllib.request.urlopen(f"http://127.0.0.1:{play.ops_port}/{page}", timeout=10) as shown_page:
            said += shown_page.read().decode()
    for form in ("text", "json", "html"):
        said += play.done("report", "--config", play.config(SITES[0]), "--format", form).out
    return said
