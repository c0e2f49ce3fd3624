"""Sites come and go while the aggregator runs, and only members get what was published."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable

from loopback import VALUE, Loopback, Outcome, assert_exact

SITES = ("hosp-a", "hosp-b", "hosp-c")
NEWCOMER = "hosp-d"
SIZE = 500


def run_job(play: Loopback, job: str, names: tuple[str, ...], value: float) -> None:
    """A job in which exactly these sites take part, with other vectors than the one before."""
    for index, name in enumerate(names):
        play.update(name, index, SIZE, value=value)
    play.job(job, SIZE, phase_s=30)
    found = play.published(job)
    assert found.manifest["included"] == list(names)
    assert found.dropped == {}
    assert_exact(found.total, dict.fromkeys(range(len(names)), value), sites=len(names))


def fetch(play: Loopback, name: str, job: str) -> Outcome:
    """`secfed adapter fetch` by a site."""
    target = play.site(name) / f"fetched-{job}"
    return play.call("adapter", "fetch", "--job", job, "--config", play.config(name), "-o", target)


def test_sites_are_enrolled_and_revoked_while_the_aggregator_runs(build: Callable[..., Loopback]) -> None:
    play = build(*SITES)
    aggregator = play.processes[-1]
    for name in SITES:
        play.start_client(name, "--update", str(play.site(name) / "update.safetensors"))
    run_job(play, "three", SITES, VALUE)

    play.enroll([NEWCOMER])
    play.join(NEWCOMER, "--allow-non-private")
    update = play.site(NEWCOMER) / "update.safetensors"
    newcomer = play.start_client(NEWCOMER, "--update", str(update))
    run_job(play, "four", (*SITES, NEWCOMER), VALUE / 2)
    assert fetch(play, NEWCOMER, "four").code == 0

    play.done("revoke", NEWCOMER, "--dir", play.federation)
    play.ends(newcomer, 23)  # how soon: tests/transport
    _two_lines(newcomer.output)
    for refused in (
        fetch(play, NEWCOMER, "three"),
        play.call("client", "run", "--config", play.config(NEWCOMER)),
    ):
        assert refused.code == 23
        assert NEWCOMER in refused.error
    assert not (play.site(NEWCOMER) / "fetched-three").exists()

    run_job(play, "three-again", SITES, VALUE / 4)
    assert aggregator.running


def _two_lines(output: str) -> None:
    assert len(re.findall(r"^error: ", output, re.M)) == len(re.findall(r"^remedy: ", output, re.M)) == 1
    assert "Traceback" not in output


def test_members_fetch_what_was_published_and_nobody_else(build: Callable[..., Loopback]) -> None:
    play = build(*SITES)
    for name in SITES:
        play.start_client(name, "--update", str(play.site(name) / "update.safetensors"))
    run_job(play, "sum", SITES, VALUE)
    published = play.published("sum").bytes
    for name in SITES[:2]:
        done = fetch(play, name, "sum")
        assert done.code == 0, done.err
        folder = play.site(name) / "fetched-sum"
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == published

    again = fetch(play, SITES[0], "sum")
    assert again.code == 2
    assert "exists already" in again.error
    missing = play.call("adapter", "fetch", "--job", "other", "--config", play.config(SITES[0]))
    assert missing.code == 2

    shutil.copytree(play.site(SITES[2]), play.site("stranger"))
    play.done("keys", "new", "stranger", "--dir", play.site("stranger"), "--no-passphrase")
    text = play.config("stranger").read_text().replace(SITES[2], "stranger")
    play.config("stranger").write_text(text)
    stranger = fetch(play, "stranger", "sum")
    assert stranger.code == 21
    assert "stranger" in stranger.error
    assert not (play.site("stranger") / "fetched-sum").exists()
