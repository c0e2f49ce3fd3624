"""How rounds ended: made durable, published as a folder, told to members, countersigned, fetched.

The order is the promise: the result is in the store before its end is a fact, the end is a fact
before the folder appears and before anybody is told, and a restart writes the folder of an end
that has none. So nothing is ever published that a restart could still take back.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from secfed.crypto.labels import Label
from secfed.errors import AuthenticationError, PeerError
from secfed.identity import signed
from secfed.identity.roles import Role
from secfed.identity.signed import Signed
from secfed.ids import NO_DIGEST, ClientId, Digest, RoundId
from secfed.rounds import standing
from secfed.rounds.archive import archive_digest
from secfed.rounds.attempt import discard_uploads
from secfed.rounds.exchange import Ready, Said
from secfed.rounds.house import House
from secfed.rounds.jobs import Ending, Job, JobBook
from secfed.rounds.publish import Facts, Formed, round_folder, write_folder
from secfed.rounds.round import OpenRound
from secfed.secagg.aggregator import AggregatorSession
from secfed.secagg.frozen import Signatures
from secfed.secagg.manifest import Manifest, manifest_context
from secfed.secagg.messages import Countersignature, Outcome, OutcomeNotice
from secfed.secagg.record import AggregatorRecord, frozen_key

__all__ = ["Results"]

_TRIES = 3
"""How often a site is told of a round's end whose answer to it cannot be verified."""


