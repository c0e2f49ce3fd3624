"""Right key, wrong role: every kind of member, and a stranger, makes every call.

The bodies are as right as an insider could make them: the job plan that is to be started bears
the honest admin's real signature, so nothing but the caller's role stands in the way. Judged by
what the calls return and by what they change.
"""

from __future__ import annotations

from datetime import timedelta

from secfed.attack.finding import Evidence, Report
from secfed.attack.people import ADMIN, AGGREGATOR, AUDITOR
from secfed.attack.town import Refusal, Town
from secfed.attack.venue import Venue
from secfed.identity import keyfile
from secfed.identity.keyfile import MemberKeys
from secfed.identity.roles import Role
from secfed.identity.signed import Signed
from secfed.ids import NO_DIGEST, ClientId, JobId
from secfed.rounds.exchange import Declined, JobCommand
from secfed.rounds.plan_address import plan_address
from secfed.rounds.proposal import sign_job_plan
from secfed.transport.hello import GREETING
from secfed.wire import calls, service, sums
from secfed.wire import status as wire_status

__all__ = ["run"]

_PROMISED: dict[str, frozenset[str]] = {
    "client": frozenset({"Exchange", "Upload", "Download", "GetRoster", "GetStatus"}),
    "admin": frozenset({"Download", "GetRoster", "StartJob", "ControlJob", "GetStatus"}),
    "auditor": frozenset({"GetRoster", "GetStatus"}),
    "aggregator": frozenset(),
    "stranger": frozenset(),
}
"""Who is promised what, written down a second time: the product's own table is what is attacked."""

_JOB, _COUP = JobId("sum"), JobId("coup")


def run(venue: Venue, report: Report) -> None:
    """Make every call that a role is not promised, and look at what came of it."""
    with Town(venue) as town:
        town.start_job(_JOB)
        for role, keys in _callers(town).items():
            _call_all(town, role, keys, report.part(role))
        _impersonate(town, report.part("another's name"))


def _call_all(town: Town, role: str, keys: MemberKeys, evidence: Evidence) -> None:
    """All calls that this role is not promised."""
    refusals: dict[str, list[str]] = {}
    before = _jobs(town)
    for method in service.METHODS:
        if method in _PROMISED[role]:
            continue
        told = town.call(keys, method, _body(town, method))
        kind = f"{told.code.name} {type(told.error).__name__}" if isinstance(told, Refusal) else "answered"
        refusals.setdefault(kind, []).append(method)
        if not isinstance(told, Refusal):
            evidence.gained(f"an answer to {method} with the key of a {role}")
        elif not _at_the_door(told):
            evidence.gained(f"a way past the role of {role} in {method}: {told}")
    for kind, methods in refusals.items():
        evidence.saw(f"{', '.join(methods)}: {kind}")
    _look_at_jobs(town, before, evidence)


def _callers(town: Town) -> dict[str, MemberKeys]:
    """One of each role, and somebody whom no roster lists."""
    keys, owner = town.people.keys, town.owner
    stranger = keyfile.create(
        town.root / "stranger.key",
        site=ClientId("stranger"),
        role=Role.CLIENT,
        passphrase=None,
        now=owner.now,
        validity=timedelta(days=1),
    )
    named = {"client": town.people.sites[0], "admin": ADMIN, "auditor": AUDITOR, "aggregator": AGGREGATOR}
    return {role: keys[name] for role, name in named.items()} | {"stranger": stranger}


def _body(town: Town, method: str) -> bytes:
    """What somebody who may would send."""
    nothing = Signed(b"", bytes(64))
    match method:
        case "Exchange":
            return sums.encode_said(Declined(_JOB, 1))  # the one thing to say that is answered at once
        case "Upload":
            return calls.encode_upload_header(calls.UploadHeader(NO_DIGEST, nothing))
        case "Download":
            return calls.encode_download(plan_address(_JOB))
        case "StartJob":
            plan = sign_job_plan(town.people.keys[ADMIN].signing, town.plan(_COUP))
            return calls.encode_start_job(plan.text)
        case "ControlJob":
            return calls.encode_job_command(JobCommand(_JOB, "stop"))
        case "GetStatus":
            return wire_status.encode_status_request(None)
        case _:
            return b""


def _at_the_door(refusal: Refusal) -> bool:
    """Whether it was refused for who called: by TLS, or by the hello."""
    return refusal.code.name in ("UNAVAILABLE", "UNAUTHENTICATED", "PERMISSION_DENIED")


def _impersonate(town: Town, evidence: Evidence) -> None:
    """A client's connection, and a hello in the admin's name under the client's own signature."""
    keys = town.people.keys
    site, admin = keys[town.people.sites[0]], keys[ADMIN]
    borrowed = MemberKeys(
        admin.site, admin.role, site.signing, site.tls_key_pem, site.certificate, site.created, site.expires
    )
    for method in ("StartJob", "ControlJob", GREETING):
        told = town.call(borrowed, method, _body(town, method))
        words = str(told) if isinstance(told, Refusal) else "answered"
        evidence.saw(f"{site.site} in the name of {admin.site}: {method}: {words}")
        if not isinstance(told, Refusal):
            evidence.gained(f"an answer to {method} in the name of {admin.site}")


def _jobs(town: Town) -> dict[JobId, str]:
    """How all jobs stand, as an auditor sees it."""
    with town.connect(AUDITOR) as auditor:
        return {job.job: job.state for job in auditor.status().jobs}


def _look_at_jobs(town: Town, before: dict[JobId, str], evidence: Evidence) -> None:
    """What the calls changed."""
    after = _jobs(town)
    if after == before:
        evidence.saw("afterwards the jobs stand as before")
    elif _COUP not in before and _COUP in after:
        evidence.gained(f"a job that no admin started: {_COUP} is {after[_COUP]}")
    if after[_JOB] != before[_JOB]:
        evidence.gained(f"a job that no admin stopped: {_JOB} is {after[_JOB]}")
