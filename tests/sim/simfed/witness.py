"""Sees every message and every result, keeps what it saw, and has the invariants checked on it.

It stands outside: it reads what leaves and arrives, the files of ledgers and folders, and nothing of
what the program keeps in memory. What holds of it stands in `invariants`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from simfed import invariants
from simfed.invariants import Group, Keys, Sites
from simfed.knowledge import Knowledge
from simfed.nodes import WILLING, AggregatorNode, ClientNode
from simfed.owner import Owner, group
from simfed.people import ARRAY, BOUND, JOB

from secfed.crypto import signing
from secfed.crypto.labels import Label
from secfed.encoding.fixedpoint import FixedPoint
from secfed.identity import roster as rosters
from secfed.identity.roster import Roster
from secfed.identity.signed import Signed, message
from secfed.ids import ClientId, Digest, JobId
from secfed.privacy import ledger
from secfed.rounds.client import Upload
from secfed.rounds.exchange import Answer, Ask, Said, Told
from secfed.rounds.jobs import Ending, JobBook
from secfed.rounds.plan import JobPlan, RoundPlan
from secfed.rounds.proposal import JobProposal
from secfed.rounds.publish import MANIFEST_FILE, SUM_FILE
from secfed.secagg.manifest import Manifest, attempt_digest
from secfed.secagg.messages import (
    Bundle,
    Bundles,
    Confirm,
    ConfirmRequest,
    OpenAttempt,
    OutcomeNotice,
    ShareAnswers,
    SignedReply,
    UnmaskRequest,
)
from secfed.secagg.params import Params
from secfed.secagg.record import AggregatorRecord
from secfed.wire.codec import ProtoCodec

Place = tuple[Digest, ClientId]


@dataclass
class Witness:
    """What was seen so far.

    Attributes:
        owned: Sites that are the adversary's; nothing is asked of them.
        taken: The newest roster of each site, as it lay on its disk.
        joined: Under which roster a site joined an attempt.
        followed: The rosters that the aggregator went by before an attempt's survivors were durable.
        broken: An invariant that broke where no exception gets through; `raise_broken` says so.
    """

    owner: Owner
    job: JobProposal
    owned: Sites = frozenset()
    broken: AssertionError | None = None
    codec: ProtoCodec = field(default_factory=ProtoCodec)
    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    known: dict[Digest, Knowledge] = field(default_factory=dict)
    words: dict[tuple[int, ClientId], NDArray[np.uint32]] = field(default_factory=dict)
    packed: dict[Place, bytes] = field(default_factory=dict)
    acknowledged: set[Place] = field(default_factory=set)
    adverts: dict[Place, bytes] = field(default_factory=dict)
    answers: dict[tuple[int, ClientId], bytes] = field(default_factory=dict)
    confirms: dict[Place, bytes] = field(default_factory=dict)
    countersigned: dict[Place, bytes] = field(default_factory=dict)
    over: dict[ClientId, set[int]] = field(default_factory=lambda: defaultdict(set))
    ledgers: dict[ClientId, bytes] = field(default_factory=dict)
    outcomes: dict[int, bytes] = field(default_factory=dict)
    folders: dict[int, dict[str, bytes]] = field(default_factory=dict)

    taken: dict[ClientId, Roster] = field(default_factory=dict)
    joined: dict[Place, Roster] = field(default_factory=dict)
    followed: dict[Digest, list[Roster]] = field(default_factory=lambda: defaultdict(list))
    _colluders: dict[frozenset[Group], list[Keys]] = field(default_factory=dict)

    def raise_broken(self) -> None:
        """After every step."""
        if self.broken is not None:
            raise self.broken

    # -- rosters -------------------------------------------------------------------------------

    def took(self, node: ClientNode) -> None:
        """A site was started, or was handed a roster: what lies on its disk from then on counts for it."""
        if node.name in self.owned:
            return
        roster = rosters.verify(node.taken, self.owner.people.roster_key.public)
        genuine = [each.digest for each in self.owner.versions]
        invariants.no_downgrade(self.taken.get(node.name), roster, genuine)
        self.taken[node.name] = roster

    def follows(self, aggregator: AggregatorNode) -> None:
        """An honest aggregator goes by another roster now: what it has not frozen ends under that."""
        decisions = aggregator.house.decisions
        roster, record = aggregator.rosters.current, AggregatorRecord(decisions)
        over = {ending.round for ending in JobBook(decisions).find(JobId(JOB)).endings}
        for h, manifest in self.manifests.items():
            if manifest.round not in over and record.frozen(h) is None:
                self.followed[h].append(roster)

    def _under(self, manifest: Manifest) -> Roster:
        """The roster that a manifest names; the first one for a name that nobody published."""
        return self.owner.named(manifest.roster) or self.owner.versions[0]

    # -- what the aggregator tells -------------------------------------------------------------

    def told(self, told: Told) -> None:
        """Something that an honest aggregator told a client."""
        if not isinstance(told, Ask):
            return
        if isinstance(told.request, OpenAttempt):
            statement = told.request.manifest.statement
            invariants.i11_one_manifest(self._enter(statement), attempt_digest(statement), self.manifests)
        if isinstance(told.request, OutcomeNotice):
            number, statement = self.manifests[told.attempt].round, told.request.statement.statement
            first = self.outcomes.setdefault(number, statement)
            invariants.i6_published_never_changes(first, statement, "an outcome")

    # -- what leaves a client ------------------------------------------------------------------

    def begins(self, node: ClientNode, plan: JobPlan, round_plan: RoundPlan) -> None:
        """A site is about to touch its data: whatever breaks here is kept, as nothing gets through."""
        try:
            invariants.i1_charge_before_release(self._ledger(node), round_plan.round)
            self._decided(node)
            invariants.i10_clocks_never_permit(round_plan.round, self.over[node.name], "training")
        except AssertionError as broken:
            self.broken = self.broken or broken

    def _decided(self, node: ClientNode) -> None:
        bound = node.site.decisions.get(f"job-plan/{JOB}")
        invariants.i8_the_client_decides(node.policy == WILLING, bound, self.job.digest)

    def said(self, node: ClientNode, said: Said) -> None:
        """Something that left an honest client, in answer to what it heard last."""
        site, asked = node.name, node.heard
        if not isinstance(said, Answer) or not isinstance(asked, Ask):
            return
        match asked.request, said.reply:
            case OpenAttempt(manifest), SignedReply(statement):
                opened, h = self._enter(manifest.statement), attempt_digest(manifest.statement)
                self._join(h, node, opened, statement.statement)
                invariants.i10_clocks_never_permit(opened.round, self.over[site], "an advert")
            case _, Bundle(index):
                h = self._attempt(site, Label.SIGN_BUNDLE, index)
                self.known[h].dealt(self.manifests[h].index_of(site), said.reply)
            case ConfirmRequest(), SignedReply(statement):
                h = self._attempt(site, Label.SIGN_CONFIRM, statement)
                self._confirm(h, site, statement.statement)
            case UnmaskRequest(), SignedReply(statement):
                h = self._attempt(site, Label.SIGN_UNMASK, statement)
                self._answer(h, site, statement.statement)
            case OutcomeNotice(), SignedReply(statement):
                h = self._attempt(site, Label.SIGN_COUNTERSIGN, statement, node.key.public)
                self._countersign(h, site, statement.statement)
            case _:
                pass

    def _join(self, h: Digest, node: ClientNode, manifest: Manifest, advert: bytes) -> None:
        """A site joins an attempt, under the newest roster that it had taken when it was asked."""
        first = self.adverts.setdefault((h, node.name), advert)
        invariants.i4_one_answer(first, advert, "advertised two keys in one attempt")
        if (h, node.name) in self.joined:
            return  # asked again, it says the same again, whatever it has heard since
        roster = rosters.verify(node.joins[advert], self.owner.people.roster_key.public)
        invariants.nobody_revoked(manifest.cohort, roster, "a site joins a cohort")
        invariants.i11_agreed_before_masking(manifest, {"roster": roster.digest})
        self.joined[h, node.name] = roster

    def _attempt(self, site: ClientId, label: Label, statement: Signed, key: bytes | None = None) -> Digest:
        """The attempt that a site's statement belongs to: the one that it is signed under.

        What stands beside it came from the aggregator, and may be a lie.

        Args:
            key: Signed with this one; None for the one that the attempt's roster has.
        """
        for h in reversed(self.manifests):
            known = self.known[h]
            if site not in known.cohort:
                continue
            public = key or known.keys[known.cohort.index(site)]
            covered = message(label, context=h, sender=site, recipient=None, statement=statement.statement)
            if signing.verify(public, covered, statement.signature):
                return h
        raise AssertionError(f"I11: {site} signed something of an attempt that it never joined")

    def _enter(self, statement: bytes) -> Manifest:
        manifest, h = self.codec.decode(Manifest, statement), attempt_digest(statement)
        if h not in self.known:
            roster = self._under(manifest)
            keys = {member.site: member.identity_key for member in roster.members}  # the active entry is last
            known = Knowledge(
                self.params(manifest), manifest.cohort, tuple(keys.get(site, b"") for site in manifest.cohort)
            )
            self.manifests[h], self.known[h] = manifest, known
        return manifest

    def _confirm(self, h: Digest, site: ClientId, statement: bytes) -> None:
        confirm = self.codec.decode(Confirm, statement)
        first = self.confirms.setdefault((h, site), statement)
        invariants.i4_one_answer(first, statement, "signed two survivor sets in one attempt")
        floor = self.known[h].params.floor
        invariants.i9_no_output_below_the_floors(len(confirm.survivors), floor, "a signed set")

    def _answer(self, h: Digest, site: ClientId, statement: bytes) -> None:
        manifest = self.manifests[h]
        first = self.answers.setdefault((manifest.round, site), statement)
        invariants.i4_one_answer(first, statement, "answered twice in one round")
        assert (h, site) in self.packed, "I4: shares from a client whose vector never left"
        self.known[h].answered(manifest.index_of(site), self.codec.decode(ShareAnswers, statement))
        self.over[site].add(manifest.round)
        self._promise(manifest.round)

    def _countersign(self, h: Digest, site: ClientId, statement: bytes) -> None:
        first = self.countersigned.setdefault((h, site), statement)
        invariants.i6_published_never_changes(first, statement, "a countersignature")
        self.over[site].add(self.manifests[h].round)

    def left(self, node: ClientNode, upload: Upload) -> None:
        """A masked vector is about to leave: everything it needs must be durable by now."""
        site = node.name
        h = self._attempt(site, Label.SIGN_MASKED, upload.statement)
        manifest, place = self.manifests[h], (h, site)
        if place in self.packed and self.packed[place] == upload.packed:
            return  # the same again, which was held against all of this
        invariants.i10_clocks_never_permit(manifest.round, self.over[site], "a masked vector")
        contribution = node.site.contributions.load(manifest.round_id)
        assert contribution is not None, "I5: a vector left without its stored contribution"
        words = contribution.words()
        invariants.i5_made_once(self.words.setdefault((manifest.round, site), words), words)
        invariants.i5_masked_once(self.packed.setdefault(place, upload.packed), upload.packed)
        invariants.i5_one_mask_one_plaintext(self.packed, upload.packed)
        entries = self._ledger(node)
        invariants.i1_charge_before_release(entries, manifest.round, attempt=manifest.attempt)
        self._decided(node)
        self._agreed(manifest, contribution.round_plan, self.joined[place])
        self._masked(node, h, manifest)

    def left_from_a_liar(self, node: ClientNode, upload: Upload) -> None:
        """A vector of the adversary's own: only what the sum must show of it is noted."""
        h = self._attempt(node.name, Label.SIGN_MASKED, upload.statement)
        manifest = self.manifests[h]
        contribution = node.site.contributions.load(manifest.round_id)
        assert contribution is not None
        self.words[manifest.round, node.name] = contribution.words()
        self.packed[h, node.name] = upload.packed

    def _agreed(self, manifest: Manifest, round_plan: Digest, roster: Roster) -> None:
        plan = self.job.plan
        agreed = {
            "federation": roster.federation,
            "roster": roster.digest,
            "corrupt": roster.corrupt,
            "job_plan": self.job.digest,
            "round_plan": round_plan,
            "layout": plan.layout.digest,
        }
        invariants.i11_agreed_before_masking(manifest, agreed)

    def _masked(self, node: ClientNode, h: Digest, manifest: Manifest) -> None:
        asked = node.heard.request if isinstance(node.heard, Ask) else None
        assert isinstance(asked, Bundles), "I11: a vector left that nobody asked for"
        share_set = frozenset(item.sender for item in asked.bundles)
        self.known[h].left(manifest.index_of(node.name), share_set)
        self._promise(manifest.round)

    def _ledger(self, node: ClientNode) -> list[dict[str, Any]]:
        """The entries of a ledger as it lies on the disk, without a last line that a crash cut short."""
        data = node.ledger_path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        invariants.i7_ledger_only_grows(self.ledgers.get(node.name, b""), whole)
        self.ledgers[node.name] = whole
        return [json.loads(line)["body"] for line in whole.splitlines()]

    def at_the_end(self, nodes: Iterable[ClientNode]) -> None:
        """Every ledger is verified; what it was at any time before is the beginning of it."""
        for node in nodes:
            if node.name in self.owned or not node.ledger_path.exists():
                continue
            if self._ledger(node):
                invariants.i7_ledger_is_sound(ledger.verify(node.ledger_path, node.key.public))

    def _promise(self, round_: int) -> None:
        """The trust statement, with whoever may collude."""
        attempts = [h for h, manifest in self.manifests.items() if manifest.round == round_]
        known = [self.known[h] for h in attempts]
        groups = frozenset(group(self._under(self.manifests[h])) for h in attempts)
        if groups not in self._colluders:
            owned = frozenset(self.owner.keys[site].public for site in self.owned)
            self._colluders[groups] = invariants.colluders(groups, owned)
        for corrupt in self._colluders[groups]:
            invariants.i4_one_kind_of_share(known, corrupt)
            invariants.never_fewer_than_m(known, corrupt)
            invariants.at_most_one_sum(known, corrupt)

    def acknowledge(self, site: ClientId, h: Digest) -> None:
        """The aggregator said that a vector is safe."""
        self.acknowledged.add((h, site))

    def params(self, manifest: Manifest) -> Params:
        return Params.complete(len(manifest.cohort), self._under(manifest).corrupt, min_cohort=3)

    # -- results -------------------------------------------------------------------------------

    def look(self, aggregator: AggregatorNode) -> None:
        """Read what is published, whatever process is up."""
        folder = aggregator.output / JOB
        if not folder.is_dir():
            return
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            number = int(path.name.removeprefix("round-"))
            content = {part.name: part.read_bytes() for part in path.iterdir()}
            first = self.folders.setdefault(number, content)
            invariants.i6_published_never_changes(first, content, "a published folder")

    def ended(self, endings: list[Ending]) -> None:
        """What the aggregator's book says of the rounds that are over."""
        for ending in endings:
            statement = ending.statement.statement
            first = self.outcomes.setdefault(ending.round, statement)
            invariants.i6_published_never_changes(first, statement, "an outcome")
            manifest = self.manifests[ending.h]
            invariants.i2_nothing_is_lost_in_silence(ending, manifest.cohort, self.acknowledged)
            if ending.published:
                self._published(ending, manifest)
            else:
                assert ending.round not in self.folders, "I6: an aborted round was published"

    def _published(self, ending: Ending, manifest: Manifest) -> None:
        known = self.known[ending.h]
        for roster in self.followed[ending.h]:
            invariants.nobody_revoked(ending.included, roster, "a sum")
        invariants.i9_no_output_below_the_floors(len(ending.included), known.params.floor, "a sum")
        invariants.i3_the_sum_is_of_those_listed(ending, manifest, self.words)
        invariants.i3_the_folder_says_the_same(ending, json.loads(self.folders[ending.round][MANIFEST_FILE]))
        honest = known.places(frozenset(ending.included) - self.owned)
        opened = known.sums(known.places(self.owned))
        assert honest in opened, "the witness does not see a sum that was opened: it would see no other"

    def slots(self, aggregator: AggregatorNode, ending: Ending, value: Callable[[int], float]) -> None:
        """The published file against the oracle."""
        path = Path(aggregator.output) / JOB / f"round-{ending.round:04}" / SUM_FILE
        found = load_file(path)[f"weighted_sum.{ARRAY}"]
        expected = np.zeros(found.size)
        for site in ending.included:
            expected[int(site.removeprefix("site-"))] = value(ending.round)
        invariants.i3_every_slot(found, expected, FixedPoint(BOUND, 16).step * len(ending.included))
