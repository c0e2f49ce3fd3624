"""Secrets in logs, state and dumps: a round is run, and everything that others could read is searched.

Looked for are the passphrase, every member's private keys and every site's vector, in any form;
looked through are all files of the federation with their names, logs at their most talkative, the
folders for temporary files and of the home, and /proc while the processes run. By design a vector
stands in the site's own file, and the passphrase in the file that it is read from.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from numpy.typing import NDArray

from secfed.attack import procfs, sentinels
from secfed.attack.clients import UPDATE_FILE
from secfed.attack.daemons import AggregatorProcess, Program, uninterrupted
from secfed.attack.finding import Evidence, Report
from secfed.attack.sentinels import Sentinel
from secfed.attack.town import BITS, BOUND, Town
from secfed.attack.venue import Venue
from secfed.encoding.contribution import encode_contribution
from secfed.encoding.fixedpoint import FixedPoint, word_bits
from secfed.errors import NetworkError
from secfed.identity import pkcs8
from secfed.identity.keyfile import MemberKeys
from secfed.ids import ClientId, JobId

__all__ = ["run"]

_JOB = JobId("sum")


_HEARD_S = 10.0
"""Within what clients on threads hear of a round's end, seconds; whoever waits is told at once."""


def run(venue: Venue, report: Report) -> None:
    """Run a round under passphrases, and search."""
    state, logs = report.part("state and files"), report.part("logs and output")
    passphrase = secrets.token_urlsafe(24)
    folders = {name: venue.root / name.lower() for name in ("HOME", "TMPDIR")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    extra = {name: str(folder) for name, folder in folders.items()}
    town = Town(venue, passphrase=passphrase, log_level="debug", extra=extra)
    vectors = {site: town.vector(site) for site in town.people.sites}
    lasting = [sentinels.of_text("the passphrase", passphrase)]
    for keys in town.people.keys.values():
        lasting += _private(keys)
    every = [*lasting, *(_own(site, vector, len(vectors)) for site, vector in vectors.items())]
    with town, ExitStack() as ends:
        town.start_job(_JOB)
        programs = _take_part(town, extra, every, report, ends)
        town.ended(_JOB)
        _until_heard(town, programs)
        if town.published(_JOB) is None:
            raise NetworkError(
                "a round in which nobody did anything wrong has no result: this proves nothing"
            )
        said = town.aggregator.output.encode()
        town.stop()
        _enter(logs, "what the aggregator printed", sentinels.found_in(said, every))
        _search(venue, every, state, logs)


def _search(venue: Venue, every: list[Sentinel], state: Evidence, logs: Evidence) -> None:
    """Look through all files; what a program printed or logged lies in some of them."""
    finds = sentinels.search(venue.root, every, by_design=_by_design)
    for find in finds:
        (logs if _is_log(Path(find.where)) else state).gained(str(find))
    files = [path for path in venue.root.rglob("*") if path.is_file()]
    for evidence, logged in ((state, False), (logs, True)):
        searched = sum(_is_log(path) is logged for path in files)
        found = sum(_is_log(Path(find.where)) is logged for find in finds)
        evidence.saw(f"searched {searched} files for {len(every)} secrets: {found} found")


def _is_log(path: Path) -> bool:
    return path.suffix in (".log", ".jsonl")


# -- what is looked for ------------------------------------------------------------------------


def _private(keys: MemberKeys) -> list[Sentinel]:
    tls = pkcs8.read(keys.tls_key_pem, None)
    encoded = tls.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return [
        sentinels.of_secret(f"the identity key of {keys.site}", keys.signing.seed),
        sentinels.of_secret(f"the TLS key of {keys.site}", encoded),
    ]


def _own(site: ClientId, vector: NDArray[np.float64], sites: int) -> Sentinel:
    words = encode_contribution(vector, 1, (0,), FixedPoint(BOUND, BITS))
    return sentinels.of_vector(f"the vector of {site}", vector.tolist(), words, word_bits(sites, BITS))


def _by_design(path: Path, sentinel: Sentinel) -> bool:
    if path.name == UPDATE_FILE:
        return sentinel.name == f"the vector of {path.parent.name}"
    return (path.name, sentinel.name) == ("passphrase", "the passphrase")


# -- where it is looked for --------------------------------------------------------------------


def _take_part(
    town: Town, extra: dict[str, str], every: list[Sentinel], report: Report, ends: ExitStack
) -> list[Program]:
    """All sites take part; where they are processes, what the system shows of them is searched.

    `ends` stops those that still run when the attack is over, or was broken off.
    """
    if not isinstance(town.aggregator, AggregatorProcess):
        for site in town.people.sites:
            town.client(site)
        _look_into([os.getpid()], every, report.part("/proc"))
        report.part("core dumps").saw("all victims are threads: what this process may dump is its own affair")
        return []
    *early, last = town.people.sites
    programs = [_push(town, site, extra, ends) for site in early]
    town.until(lambda: _ready(town) == len(early), "sites that are ready")
    pids = [program.pid for program in (town.aggregator.program, *programs)]
    _look_into(pids, every, report.part("/proc"))
    _look_at_limits(pids, report.part("core dumps"))
    return [*programs, _push(town, last, extra, ends)]


def _until_heard(town: Town, programs: list[Program]) -> None:
    """Let every site hear the round's end, with which its contribution goes; what is kept then stays."""
    if programs:
        town.until(lambda: all(program.code is not None for program in programs), "the sites' own end")
        return
    deadline = time.monotonic() + _HEARD_S
    while any(town.root.rglob("contributions/*.bin")) and time.monotonic() < deadline:
        time.sleep(0.05)


def _push(town: Town, site: ClientId, extra: dict[str, str], ends: ExitStack) -> Program:
    config = town.people.client_toml(site, town.address)
    text = config.read_text(encoding="utf-8").replace('log_level = "info"', 'log_level = "debug"')
    config.write_text(text, encoding="utf-8")
    update = town.people.home(site) / UPDATE_FILE
    arguments = ["client", "push", "--config", str(config), "--update", str(update)]
    arguments += ["--passphrase-file", str(town.secret)]
    with uninterrupted():
        program = Program(town.people.home(site) / "output.log", arguments, extra, town.victims.program)
        ends.callback(program.stop)
    return program


def _ready(town: Town) -> int:
    return sum(member.state == "ready" for member in town.job_state(_JOB).members)


def _look_into(pids: list[int], every: list[Sentinel], evidence: Evidence) -> None:
    if not procfs.FOLDER.is_dir():
        return  # a part that saw nothing was not carried out
    found = 0
    for pid in pids:
        for entry, shown in procfs.exposed(pid).items():
            finds = list(sentinels.found_in(shown, every))
            found += len(finds)
            _enter(evidence, f"/proc/PID/{entry}", finds)
    evidence.saw(f"searched /proc of {len(pids)} processes for {len(every)} secrets: {found} found")


def _look_at_limits(pids: list[int], evidence: Evidence) -> None:
    if not procfs.FOLDER.is_dir():
        return  # a part that saw nothing was not carried out
    limits = {procfs.core_limits(pid) for pid in pids}
    sizes = ", ".join(sorted({soft for soft, _hard in limits}))
    evidence.saw(f"bytes that a core dump of {len(pids)} processes may have: {sizes}")
    if limits != {("0", "0")}:
        evidence.gained("a core dump with all keys, should a process crash")


def _enter(evidence: Evidence, where: str, found: Iterable[Sentinel]) -> None:
    for each in found:
        evidence.gained(f"{each.name} in {where}")
