"""What a client does besides refusing: it repeats itself, complains, and binds what it saw."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from simfed.cast import AGGREGATOR, OneSlot, digest_of
from simfed.refusals_open import VICTIM, record
from simfed.refusals_phases import item_of, with_item
from simfed.stage import Stage

from secfed.crypto import shamir
from secfed.crypto.labels import Label
from secfed.errors import DecisionConflictError, PeerError, StaleAttemptError, StorageError
from secfed.ids import NO_DIGEST, ClientId, JobId, MemberIndex
from secfed.secagg import derive
from secfed.secagg.derive import HeldShares
from secfed.secagg.messages import (
    Bundles,
    Confirm,
    ConfirmRequest,
    MaskedStatement,
    MaskedUpdate,
    OpenAttempt,
    Outcome,
    Phase,
    ShareAnswers,
    SignedReply,
    UnmaskRequest,
    Void,
    VoidNotice,
)
from secfed.secagg.record import Left

LARGE = pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(0)])
"""A minute on a quiet core."""


@pytest.fixture(scope="module")
def five() -> Stage:
    return Stage(5)


PHASES = [phase for phase in Phase if phase is not Phase.DONE]


# -- idempotence -------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
def test_the_identical_request_gets_the_identical_bytes(five: Stage, phase: Phase) -> None:
    """A lost answer costs nothing: nothing is drawn, sealed or signed a second time."""
    request = five.at(phase).ask(VICTIM)
    first = five.tell(VICTIM, request)
    assert five.tell(VICTIM, request) is first


@pytest.mark.parametrize("phase", PHASES)
def test_a_request_out_of_order_ends_the_attempt(five: Stage, phase: Phase) -> None:
    """A request of neither this phase nor the last one takes the secrets away."""
    other = Phase.UNMASK if phase is Phase.CONFIRM else Phase.MASK if phase is Phase.UNMASK else Phase.CONFIRM
    wrong = five.at(other).ask(VICTIM)
    request = five.at(phase).ask(VICTIM)
    if phase is Phase.ADVERTISE:
        five.tell(VICTIM, request)
        request = five.at(Phase.ENCAPSULATE).ask(VICTIM)
    with pytest.raises(PeerError, match="came while"):
        five.tell(VICTIM, wrong)
    with pytest.raises(PeerError, match="came while Idle"):
        five.tell(VICTIM, request)


def test_an_outcome_is_countersigned_again_after_a_restart(five: Stage) -> None:
    five.at(Phase.DONE)
    closed = five.session.sum_up()
    notice = five.outcome(
        Outcome(
            five.terms.round_id,
            True,
            five.cast.sites,
            (),
            closed.digest,
            closed.transcript,
            digest_of("result"),
        )
    )
    first = five.tell(VICTIM, notice)
    five.restart(VICTIM)
    assert five.tell(VICTIM, notice) == first
    assert record(five).transcript(five.terms.job, 1) == closed.transcript


def test_an_outcome_never_changes(five: Stage) -> None:
    five.at(Phase.CONFIRM)
    published = Outcome(five.terms.round_id, True, (), (), digest_of("s"), digest_of("t"), digest_of("r"))
    five.tell(VICTIM, five.outcome(published))
    for other in (
        replace(published, transcript=digest_of("u")),
        Outcome(five.terms.round_id, False, (), (), NO_DIGEST, NO_DIGEST, NO_DIGEST),
    ):
        with pytest.raises(DecisionConflictError):
            five.tell(VICTIM, five.outcome(other))


def test_more_signatures_after_the_answer_are_no_difference(five: Stage) -> None:
    request = five.at(Phase.UNMASK).ask(VICTIM)
    quorum = replace(request, signatures=request.signatures[: five.session.params.quorum])
    assert five.tell(VICTIM, quorum) == five.tell(VICTIM, request)


# -- one live attempt --------------------------------------------------------------------------


def test_a_refused_opening_leaves_the_live_attempt(five: Stage) -> None:
    request = five.at(Phase.CONFIRM).ask(VICTIM)
    h = five.clients[VICTIM].live
    with pytest.raises(PeerError):
        five.open(VICTIM)
    assert five.clients[VICTIM].live == h
    assert isinstance(five.tell(VICTIM, request), SignedReply)


def test_a_newer_attempt_destroys_the_older_one(five: Stage) -> None:
    request = five.at(Phase.CONFIRM).ask(VICTIM)
    five.open(VICTIM, attempt=2)
    with pytest.raises(PeerError, match="came while Advertised"):
        five.tell(VICTIM, request)


def test_the_older_attempt_is_gone_even_if_the_newer_cannot_be_stored(
    five: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the disk took the number is unknown then, so nothing of the older attempt may go on."""
    five.at(Phase.CONFIRM)

    def full(key: str, value: bytes) -> None:
        raise StorageError("disk full")

    monkeypatch.setattr(five.decisions[VICTIM], "put", full)
    with pytest.raises(StorageError):
        five.open(VICTIM, attempt=2)
    assert five.clients[VICTIM].live is None


