"""Sees every message and every result, and knows what must hold of them: the invariants.

I1 charge before release. I2 an acknowledged vector is in the sum once, or its owner is listed, or
the round is aborted. I3 published count, listed members and vectors agree. I4 one kind of share
per round and target. I5 one mask, one plaintext. I6 what was published never changes. I7 ledgers
are sound. I9 no sum below the floors. A broken one is an `AssertionError` that begins with its name.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from simfed.nodes import AggregatorNode, ClientNode
from simfed.people import ARRAY, BOUND, JOB, People

from secfed.crypto.kdf import digest
from secfed.crypto.labels import Label
from secfed.encoding import ring
from secfed.encoding.fixedpoint import FixedPoint
from secfed.ids import ClientId, Digest, MemberIndex
from secfed.privacy import ledger
from secfed.rounds.client import Upload
from secfed.rounds.exchange import Answer, Ask, Said, Told
from secfed.rounds.jobs import Ending
from secfed.rounds.publish import MANIFEST_FILE, SUM_FILE
from secfed.secagg.manifest import Manifest, attempt_digest
from secfed.secagg.messages import (
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
    """What was seen so far. Every method checks what it can at once."""

    people: People
    codec: ProtoCodec = field(default_factory=ProtoCodec)
    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    words: dict[tuple[int, ClientId], NDArray[np.uint32]] = field(default_factory=dict)
    packed: dict[Place, bytes] = field(default_factory=dict)
    acknowledged: set[Place] = field(default_factory=set)
    answers: dict[tuple[int, ClientId], bytes] = field(default_factory=dict)
    confirms: dict[Place, bytes] = field(default_factory=dict)
    kinds: dict[tuple[Digest, MemberIndex, type], set[ClientId]] = field(
        default_factory=lambda: defaultdict(set)
    )
    outcomes: dict[int, bytes] = field(default_factory=dict)
    folders: dict[int, dict[str, bytes]] = field(default_factory=dict)

    # -- messages ------------------------------------------------------------------------------

    def told(self, told: Told) -> None:
        """Something the aggregator told a client."""
        if not isinstance(told, Ask):
            return
        if isinstance(told.request, OpenAttempt):
            statement = told.request.manifest.statement
            manifest = self.codec.decode(Manifest, statement)
            h = attempt_digest(statement)
            for other, known in self.manifests.items():
                same = (known.round, known.attempt) == (manifest.round, manifest.attempt)
                assert not same or other == h, "I11: two manifests for one attempt"
            self.manifests[h] = manifest
        if isinstance(told.request, OutcomeNotice):
            number = self.manifests[told.attempt].round
            first = self.outcomes.setdefault(number, told.request.statement.statement)
            assert first == told.request.statement.statement, "I6: an outcome changed"

    def said(self, site: ClientId, said: Said, asked: Told | None) -> None:
        """Something that left a client, and what it was asked last."""
        if (
            not isinstance(said, Answer)
            or not isinstance(said.reply, SignedReply)
            or not isinstance(asked, Ask)
        ):
            return
        statement = said.reply.statement.statement
        match asked.request:
            case ConfirmRequest():
                self._confirm(said.attempt, site, statement)
            case UnmaskRequest():
                self._answer(said.attempt, site, statement)
            case _:
                pass

    def _answer(self, h: Digest, site: ClientId, statement: bytes) -> None:
        shares = self.codec.decode(ShareAnswers, statement)
        first = self.answers.setdefault((self.manifests[h].round, site), statement)
        assert first == statement, "I4: a client answered twice in one round"
        assert (h, site) in self.packed, "I4: shares from a client whose vector never left"
        for target, share in shares.shares.items():
            self.kinds[h, target, type(share)].add(site)
        self._one_of_two(h)

    def _confirm(self, h: Digest, site: ClientId, statement: bytes) -> None:
        confirm = self.codec.decode(Confirm, statement)
        first = self.confirms.setdefault((h, site), statement)
        assert first == statement, "I4: a client signed two survivor sets in one attempt"
        assert len(confirm.survivors) >= self.params(h).floor, "I9: a set below the floor was signed"

    def _one_of_two(self, h: Digest) -> None:
        """No target's two secrets may both be open to whoever read every answer, A corrupt ones included."""
        params = self.params(h)
        for member in range(params.clients):
            target = MemberIndex(member)
            held = [len(sites) for (at, who, _), sites in self.kinds.items() if (at, who) == (h, target)]
            opened = [count for count in held if count + params.corrupt >= params.threshold]
            assert len(held) < 2 or len(opened) < 2, "I4: both secrets of one member are open"

    def left(self, node: ClientNode, upload: Upload) -> None:
        """A masked vector is about to leave: everything it needs must be durable by now."""
        manifest = self.manifests[upload.attempt]
        contribution = node.site.contributions.load(manifest.round_id)
        assert contribution is not None, "I5: a vector left without its stored contribution"
        words = contribution.words()
        first = self.words.setdefault((manifest.round, node.name), words)
        assert (first == words).all(), "I5: a round's contribution was made twice"
        known = self.packed.setdefault((upload.attempt, node.name), upload.packed)
        assert known == upload.packed, "I5: two masked vectors in one attempt"
        same = [place for place, packed in self.packed.items() if packed == upload.packed]
        assert len(same) == 1, "I5: one mask served twice"
        verdict = ledger.verify(node.ledger_path, self.people.clients[node.name].public)
        assert verdict.fault is None, f"I7: {verdict.fault}"
        assert verdict.state is not None
        sent = [
            note
            for charge in verdict.state.charges
            for note in charge.sent
            if (charge.reserved.round, note.attempt) == (manifest.round, manifest.attempt)
        ]
        assert sent, "I1: a vector left that was not charged and marked as sent"

    def acknowledge(self, site: ClientId, h: Digest) -> None:
        """The aggregator said that a vector is safe."""
        self.acknowledged.add((h, site))

    def params(self, h: Digest) -> Params:
        manifest = self.manifests[h]
        return Params.complete(len(manifest.cohort), manifest.corrupt, min_cohort=3)

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
            assert self.folders.setdefault(number, content) == content, "I6: a published folder changed"

    def ended(self, endings: list[Ending]) -> None:
        """What the aggregator's book says of the rounds that are over."""
        for ending in endings:
            first = self.outcomes.setdefault(ending.round, ending.statement.statement)
            assert first == ending.statement.statement, "I6: an outcome changed"
            if ending.published:
                self._published(ending)
            else:
                assert ending.round not in self.folders, "I6: an aborted round was published"

    def _published(self, ending: Ending) -> None:
        manifest, params = self.manifests[ending.h], self.params(ending.h)
        assert len(ending.included) >= params.floor, "I9: a sum below the floor"
        assert set(ending.included) <= set(manifest.cohort), "I3: a stranger in the sum"
        total = np.zeros(manifest.length, np.uint32)
        for site in ending.included:
            ring.add_into(total, self.words[ending.round, site])
        ring.reduce(total, manifest.word_bits)
        expected = digest(Label.SUM, ending.h, ring.pack(total, manifest.word_bits))
        assert ending.sum == expected, "I3: the sum is not that of the listed members' vectors"
        listed = {*ending.included, *(site for site, reason in ending.dropped if reason)}
        for h, site in self.acknowledged:
            assert h != ending.h or site in listed, f"I2: the vector of {site} was lost in silence"
        assert set(manifest.cohort) <= listed, "I2: a member of the cohort is nowhere listed"
        self._folder(ending)

    def _folder(self, ending: Ending) -> None:
        """The files that people read say the same as the book."""
        content = self.folders[ending.round]
        facts = json.loads(content[MANIFEST_FILE])
        assert facts["count"] == len(facts["included"]) == len(ending.included), "I3: the folder's count"
        assert tuple(facts["included"]) == ending.included, "I3: the folder's members"
        assert facts["result"] == ending.result.hex(), "I3: the folder's result"

    def slots(self, aggregator: AggregatorNode, ending: Ending, value: Callable[[int], float]) -> None:
        """The oracle: slot i holds site i's value if it is listed, else nothing, to within the rounding."""
        path = Path(aggregator.output) / JOB / f"round-{ending.round:04}" / SUM_FILE
        found = load_file(path)[f"weighted_sum.{ARRAY}"]
        expected = np.zeros(found.size)
        for site in ending.included:
            expected[int(site.removeprefix("site-"))] = value(ending.round)
        slack = FixedPoint(BOUND, 16).step * len(ending.included)
        assert np.abs(found - expected).max() <= slack, "I3: a slot of the published sum is wrong"
