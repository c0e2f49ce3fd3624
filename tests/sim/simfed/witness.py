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
from simfed.invariants import Sites
from simfed.knowledge import Knowledge
from simfed.nodes import WILLING, AggregatorNode, ClientNode
from simfed.people import ARRAY, BOUND, JOB, People

from secfed.crypto import signing
from secfed.crypto.labels import Label
from secfed.encoding.fixedpoint import FixedPoint
from secfed.identity.signed import Signed, message
from secfed.ids import ClientId, Digest
from secfed.privacy import ledger
from secfed.rounds.client import Upload
from secfed.rounds.exchange import Answer, Ask, Said, Told
from secfed.rounds.jobs import Ending
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
from secfed.wire.codec import ProtoCodec

Place = tuple[Digest, ClientId]


@dataclass
class Witness:
    """What was seen so far.

    Attributes:
        owned: Sites that are the adversary's; nothing is asked of them.
        broken: An invariant that broke where no exception gets through; `raise_broken` says so.
    """

    people: People
    job: JobProposal
    owned: Sites = frozenset()
    broken: AssertionError | None = None
    codec: ProtoCodec = field(default_factory=ProtoCodec)
    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    known: dict[Digest, Knowledge] = field(default_factory=dict)
    words: dict[tuple[int, ClientId], NDArray[np.uint32]] = field(default_factory=dict)
    packed: dict[Place, bytes] = field(default_factory=dict)
    acknowledged: set[Place] = field(default_factory=set)
    answers: dict[tuple[int, ClientId], bytes] = field(default_factory=dict)
    confirms: dict[Place, bytes] = field(default_factory=dict)
    countersigned: dict[Place, bytes] = field(default_factory=dict)
    over: dict[ClientId, set[int]] = field(default_factory=lambda: defaultdict(set))
    ledgers: dict[ClientId, bytes] = field(default_factory=dict)
    outcomes: dict[int, bytes] = field(default_factory=dict)
    folders: dict[int, dict[str, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sites, most = self.people.clients, self.people.roster.corrupt
        self._colluders = invariants.colluders(sites, self.owned, most)

    def raise_broken(self) -> None:
        """After every step."""
        if self.broken is not None:
            raise self.broken

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

    def said(self, site: ClientId, said: Said, asked: Told | None) -> None:
        """Something that left an honest client, and what it was asked last."""
        if not isinstance(said, Answer) or not isinstance(asked, Ask):
            return
        match asked.request, said.reply:
            case OpenAttempt(manifest), SignedReply():
                opened = self._enter(manifest.statement)
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
                h = self._attempt(site, Label.SIGN_COUNTERSIGN, statement)
                self._countersign(h, site, statement.statement)
            case _:
                pass

    def _attempt(self, site: ClientId, label: Label, statement: Signed) -> Digest:
        """The attempt that a site's statement belongs to: the one that it is signed under.

        What stands beside it came from the aggregator, and may be a lie.
        """
        key = self.people.clients[site].public
        for h in reversed(self.manifests):
            covered = message(label, context=h, sender=site, recipient=None, statement=statement.statement)
            if signing.verify(key, covered, statement.signature):
                return h
        raise AssertionError(f"I11: {site} signed something of an attempt that it never joined")

    def _enter(self, statement: bytes) -> Manifest:
        manifest, h = self.codec.decode(Manifest, statement), attempt_digest(statement)
        if h not in self.known:
            self.manifests[h], self.known[h] = manifest, Knowledge(self.params(manifest), manifest.cohort)
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
        self._agreed(manifest, contribution.round_plan)
        self._masked(node, h, manifest)

    def left_from_a_liar(self, node: ClientNode, upload: Upload) -> None:
        """A vector of the adversary's own: only what the sum must show of it is noted."""
        manifest = self.manifests[upload.attempt]
        contribution = node.site.contributions.load(manifest.round_id)
        assert contribution is not None
        self.words[manifest.round, node.name] = contribution.words()
        self.packed[upload.attempt, node.name] = upload.packed

    def _agreed(self, manifest: Manifest, round_plan: Digest) -> None:
        roster, plan = self.people.roster, self.job.plan
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
                key = self.people.clients[node.name].public
                invariants.i7_ledger_is_sound(ledger.verify(node.ledger_path, key))

    def _promise(self, round_: int) -> None:
        """The trust statement, with whoever may collude."""
        known = [self.known[h] for h, manifest in self.manifests.items() if manifest.round == round_]
        for corrupt in self._colluders:
            invariants.i4_one_kind_of_share(known, corrupt)
            invariants.never_fewer_than_m(known, corrupt)
            invariants.at_most_one_sum(known, corrupt)

    def acknowledge(self, site: ClientId, h: Digest) -> None:
        """The aggregator said that a vector is safe."""
        self.acknowledged.add((h, site))

    def params(self, manifest: Manifest) -> Params:
        return Params.complete(len(manifest.cohort), self.people.roster.corrupt, min_cohort=3)

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
