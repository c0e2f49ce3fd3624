"""Signed plans: one text for one plan, and only from whom it must come."""

from __future__ import annotations

from datetime import timedelta

import pytest

from secfed.crypto.labels import Label
from secfed.errors import CertificateExpiredError, PeerError
from secfed.identity import signed
from secfed.limits import JOB_PLAN_BYTES_MAX
from secfed.rounds import proposal


@pytest.fixture
def job(federation):
    return federation.propose(federation.plan())[0]


def resign(federation, job, change):
    """The plan's text, changed, under the admin's good signature."""
    text = change(signed.unverified_text(job.text, what="a plan"))
    return signed.sign_text(federation.admin, Label.SIGN_JOB_PLAN, text)


def test_a_plan_comes_back_as_it_was_signed(federation, job):
    opened = proposal.open_job_plan(job.text, federation.roster, federation.now)
    assert opened == job
    assert opened.job == "sum-1"
    assert proposal.vector_words(job.plan) == 1 + 1 + 7


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b'  "rounds": 3,', b'  "rounds": 9,\n  "rounds": 3,'),
        lambda text: text.replace(b'"rounds": 3', b'"rounds": 3.0'),
        lambda text: text.replace(b'"rounds": 3', b'"rounds":  3'),
        lambda text: text.replace(b'"rounds": 3,', b'"rounds": 3, "later": 1,'),
        lambda text: text.replace(b'"bound": "4"', b'"bound": "1e9"'),
        lambda text: b"[]\n",
        lambda text: b"\xff\n",
    ],
    ids=["duplicate", "float", "spelling", "unknown", "exponent", "list", "not-utf8"],
)
def test_another_spelling_of_a_signed_plan_is_refused(federation, job, change):
    """Even an admin's signature does not make a second reading possible."""
    with pytest.raises(PeerError):
        proposal.open_job_plan(resign(federation, job, change), federation.roster, federation.now)


def test_a_plan_longer_than_any_is_refused_unread(federation, job):
    with pytest.raises(PeerError, match="longer"):
        proposal.open_job_plan(job.text + bytes(JOB_PLAN_BYTES_MAX), federation.roster, federation.now)


def test_a_plan_after_the_rosters_end_is_refused(federation, job):
    later = federation.roster.not_after + timedelta(seconds=1)
    with pytest.raises(CertificateExpiredError):
        proposal.open_job_plan(job.text, federation.roster, later)


def test_a_round_plan_is_for_one_job_plan(federation, job):
    """The digest in it is of the job plan's exact bytes: another job of the same name has another."""
    _, round_ = federation.propose(federation.plan())
    key = federation.aggregator.public
    assert proposal.open_round_plan(round_.text, key, job) == round_
    other = federation.propose(federation.plan(bound="3"))[0]
    with pytest.raises(PeerError, match="another job plan"):
        proposal.open_round_plan(round_.text, key, other)
    with pytest.raises(PeerError, match="signature"):
        proposal.open_round_plan(round_.text, federation.admin.public, job)


@pytest.mark.parametrize("side", ["-1", "0", "9" * 4000, str(2**31 + 1)], ids=lambda side: side[:3])
def test_a_plan_with_impossible_sides_is_refused(federation, job, side):
    def change(text):
        return text.replace(b"    2,", f"    {side},".encode()).replace(
            b"      2,", f"      {side},".encode()
        )

    changed = resign(federation, job, change)
    assert changed != job.text
    with pytest.raises(PeerError, match="malformed"):
        proposal.open_job_plan(changed, federation.roster, federation.now)