def _void(stage: Stage, h: bytes) -> VoidNotice:
    body = stage.cast.codec.encode(Void("test"))
    return VoidNotice(
        digest_of("x") if h == b"" else stage.session.h, stage.cast.sign(AGGREGATOR, Label.SIGN_VOID, h, body)
    )


def test_a_void_of_another_attempt_changes_nothing(five: Stage) -> None:
    """Not even the reply that would be repeated: the next lost answer must still cost nothing."""
    request = five.at(Phase.MASK).ask(VICTIM)
    first = five.tell(VICTIM, request)
    assert five.tell(VICTIM, _void(five, b"")) is None
    assert five.tell(VICTIM, request) is first


def test_a_void_ends_its_attempt_and_the_next_one_may_begin(five: Stage) -> None:
    five.at(Phase.MASK)
    assert five.tell(VICTIM, _void(five, five.session.h)) is None
    assert five.clients[VICTIM].live is None
    five.open(VICTIM, attempt=2)


def test_an_outcome_of_another_round_leaves_the_live_attempt(five: Stage) -> None:
    """A late word on round 1 must not cost round 2."""
    five.at(Phase.DONE)
    closed = five.session.sum_up()
    notice = five.outcome(
        Outcome(
            five.terms.round_id,
            True,
            five.cast.sites,
            (),
            closed.digest,
            closed.transcript,
            digest_of("result"),
        )
    )
    five.tell(VICTIM, notice)
    five.offer(VICTIM, round=2)
    terms = five.cast.terms(round=2)
    manifest = five.cast.manifest(terms, previous_round=1, previous=closed.transcript)
    five.tell(VICTIM, OpenAttempt(five.cast.sign_manifest(terms, manifest)))
    live = five.clients[VICTIM].live
    with pytest.raises(PeerError, match="another round than the one on offer"):
        five.tell(VICTIM, notice)
    assert five.clients[VICTIM].live == live is not None


def test_withdrawing_forgets_everything(five: Stage) -> None:
    request = five.at(Phase.CONFIRM).ask(VICTIM)
    five.clients[VICTIM].withdraw()
    with pytest.raises(PeerError, match="came while Idle"):
        five.tell(VICTIM, request)
    with pytest.raises(PeerError, match="no contribution ready"):
        five.open(VICTIM, attempt=2)


def test_another_job_may_begin_once_this_one_answered(five: Stage) -> None:
    five.at(Phase.DONE).offer(VICTIM, job=JobId("other"))
    terms = five.cast.terms(job=JobId("other"))
    manifest = five.cast.sign_manifest(terms, five.cast.manifest(terms))
    assert five.tell(VICTIM, OpenAttempt(manifest)) is not None


# -- order of effects --------------------------------------------------------------------------