class Results:
    """All ended rounds of one aggregator.

    Raises:
        StorageError: A folder that a crash left unwritten cannot be written now.
    """

    def __init__(self, house: House, book: JobBook) -> None:
        self._house, self._book = house, book
        self._ended: dict[Digest, tuple[Job, Ending]] = {}
        self._files: set[Digest] = set()
        self._folders: dict[Digest, Path] = {}
        self._told: set[tuple[ClientId, Digest]] = set()
        self._deaf: set[tuple[ClientId, Digest]] = set()
        self._tries: Counter[tuple[ClientId, Digest]] = Counter()
        written = book.folders()
        for job in book.jobs.values():
            for ending in job.endings:
                if ending.published and (job.id, ending.round) not in written:
                    self._publish(job, ending)
                self._enter(job, ending)
            for ending in job.endings[-1:]:
                self._forget(ending)  # a crash may have come between

    # -- a round ends --------------------------------------------------------------------------

    def close(
        self, round_: OpenRound, session: AggregatorSession, formed: Formed | None, reason: str
    ) -> Ending:
        """Make a round's end durable, publish it if there is something, and let it be told.

        Args:
            formed: The result in the store; None if the round was aborted.
            reason: Why it was.

        Raises:
            StorageError: The disk refuses it; a restart goes on from here.
        """
        job, house = round_.job, self._house
        included = tuple(session.site(member) for member in session.survivors) if formed else ()
        outcome = Outcome(
            round_id=round_.round_id,
            published=formed is not None,
            survivors=included,
            dropped=session.dropped,
            sum=formed.sum if formed else NO_DIGEST,
            transcript=formed.transcript if formed else NO_DIGEST,
            result=formed.result if formed else NO_DIGEST,
        )
        ending = Ending(
            round=round_.proposal.plan.round,
            attempt=session.manifest.attempt,
            h=session.h,
            statement=house.sign(Label.SIGN_OUTCOME, house.codec.encode(outcome), context=session.h),
            published=outcome.published,
            included=included,
            dropped=tuple(round_.absent(included, session)),
            lost=tuple(
                (item.site, f"{item.phase}: {item.reason}") for item in session.lost if item.site in included
            ),
            sum=outcome.sum,
            transcript=outcome.transcript,
            result=outcome.result,
            weight_sum=formed.weight_sum if formed else 0,
            saturated=formed.saturated if formed else 0,
            asked=len(round_.seats),
            seconds=round(house.clock.monotonic() - round_.opened),
            reason=reason,
        )
        self._book.close_round(job, ending)
        if ending.published:
            self._publish(job, ending)
        if not (house.retain_uploads and ending.published):
            discard_uploads(house, ending.h)
        self._forget(ending)
        self._enter(job, ending)
        delta = None if job.plan.dp is None else job.plan.dp.delta
        state = standing.round_state(job, ending)
        house.observer.note("round_ended", job=job.id, state=state, rounds=job.plan.rounds, delta=delta)
        return ending

    def _forget(self, ending: Ending) -> None:
        """Drop what served to finish the attempt: 17 MB of a thousand members. Its signatures stay."""
        self._house.decisions.forget(frozen_key(ending.h))

    def _enter(self, job: Job, ending: Ending) -> None:
        self._ended[ending.h] = (job, ending)
        if ending.published:
            self._files.add(ending.result)
            folder = round_folder(self._house.output, job.id, ending.round)
            self._folders[archive_digest(ending.result)] = folder

    def _publish(self, job: Job, ending: Ending) -> None:
        """The folder, from durable facts alone; a folder that stands is left as it is."""
        house, record = self._house, AggregatorRecord(self._house.decisions)
        proposal = self._book.round_plan(job, ending.round)
        statement = dict(record.attempts(RoundId(job.id, ending.round)))[ending.attempt]
        manifest = house.codec.decode(Manifest, statement)
        certified = Signatures.from_bytes(record.certified(ending.h) or b"[]")
        if proposal is None:
            raise ValueError(f"round {ending.round} of {job.id} ended without a plan")
        write_folder(
            house,
            Facts(
                job=job,
                proposal=proposal,
                ending=ending,
                manifest=house.sign(Label.SIGN_MANIFEST, statement, context=manifest_context(manifest)),
                signatures=tuple((manifest.cohort[member], text) for member, text in certified.signatures),
            ),
        )
        self._book.folder_written(job, ending.round)

    # -- members hear of it --------------------------------------------------------------------

    def knows(self, h: Digest) -> bool:
        """Whether the attempt with this digest ended its round."""
        return h in self._ended

    def outcome_for(self, site: ClientId, said: Said | None) -> OutcomeNotice | None:
        """The end of the round that this site still holds a contribution for."""
        if not isinstance(said, Ready) or said.job not in self._book.jobs:
            return None
        endings = self._book.jobs[said.job].endings
        if said.round > len(endings):
            return None
        ending = endings[said.round - 1]
        if not self.knows(ending.h) or (site, ending.h) in self._deaf:
            return None
        self._told.add((site, ending.h))
        return OutcomeNotice(ending.h, ending.statement)

    def countersigned(self, site: ClientId, h: Digest, statement: Signed) -> bool:
        """Keep a member's signature under what it was told; False for any other late reply.

        Something that is no countersignature is left alone a few times, since a reply of the
        attempt may have been overtaken by its end; then the site is told no more.
        """
        job, ending = self._ended[h]
        try:
            body = signed.open_(
                statement,
                self._key(site),
                Label.SIGN_COUNTERSIGN,
                context=h,
                sender=site,
                recipient=None,
            )
            seen = self._house.codec.decode(Countersignature, body)
        except PeerError:
            self._tries[site, h] += 1
            if self._tries[site, h] >= _TRIES:
                self._deaf.add((site, h))
            return False
        if seen == Countersignature(ending.sum, ending.transcript):
            self._book.countersigned(ending, site, statement)
        else:
            self._house.observer.note("countersignature_differs", job=job.id, site=site, round=ending.round)
        return True

    def _key(self, site: ClientId) -> bytes:
        """Identity key of an active client; none of anybody else."""
        try:
            member = self._house.roster().member(site)
        except AuthenticationError:
            return b""
        return member.identity_key if member.active and member.role is Role.CLIENT else b""

    def refused(self, site: ClientId, h: Digest, rule: str) -> None:
        """A member does not accept a round's end; it is not told again.

        What it refused before it was told is a request that the end overtook.
        """
        if (site, h) not in self._told:
            return
        self._deaf.add((site, h))
        self._house.observer.note("outcome_refused", job=self._ended[h][0].id, site=site, rule=rule)

    # -- members fetch it ----------------------------------------------------------------------

    def announced(self, digest: Digest) -> bool:
        """Whether this is a result that was told to members."""
        return digest in self._files

    def archived(self, digest: Digest) -> Path | None:
        """The folder of the published round that is asked for by its archive's digest, or None."""
        return self._folders.get(digest)

    @property
    def kept(self) -> set[Digest]:
        """Attempts whose masked uploads stay, for a reviewer."""
        if not self._house.retain_uploads:
            return set()
        return {h for h, (_, ending) in self._ended.items() if ending.published}
