"""The aggregator's side: dropouts in every phase, blame, the freeze, and what a restart finds."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from simfed.cast import digest_of, expected_total
from simfed.stage import Stage

from secfed.crypto import shamir
from secfed.crypto.labels import Label
from secfed.errors import PeerError, RoundAbortedError, StorageError, UnexpectedMessageError
from secfed.ids import MemberIndex
from secfed.secagg import derive
from secfed.secagg.aggregator import AttemptVoidError
from secfed.secagg.messages import (
    Advert,
    Bundle,
    CiphertextIndex,
    CiphertextList,
    Confirm,
    ItemDigest,
    MaskedStatement,
    MaskedUpdate,
    Phase,
    RecoveryKeyShare,
    SelfMaskShare,
    ShareAnswers,
    ShareIndex,
    SignedReply,
)

PHASES = [phase for phase in Phase if phase is not Phase.DONE]
BEFORE_FREEZE = [Phase.ADVERTISE, Phase.ENCAPSULATE, Phase.SHARE, Phase.MASK]
SLOW = (pytest.mark.slow, pytest.mark.timeout(0))
LARGER = [pytest.param(clients, marks=SLOW) for clients in (17, 64)]
M0, M1, M2 = MemberIndex(0), MemberIndex(1), MemberIndex(2)


@pytest.fixture(scope="module")
def five() -> Stage:
    return Stage(5)


def _lose(stage: Stage, phase: Phase, lost: tuple[MemberIndex, ...]) -> None:
    """Play on with some members silent from this phase on."""
    stage.at(phase)
    while not stage.session.ready:
        now = stage.session.phase
        asked = {member: stage.session.ask(member) for member in stage.members}
        for member, request in asked.items():
            if request is not None and member not in lost:
                stage.deliver(member, stage.clients[member].receive(request))
        for member in lost:
            if stage.session.phase is now:
                stage.session.drop(member, "no answer")


# -- dropouts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("clients", [3, 5, 7, 10, *LARGER])
@pytest.mark.parametrize("phase", PHASES)
def test_up_to_d_losses_give_the_exact_sum(clients: int, phase: Phase) -> None:
    """Lost before its vector was in: listed with phase and reason, slot zero. Later: still in the sum."""
    stage = Stage(clients)
    lost = stage.members[: stage.session.params.losses]
    _lose(stage, phase, lost)
    closed = stage.session.sum_up()
    expected = stage.members if phase not in BEFORE_FREEZE else stage.members[len(lost) :]
    assert closed.survivors == expected
    assert (closed.total == expected_total(closed.total.size, expected)).all()
    dropped = {item.site: item.phase for item in stage.session.dropped}
    assert dropped == (
        {} if phase not in BEFORE_FREEZE else dict.fromkeys(stage.cast.sites[: len(lost)], phase.value)
    )
    assert all("no answer" in item.reason for item in stage.session.dropped)


@pytest.mark.parametrize("clients", [3, 5, 7, *LARGER])
@pytest.mark.parametrize("phase", PHASES)
def test_one_loss_more_ends_it_and_nothing_is_opened(clients: int, phase: Phase) -> None:
    """Before the freeze the attempt is void, after it the round is aborted; both say who was lost."""
    stage = Stage(clients)
    lost = stage.members[: stage.session.params.losses + 1]
    with pytest.raises(RoundAbortedError, match=stage.cast.sites[lost[-1]]) as caught:
        _lose(stage, phase, lost)
    assert isinstance(caught.value, AttemptVoidError) is (phase in BEFORE_FREEZE)
    assert not stage.session.ready


def test_losses_in_several_phases_add_up() -> None:
    stage = Stage(7)
    stage.step()
    stage.session.drop(M0, "gone while encapsulating")
    stage.play(Phase.MASK)
    stage.session.drop(M1, "gone while masking")
    stage.play(Phase.CONFIRM)
    assert [item.phase for item in stage.session.dropped] == ["encapsulate", "mask"]
    with pytest.raises(RoundAbortedError, match="gone while confirming"):
        stage.session.drop(M2, "gone while confirming")


def test_a_member_lost_after_its_bundle_is_recovered_from_its_blob(five: Stage) -> None:
    """It is in the share set: everybody masked with it, and t shares of its recovery key take that off."""
    five.at(Phase.MASK)
    for member in five.members[1:]:
        five.deliver(member, five.tell(member, five.ask(member)))
    five.session.drop(M0, "lost")
    closed = five.play().session.sum_up()
    assert (closed.total == expected_total(40, (1, 2, 3, 4))).all()


def test_what_was_acknowledged_is_kept_when_its_sender_goes_later(five: Stage) -> None:
    """After the freeze a vector stays in the sum; its owner only counts among the losses."""
    five.at(Phase.CONFIRM).session.drop(M0, "lost")
    closed = five.play().session.sum_up()
    assert closed.survivors == five.members
    assert five.session.dropped == ()


def test_strangers_and_repeated_losses_change_nothing(five: Stage) -> None:
    five.at(Phase.MASK).session.drop(M0, "first")
    five.session.drop(M0, "second")
    five.session.drop(MemberIndex(99), "who?")
    assert [item.reason for item in five.session.dropped] == ["first"]
    five.at(Phase.DONE).session.drop(M0, "late")
    assert five.session.ready


# -- what it refuses from members --------------------------------------------------------------


def _reply(stage: Stage, member: MemberIndex) -> Any:
    return stage.tell(member, stage.ask(member))


def test_an_advert_under_another_signature(five: Stage) -> None:
    reply = _reply(five.at(Phase.ADVERTISE), M1)
    with pytest.raises(PeerError, match="does not verify"):
        five.session.receive(M0, reply)


@pytest.mark.parametrize("part", ["x25519", "mlkem"])
def test_an_advert_that_repeats_a_key(five: Stage, part: str) -> None:
    first = _reply(five.at(Phase.ADVERTISE), M0)
    five.session.receive(M0, first)
    theirs = five.cast.codec.decode(Advert, first.statement.statement)
    own = five.cast.codec.decode(Advert, _reply(five, M1).statement.statement)
    copied = replace(own, **{part: getattr(theirs, part)})
    with pytest.raises(PeerError, match="repeats another member's") as caught:
        five.session.receive(M1, SignedReply(five.by(M1, Label.SIGN_ADVERT, copied)))
    assert caught.value.culprits == (five.cast.sites[M1],)


def test_an_advert_with_a_weak_key(five: Stage) -> None:
    own = five.cast.codec.decode(Advert, _reply(five.at(Phase.ADVERTISE), M0).statement.statement)
    weak = five.by(M0, Label.SIGN_ADVERT, replace(own, x25519=bytes(32)))
    with pytest.raises(PeerError, match="low order"):
        five.session.receive(M0, SignedReply(weak))


def test_a_ciphertext_list_that_leaves_one_out(five: Stage) -> None:
    reply = _reply(five.at(Phase.ENCAPSULATE), M0)
    index = five.cast.codec.decode(CiphertextIndex, reply.index.statement)
    short = five.by(M0, Label.SIGN_CIPHERTEXTS, CiphertextIndex(index.items[1:]))
    with pytest.raises(PeerError, match="not for the higher-numbered neighbours"):
        five.session.receive(M0, CiphertextList(short, reply.ciphertexts))


def test_a_ciphertext_that_was_not_signed(five: Stage) -> None:
    reply = _reply(five.at(Phase.ENCAPSULATE), M0)
    with pytest.raises(PeerError, match="ciphertext is not the one that was signed"):
        five.session.receive(M0, replace(reply, ciphertexts={**reply.ciphertexts, M1: bytes(1088)}))


def test_a_bundle_that_leaves_one_out(five: Stage) -> None:
    reply = _reply(five.at(Phase.SHARE), M0)
    items = {member: item for member, item in reply.items.items() if member != M1}
    with pytest.raises(PeerError, match="not for the neighbours that agreed"):
        five.session.receive(M0, replace(reply, items=items))


def test_a_bundle_item_or_a_blob_that_was_not_signed(five: Stage) -> None:
    reply = _reply(five.at(Phase.SHARE), M0)
    items = {**reply.items, M1: replace(reply.items[M1], envelope=bytes(80))}
    with pytest.raises(PeerError, match="bundle item is not the one"):
        five.session.receive(M0, replace(reply, items=items))
    with pytest.raises(PeerError, match="blob is not the one"):
        five.session.receive(M0, replace(reply, blob=bytes(len(reply.blob))))


@pytest.mark.parametrize("change", [{"size_bytes": 1}, {"complaints": (M0,)}])
def test_a_masked_statement_that_does_not_fit(five: Stage, change: dict[str, Any]) -> None:
    reply = _reply(five.at(Phase.MASK), M0)
    masked = five.cast.codec.decode(MaskedStatement, reply.statement.statement)
    statement = five.by(M0, Label.SIGN_MASKED, replace(masked, **change))
    with pytest.raises(PeerError, match=r"another size|no neighbour with a bundle"):
        five.session.receive_upload(M0, statement, hashlib.sha256(reply.packed).digest())
    assert five.session.expects_upload(M0)


def test_a_vector_that_was_not_signed(five: Stage) -> None:
    reply = _reply(five.at(Phase.MASK), M0)
    with pytest.raises(PeerError, match="not the one that was signed"):
        five.session.receive_upload(M0, reply.statement, hashlib.sha256(b"other").digest())


def test_a_confirmation_of_something_else(five: Stage) -> None:
    reply = _reply(five.at(Phase.CONFIRM), M0)
    confirm = five.cast.codec.decode(Confirm, reply.statement.statement)
    for other in (
        replace(confirm, transcript=digest_of("another")),
        replace(confirm, survivors=confirm.survivors[:-1]),
    ):
        with pytest.raises(PeerError, match="another transcript or survivor set"):
            five.session.receive(M0, SignedReply(five.by(M0, Label.SIGN_CONFIRM, other)))


def _answers(stage: Stage, member: MemberIndex) -> ShareAnswers:
    reply = _reply(stage.at(Phase.UNMASK), member)
    return stage.cast.codec.decode(ShareAnswers, reply.statement.statement)


def _send_answers(stage: Stage, member: MemberIndex, answers: ShareAnswers) -> None:
    stage.session.receive(member, SignedReply(stage.by(member, Label.SIGN_UNMASK, answers)))


@pytest.mark.parametrize(
    ("owner", "share", "reason"),
    [
        (M1, SelfMaskShare(bytes(32)), "not the one that its dealer committed to"),
        (M1, RecoveryKeyShare(bytes(32)), "of the kind that nobody asked for"),
        (M0, SelfMaskShare(bytes(32)), "outside the share set"),
        (MemberIndex(9), SelfMaskShare(bytes(32)), "outside the share set"),
    ],
)
def test_bad_shares_name_their_holder(
    five: Stage, owner: MemberIndex, share: SelfMaskShare | RecoveryKeyShare, reason: str
) -> None:
    answers = _answers(five, M0)
    with pytest.raises(PeerError, match=reason) as caught:
        _send_answers(five, M0, replace(answers, shares={**answers.shares, owner: share}))
    assert caught.value.culprits == (five.cast.sites[M0],)


def test_shares_under_another_transcript(five: Stage) -> None:
    answers = replace(_answers(five, M0), transcript=digest_of("another"))
    with pytest.raises(PeerError, match="another transcript"):
        _send_answers(five, M0, answers)


def test_a_share_that_is_none_names_dealer_and_holder(five: Stage) -> None:
    """A dealer commits to a number above p and its accomplice does not complain: both are named."""
    answers = _answers(five, M0)
    big = shamir.PRIME.to_bytes(32, "big")
    frozen = five.session._frozen
    assert frozen is not None
    owner = frozen.owners[M1]
    committed = (derive.self_commitment(five.session.h, M1, M0, big), *owner.commitments[M0][1:])
    changed = replace(owner, commitments={**owner.commitments, M0: committed})
    five.session._frozen = replace(frozen, owners={**frozen.owners, M1: changed})
    with pytest.raises(PeerError, match="share that is none") as caught:
        _send_answers(five, M0, replace(answers, shares={**answers.shares, M1: SelfMaskShare(big)}))
    assert caught.value.culprits == (five.cast.sites[M1], five.cast.sites[M0])


def test_a_reply_of_another_phase_or_of_nobody(five: Stage) -> None:
    bundle = _reply(five.at(Phase.SHARE), M0)
    assert isinstance(bundle, Bundle)
    five.at(Phase.ADVERTISE)
    with pytest.raises(UnexpectedMessageError, match="a Bundle came in phase advertise"):
        five.session.receive(M0, bundle)
    five.session.drop(M0, "lost")
    with pytest.raises(UnexpectedMessageError, match="owes nothing"):
        five.session.receive(M0, bundle)


def test_a_reply_that_comes_again_changes_nothing(five: Stage) -> None:
    reply = _reply(five.at(Phase.CONFIRM), M0)
    five.session.receive(M0, reply)
    five.session.receive(M0, reply)
    assert five.session.ask(M0) is None
    assert five.cast.sites[M0] not in five.session.waiting_for


# -- blame -------------------------------------------------------------------------------------


def test_two_ends_that_commit_to_different_masks_void_the_attempt_by_name(five: Stage) -> None:
    """Compared before anybody is asked for a vector: else the sum would be wrong in silence."""
    five.at(Phase.SHARE)
    for member in five.members[1:]:
        five.deliver(member, _reply(five, member))
    honest = _reply(five, M0)
    item = replace(honest.items[M1], edge=digest_of("another seed"))
    data = derive.item_digest(five.session.h, M0, M1, derive.bundle_item_bytes(item))
    index = five.cast.codec.decode(ShareIndex, honest.index.statement)
    items = tuple(ItemDigest(M1, data) if entry.member == M1 else entry for entry in index.items)
    statement = five.by(M0, Label.SIGN_BUNDLE, replace(index, items=items))
    with pytest.raises(AttemptVoidError, match="site-000 and site-001 commit to different masks"):
        five.session.receive(M0, Bundle(statement, {**honest.items, M1: item}, honest.blob))


def _complain(stage: Stage, holders: tuple[int, ...]) -> None:
    """All vectors arrive; these holders say that member 0 dealt them bad shares."""
    stage.at(Phase.MASK)
    replies = {member: _reply(stage, member) for member in stage.members}
    for member, reply in replies.items():
        assert isinstance(reply, MaskedUpdate)
        if member in holders:
            masked = stage.cast.codec.decode(MaskedStatement, reply.statement.statement)
            body = replace(masked, complaints=(M0,))
            reply = replace(reply, statement=stage.by(member, Label.SIGN_MASKED, body))
        stage.deliver(member, reply)


def test_few_complaints_leave_t_good_shares_and_the_round_finishes(five: Stage) -> None:
    """k = 4, t = 3: one bad share can be spared."""
    _complain(five, (1,))
    assert (five.play().session.sum_up().total == expected_total(40, five.members)).all()


def test_too_many_complaints_void_the_attempt_and_name_the_dealer(five: Stage) -> None:
    with pytest.raises(AttemptVoidError, match="site-000 dealt bad shares to 2 members"):
        _complain(five, (1, 2))


def _with_a_dropout(stage: Stage) -> None:
    """Everything up to the last share, with member 0 lost after its bundle."""
    stage.at(Phase.MASK)
    for member in stage.members[1:]:
        stage.deliver(member, _reply(stage, member))
    stage.session.drop(M0, "lost")
    stage.play()


def test_a_blob_that_does_not_open_stops_the_round_and_names_its_owner(five: Stage) -> None:
    _with_a_dropout(five)
    frozen = five.session._frozen
    assert frozen is not None
    bad = replace(frozen.owners[M0], blob=bytes(len(frozen.owners[M0].blob)))
    five.session._frozen = replace(frozen, owners={**frozen.owners, M0: bad})
    with pytest.raises(PeerError, match="does not open") as caught:
        five.session.sum_up()
    assert caught.value.culprits == (five.cast.sites[M0],)


def test_a_blob_with_other_seeds_than_committed_stops_the_round(five: Stage) -> None:
    _with_a_dropout(five)
    frozen = five.session._frozen
    assert frozen is not None
    owner = frozen.owners[M0]
    commitments = {**owner.commitments, M1: (*owner.commitments[M1][:2], digest_of("another"))}
    changed = replace(owner, commitments=commitments)
    five.session._frozen = replace(frozen, owners={**frozen.owners, M0: changed})
    with pytest.raises(PeerError, match="other seeds than its bundle committed to") as caught:
        five.session.sum_up()
    assert caught.value.culprits == (five.cast.sites[M0],)


def test_too_few_good_shares_open_nothing(five: Stage) -> None:
    """Nobody is missing, but t good shares of one owner are not there: no sum rather than a wrong one."""
    five.at(Phase.UNMASK)
    withheld = dict.fromkeys(five.members[:3], M1) | dict.fromkeys(five.members[3:], M0)
    for member, owner in withheld.items():
        reply = _reply(five, member)
        answers = five.cast.codec.decode(ShareAnswers, reply.statement.statement)
        kept = {other: share for other, share in answers.shares.items() if other != owner}
        if member != five.members[-1]:
            _send_answers(five, member, replace(answers, shares=kept))
    with pytest.raises(RoundAbortedError, match="too few good shares"):
        _send_answers(five, member, replace(answers, shares=kept))
    with pytest.raises(RoundAbortedError, match="3 are needed"):
        five.session.sum_up()


# -- restart -----------------------------------------------------------------------------------


def _restarted(stage: Stage) -> None:
    stage.session = stage.open_session(stage.session.manifest)


@pytest.mark.parametrize("phase", BEFORE_FREEZE)
def test_an_attempt_that_was_not_frozen_cannot_be_resumed(five: Stage, phase: Phase) -> None:
    _restarted(five.at(phase))
    assert not five.session.resume()
    assert not five.session.frozen


@pytest.mark.parametrize("phase", [Phase.CONFIRM, Phase.UNMASK])
def test_a_frozen_attempt_asks_the_identical_thing_after_a_restart(five: Stage, phase: Phase) -> None:
    before = {member: five.at(phase).session.ask(member) for member in five.members}
    _restarted(five)
    assert five.session.resume()
    assert {member: five.session.ask(member) for member in five.members} == before
    assert (five.play().session.sum_up().total == expected_total(40, five.members)).all()


def test_a_restart_among_the_signatures_loses_none(five: Stage) -> None:
    five.at(Phase.CONFIRM)
    for member in five.members[:2]:
        five.deliver(member, _reply(five, member))
    _restarted(five)
    assert five.session.resume()
    assert (five.play().session.sum_up().total == expected_total(40, five.members)).all()


def test_a_signature_said_again_after_a_restart_costs_nobody_anything(five: Stage) -> None:
    """Durable, then the crash: its acknowledgement never came, so each member says it once more."""
    five.at(Phase.CONFIRM)
    replies = {member: _reply(five, member) for member in five.members}
    for member, reply in replies.items():
        five.deliver(member, reply)
    _restarted(five)
    assert five.session.resume()
    for member, reply in replies.items():
        five.session.receive(member, reply)
        assert five.session.ask(member) is not None
    assert (five.play().session.sum_up().total == expected_total(40, five.members)).all()


def test_a_restart_keeps_who_was_dropped_and_why() -> None:
    stage = Stage(5).play(Phase.MASK)
    stage.session.drop(M0, "the reason")
    stage.play(Phase.CONFIRM)
    before = stage.session.dropped
    _restarted(stage)
    assert stage.session.resume()
    assert stage.session.dropped == before
    assert before[0].reason == "the reason"


def test_a_stored_upload_that_changed_is_noticed(five: Stage) -> None:
    """A flipped bit on the disk would be a wrong sum in silence."""
    five.at(Phase.DONE)
    packed = bytearray(five.uploads.packed[five.session.h, M0])
    packed[0] ^= 1
    five.uploads.packed[five.session.h, M0] = bytes(packed)
    with pytest.raises(StorageError, match="upload of site-000 is not the one that was acknowledged"):
        five.session.sum_up()


def test_the_sum_does_not_depend_on_threads(five: Stage) -> None:
    five.at(Phase.DONE)
    assert (five.session.sum_up(threads=2).total == five.session.sum_up().total).all()