def _puts(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys in the order in which the victim makes them durable."""
    keys: list[str] = []
    decisions = stage.decisions[VICTIM]
    put = decisions.put

    def note(key: str, value: bytes) -> None:
        keys.append(key.split("/")[0])
        put(key, value)

    monkeypatch.setattr(decisions, "put", note)
    return keys


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (Phase.ADVERTISE, ["attempt"]),
        (Phase.ENCAPSULATE, []),
        (Phase.SHARE, []),
        (Phase.MASK, ["left"]),
        (Phase.CONFIRM, ["confirm"]),
        (Phase.UNMASK, ["answered"]),
    ],
)
def test_what_is_durable_before_a_reply_leaves(
    five: Stage, phase: Phase, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = _puts(five.at(phase), monkeypatch)
    five.tell(VICTIM, five.ask(VICTIM))
    assert keys == expected


@pytest.mark.parametrize("phase", [Phase.ADVERTISE, Phase.MASK, Phase.CONFIRM, Phase.UNMASK])
def test_nothing_leaves_if_its_decision_cannot_be_stored(
    five: Stage, phase: Phase, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = five.at(phase).ask(VICTIM)

    def full(key: str, value: bytes) -> None:
        raise StorageError("disk full")

    monkeypatch.setattr(five.decisions[VICTIM], "put", full)
    with pytest.raises(StorageError):
        five.tell(VICTIM, request)
    assert five.clients[VICTIM].live is None


def test_sent_stands_in_the_ledger_before_the_vector_leaves(five: Stage) -> None:
    """If the charge cannot be made durable, nothing counts as left and nothing leaves."""

    def refuse(attempt: int) -> None:
        raise StorageError("ledger full")

    request = five.at(Phase.MASK).ask(VICTIM)
    state = five.clients[VICTIM]._state
    attempt = replace(state.attempt, contribution=OneSlot(VICTIM, 40, sent=refuse))  # type: ignore[union-attr]
    five.clients[VICTIM]._state = replace(state, attempt=attempt)  # type: ignore[call-arg]
    with pytest.raises(StorageError, match="ledger full"):
        five.tell(VICTIM, request)
    assert record(five).left(five.terms.round_id) == ()


def test_a_contribution_of_another_length_is_a_callers_bug(five: Stage) -> None:
    request = five.at(Phase.MASK).ask(VICTIM)
    state = five.clients[VICTIM]._state
    attempt = replace(state.attempt, contribution=OneSlot(VICTIM, 39))  # type: ignore[union-attr]
    five.clients[VICTIM]._state = replace(state, attempt=attempt)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="layout's length"):
        five.tell(VICTIM, request)


# -- the retry rule ----------------------------------------------------------------------------


def _keys(stage: Stage, sites: Iterable[ClientId]) -> dict[ClientId, bytes]:
    """Sites with the identity keys that they have now; strangers with one that nobody has."""
    return {site: stage.cast.members.get(site, b"gone") for site in sites}


@pytest.mark.parametrize(("clients", "needed"), [(3, 2), (5, 3), (10, 5)])
def test_how_many_old_neighbours_a_retry_needs(clients: int, needed: int) -> None:
    """k + A - t + 1: both others of 3, 3 of 4, 5 of 9; exactly so many pass, one fewer does not."""
    for back in (needed, needed - 1):
        stage = Stage(clients)
        threshold = stage.session.params.threshold
        old = stage.cast.sites[VICTIM + 1 :][:back]
        if len(old) < back:
            old = (*stage.cast.sites[:VICTIM], *stage.cast.sites[VICTIM + 1 :])[:back]
        strangers = tuple(ClientId(f"gone-{index}") for index in range(clients - 1 - back))
        cohort, keys = (*old, *strangers, stage.cast.sites[VICTIM]), _keys(stage, (*old, *strangers))
        left = Left(1, cohort, 1, threshold, keys)
        record(stage).mark_left(stage.terms.round_id, left)
        stage.session = stage.open_session(stage.cast.manifest(stage.terms, attempt=2))
        if back == needed:
            assert stage.play().session.ready
        else:
            with pytest.raises(StaleAttemptError, match=f"fewer than {needed} of its neighbours"):
                stage.play()


def test_every_earlier_attempt_counts() -> None:
    """One of two earlier attempts whose members stay away is enough to refuse."""
    stage = Stage(5)
    sites = stage.cast.sites
    neighbours = tuple(site for site in sites if site != sites[VICTIM])
    gone = tuple(ClientId(f"gone-{index}") for index in range(4))
    record(stage).mark_left(stage.terms.round_id, Left(1, (*gone, sites[VICTIM]), 1, 3, _keys(stage, gone)))
    record(stage).mark_left(stage.terms.round_id, Left(2, sites, 1, 3, _keys(stage, neighbours)))
    stage.session = stage.open_session(stage.cast.manifest(stage.terms, attempt=3))
    with pytest.raises(StaleAttemptError, match="left in attempt 1"):
        stage.play()


@pytest.mark.parametrize(("rotated", "allowed"), [(1, True), (2, False)])
def test_a_neighbour_with_another_key_is_not_back(rotated: int, allowed: bool) -> None:
    """Its name came back with an empty state; what the old key was given may still be somewhere."""
    stage = Stage(5)
    sites = stage.cast.sites
    neighbours = _keys(stage, (site for site in sites if site != sites[VICTIM]))
    for site in list(neighbours)[:rotated]:
        neighbours[site] = b"its key before"
    record(stage).mark_left(stage.terms.round_id, Left(1, sites, 1, 3, neighbours))
    stage.session = stage.open_session(stage.cast.manifest(stage.terms, attempt=2))
    if allowed:
        assert stage.play().session.ready
    else:
        with pytest.raises(StaleAttemptError, match="fewer than 3 of its neighbours"):
            stage.play()


@pytest.mark.parametrize(("before", "now", "back", "needed"), [(3, 1, 4, 5), (1, 2, 3, 4)])
def test_the_larger_corrupt_number_of_the_two_rosters_counts(
    before: int, now: int, back: int, needed: int
) -> None:
    """Lowered by the owner between two attempts, or raised as sites were enrolled."""
    stage = Stage(5, corrupt=now)
    sites = stage.cast.sites
    others = [site for site in sites if site != sites[VICTIM]]
    neighbours = _keys(stage, (*others[:back], *(ClientId(f"gone-{index}") for index in range(4 - back))))
    record(stage).mark_left(stage.terms.round_id, Left(1, sites, before, 3, neighbours))
    stage.session = stage.open_session(stage.cast.manifest(stage.terms, attempt=2))
    with pytest.raises(StaleAttemptError, match=f"fewer than {needed} of its neighbours"):
        stage.play()


def test_a_retry_sends_the_same_vector_under_fresh_masks() -> None:
    """I5: byte-identical contribution, another mask: the packed bytes differ, the sum is the same."""
    stage = Stage(5).play(Phase.CONFIRM)
    first = dict(stage.uploads.packed)
    stage.session = stage.open_session(stage.cast.manifest(stage.terms, attempt=2))
    stage.play()
    second = {key: packed for key, packed in stage.uploads.packed.items() if key not in first}
    assert not set(first.values()) & set(second.values())
    assert (stage.session.sum_up().total[:5] == 65535).all()


# -- the difference rule -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("apart", "min_cohort", "corrupt", "refused"),
    [
        (0, 3, 1, False), (1, 3, 1, True), (2, 3, 1, True), (3, 3, 1, True), (4, 3, 1, False),
        (4, 4, 1, True), (4, 3, 2, True), (5, 3, 2, False),
    ],
)  # fmt: skip
def test_survivor_sets_that_are_too_close(apart: int, min_cohort: int, corrupt: int, refused: bool) -> None:
    """Less the corrupt, whose vectors are known, a difference still holds min_cohort vectors."""
    stage = Stage(7, min_cohort=min_cohort, corrupt=corrupt).play(Phase.CONFIRM)
    earlier = (*stage.cast.sites[: 7 - apart],)
    record(stage).answer(
        stage.cast.terms(round=9).round_id, 1, digest_of("earlier"), earlier, stage.terms.base
    )
    if refused:
        with pytest.raises(PeerError, match=f"differ by {apart} member"):
            stage.tell(VICTIM, ConfirmRequest(stage.members))
    else:
        stage.tell(VICTIM, ConfirmRequest(stage.members))


def test_under_another_key_sets_are_not_compared(five: Stage) -> None:
    five.at(Phase.CONFIRM)
    for key in (digest_of("another base"), None):
        record(five).answer(
            five.cast.terms(round=8 if key else 9).round_id, 1, digest_of("x"), five.cast.sites[:-1], key
        )
    five.tell(VICTIM, ConfirmRequest(five.members))


def test_releases_charged_as_private_are_exempt() -> None:
    stage = Stage(5, difference_key=None).play(Phase.CONFIRM)
    record(stage).answer(
        stage.cast.terms(round=9).round_id, 1, digest_of("x"), stage.cast.sites[:-1], digest_of("base")
    )
    stage.tell(VICTIM, ConfirmRequest(stage.members))


# -- complaints --------------------------------------------------------------------------------


def _bad_envelope(stage: Stage, shares: Callable[[HeldShares], HeldShares], honest: bool) -> object:
    """Deal the victim another envelope; `honest` commitments fit the shares that are in it."""
    stage.at(Phase.MASK)
    owner = MemberIndex(0)
    item = item_of(stage, owner)
    shared = stage.at(Phase.MASK).clients[owner]._state
    edges = shared.edges  # type: ignore[union-attr]
    h = stage.session.h
    own = derive.open_envelope(
        stage.clients[VICTIM]._state.edges[owner],
        h,
        owner,
        VICTIM,
        item.envelope,  # type: ignore[union-attr]
    )
    dealt = shares(own)
    item = replace(item, envelope=derive.seal_envelope(edges[VICTIM], h, owner, VICTIM, dealt))
    if honest:
        item = replace(
            item,
            self_share=derive.self_commitment(h, owner, VICTIM, dealt.self_share),
            recovery_share=derive.recovery_commitment(h, owner, VICTIM, dealt.recovery_share),
        )
    return with_item(stage, owner, item)


_BIG = shamir.PRIME.to_bytes(32, "big")


@pytest.mark.parametrize(
    ("shares", "honest"),
    [
        (lambda own: replace(own, self_share=bytes(32)), False),
        (lambda own: replace(own, recovery_share=bytes(32)), False),
        (lambda own: replace(own, self_share=_BIG), True),
        (lambda own: replace(own, recovery_share=_BIG), True),
        (lambda own: replace(own, recovery_share=b"short"), False),
    ],
    ids=["self share", "recovery share", "self share above p", "recovery share above p", "size"],
)
def test_bad_shares_are_complained_about(
    five: Stage, shares: Callable[[HeldShares], HeldShares], honest: bool
) -> None:
    """The holder still masks with that peer: the sum of all five stays exact."""
    reply = _bad_envelope(five, shares, honest)
    assert isinstance(reply, MaskedUpdate)
    assert five.cast.codec.decode(MaskedStatement, reply.statement.statement).complaints == (0,)
    five.deliver(VICTIM, reply)
    held = five.clients[VICTIM]._state.held  # type: ignore[union-attr]
    assert set(held) == {2, 3, 4}


def test_an_envelope_that_does_not_open_is_complained_about(five: Stage) -> None:
    five.at(Phase.MASK)
    item = replace(item_of(five, MemberIndex(0)), envelope=bytes(80))
    reply = with_item(five, MemberIndex(0), item)
    assert isinstance(reply, MaskedUpdate)
    assert five.cast.codec.decode(MaskedStatement, reply.statement.statement).complaints == (0,)


# -- shares ------------------------------------------------------------------------------------


def test_one_share_of_one_kind_for_each_neighbour(five: Stage) -> None:
    """A dropout's recovery key, a survivor's self mask, nothing for itself."""
    five.at(Phase.MASK)
    for member in five.members[:-1]:
        five.deliver(member, five.tell(member, five.ask(member)))
    five.session.drop(five.members[-1], "lost")
    five.play()
    answers = five.session._collected.answers[VICTIM]
    assert {owner: type(share).__name__ for owner, share in answers.shares.items()} == {
        0: "SelfMaskShare",
        2: "SelfMaskShare",
        3: "SelfMaskShare",
        4: "RecoveryKeyShare",
    }


@pytest.mark.parametrize("clients", [5, 17, LARGE])
def test_members_who_saw_different_sets_never_certify_one(clients: int) -> None:
    """Half of the cohort is shown a share set without the last member; everybody signs all it is asked.

    Each half's T differs, so neither side gathers the quorum, corrupt member included.
    """
    stage = Stage(clients).at(Phase.MASK)
    corrupt = stage.members[-1]
    honest = stage.members[:-1]
    sides: dict[MemberIndex, SignedReply] = {}
    everybody, fewer = stage.members, stage.members[:-2]
    for member in honest:
        request = stage.ask(member)
        if member % 2 and member in fewer:
            kept = tuple(item for item in request.bundles if item.sender != stage.members[-2])
            request = Bundles(kept)
        stage.tell(member, request)
    survivors = tuple(member for member in stage.members if member != stage.members[-2])
    for member in (member for member in honest if member in survivors):
        reply = stage.tell(member, ConfirmRequest(survivors))
        assert isinstance(reply, SignedReply)
        sides[member] = reply
    assert len(everybody) == clients
    for member, reply in sides.items():
        confirm = stage.cast.codec.decode(Confirm, reply.statement.statement)
        agreeing = [
            (other, theirs.statement.signature)
            for other, theirs in sides.items()
            if theirs.statement.statement == reply.statement.statement
        ]
        signed = stage.by(corrupt, Label.SIGN_CONFIRM, confirm)
        request = UnmaskRequest(survivors, (*agreeing, (corrupt, signed.signature)))
        with pytest.raises(PeerError, match="below the quorum"):
            stage.tell(member, request)


@pytest.mark.parametrize("clients", [5, 17, LARGE])
def test_two_survivor_sets_are_never_both_certified(clients: int) -> None:
    """With A corrupt members who sign everything, however the honest ones are split: one quorum at most."""
    stage = Stage(clients).play(Phase.CONFIRM)
    quorum, corrupt = stage.session.params.quorum, stage.members[-1]
    sets = ((*stage.members[:-2], corrupt), stage.members[1:])
    in_both = [member for member in stage.members[:-1] if all(member in each for each in sets)]
    first = [member for member in stage.members[:-1] if member in sets[0]][: quorum - 1]
    for member in first:
        stage.tell(member, ConfirmRequest(sets[0]))
    second = []
    for member in stage.members[:-1]:
        if member not in sets[1]:
            continue
        try:
            stage.tell(member, ConfirmRequest(sets[1]))
        except PeerError:
            assert member in first
        else:
            second.append(member)
    assert len(first) + 1 >= quorum
    assert len(second) + 1 < quorum
    assert in_both


def test_answers_name_the_transcript_that_was_signed(five: Stage) -> None:
    request = five.at(Phase.UNMASK).ask(VICTIM)
    reply = five.tell(VICTIM, request)
    assert isinstance(reply, SignedReply)
    answers = five.cast.codec.decode(ShareAnswers, reply.statement.statement)
    stored = record(five).confirmed(five.session.h)
    assert stored is not None
    assert answers.transcript == five.cast.codec.decode(Confirm, stored).transcript


def test_secrets_are_in_no_representation(five: Stage) -> None:
    """No state prints a key, a seed, a share or the vector."""
    for phase in PHASES[1:]:
        state = five.at(phase).clients[VICTIM]._state
        text = repr(state)
        for name in ("self_seed", "held", "edges", "keys="):
            assert f"{name}=" not in text
