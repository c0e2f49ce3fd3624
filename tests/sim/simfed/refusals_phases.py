"""What a client refuses between its advert and its last share: every row of the protocol's table."""

from __future__ import annotations

from dataclasses import replace

from simfed.cast import digest_of
from simfed.refusals import refused
from simfed.refusals_open import VICTIM, record
from simfed.stage import Stage

from secfed.crypto.labels import Label
from secfed.errors import DifferenceRuleError, PeerError, ShareConflictError, UnexpectedMessageError
from secfed.ids import MemberIndex
from secfed.secagg import derive
from secfed.secagg.messages import (
    Advert,
    Adverts,
    BundleItem,
    Bundles,
    CiphertextIndex,
    Ciphertexts,
    Confirm,
    ConfirmRequest,
    ItemDigest,
    Phase,
    ShareIndex,
    UnmaskRequest,
)

LOW, HIGH = MemberIndex(0), MemberIndex(2)
"""Neighbours of the victim on either side."""


# -- encapsulate -------------------------------------------------------------------------------


def _adverts(stage: Stage) -> Adverts:
    request = stage.at(Phase.ENCAPSULATE).ask(VICTIM)
    assert isinstance(request, Adverts)
    return request


def _with_advert(stage: Stage, member: MemberIndex, advert: Advert) -> object:
    """Show the victim an advert that its (corrupt) author really signed."""
    pairs = dict(_adverts(stage).adverts) | {member: stage.by(member, Label.SIGN_ADVERT, advert)}
    return stage.tell(VICTIM, Adverts(tuple(pairs.items())))


def _advert_of(stage: Stage, member: MemberIndex) -> Advert:
    return stage.cast.codec.decode(Advert, dict(_adverts(stage).adverts)[member].statement)


@refused("the list of adverts is not strictly sorted", PeerError)
def a_member_twice_among_the_adverts(stage: Stage) -> object:
    adverts = _adverts(stage).adverts
    return stage.tell(VICTIM, Adverts((adverts[0], *adverts)))


@refused("the list of adverts names a member", PeerError)
def an_advert_from_outside_the_cohort(stage: Stage) -> object:
    adverts = _adverts(stage).adverts
    return stage.tell(VICTIM, Adverts((*adverts, (MemberIndex(len(stage.members)), adverts[0][1]))))


@refused("digests stand beside a list that is whole", PeerError)
def digests_where_everybody_masks_with_everybody(stage: Stage) -> object:
    """Up to 128 members a list is whole; what stands beside it would make another transcript."""
    request = _adverts(stage)
    return stage.tell(VICTIM, replace(request, listed=((MemberIndex(0), digest_of("advert")),)))


@refused("does not verify (sign_advert)", PeerError)
def swapped_keys(stage: Stage) -> object:
    pairs = dict(_adverts(stage).adverts)
    pairs[LOW], pairs[HIGH] = pairs[HIGH], pairs[LOW]
    return stage.tell(VICTIM, Adverts(tuple(pairs.items())))


@refused("does not verify (sign_advert)", PeerError)
def keys_of_an_earlier_attempt(stage: Stage) -> object:
    _adverts(stage)
    advert = stage.cast.codec.encode(Advert(bytes([9]) + bytes(31), _advert_of(stage, LOW).mlkem))
    earlier = stage.cast.sign(stage.cast.sites[LOW], Label.SIGN_ADVERT, digest_of("old h"), advert)
    pairs = dict(_adverts(stage).adverts) | {LOW: earlier}
    return stage.tell(VICTIM, Adverts(tuple(pairs.items())))


@refused("another advert in this site's name", PeerError)
def keys_in_the_own_name(stage: Stage) -> object:
    return _with_advert(stage, VICTIM, replace(_advert_of(stage, VICTIM), x25519=bytes([9]) + bytes(31)))


@refused("is of low order", PeerError)
def a_low_order_key(stage: Stage) -> object:
    return _with_advert(stage, LOW, replace(_advert_of(stage, LOW), x25519=bytes(32)))


@refused("fails the encapsulation-key check", PeerError)
def an_invalid_mlkem_key(stage: Stage) -> object:
    return _with_advert(stage, LOW, replace(_advert_of(stage, LOW), mlkem=b"\xff" * 1184))


@refused("repeated or reflected", PeerError)
def a_repeated_x25519_key(stage: Stage) -> object:
    return _with_advert(stage, LOW, replace(_advert_of(stage, LOW), x25519=_advert_of(stage, HIGH).x25519))


@refused("repeated or reflected", PeerError)
def a_reflected_x25519_key(stage: Stage) -> object:
    return _with_advert(stage, LOW, replace(_advert_of(stage, LOW), x25519=_advert_of(stage, VICTIM).x25519))


@refused("repeated or reflected", PeerError)
def a_reflected_mlkem_key(stage: Stage) -> object:
    return _with_advert(stage, HIGH, replace(_advert_of(stage, HIGH), mlkem=_advert_of(stage, VICTIM).mlkem))


@refused("fewer adverts than the threshold", PeerError)
def too_few_adverts(stage: Stage) -> object:
    adverts = _adverts(stage).adverts[: stage.session.params.threshold]
    return stage.tell(VICTIM, Adverts(adverts))


# -- share -------------------------------------------------------------------------------------


def _ciphertexts(stage: Stage) -> Ciphertexts:
    request = stage.at(Phase.SHARE).ask(VICTIM)
    assert isinstance(request, Ciphertexts)
    return request


def _with_list(stage: Stage, sender: MemberIndex, **changes: object) -> object:
    lists = {item.sender: item for item in _ciphertexts(stage).lists}
    lists[sender] = replace(lists[sender], **changes)  # type: ignore[arg-type]
    return stage.tell(VICTIM, Ciphertexts(tuple(lists.values())))


def _list_of(stage: Stage, sender: MemberIndex) -> CiphertextIndex:
    item = next(item for item in _ciphertexts(stage).lists if item.sender == sender)
    return stage.cast.codec.decode(CiphertextIndex, item.index.statement)


@refused("the list of ciphertext lists is not strictly sorted", PeerError)
def a_ciphertext_list_twice(stage: Stage) -> object:
    lists = _ciphertexts(stage).lists
    return stage.tell(VICTIM, Ciphertexts((lists[0], *lists)))


@refused("the list of ciphertext lists names a member", PeerError)
def a_ciphertext_list_without_an_advert(stage: Stage) -> object:
    adverts = tuple(pair for pair in _adverts(stage).adverts if pair[0] != LOW)
    lists = stage.at(Phase.SHARE).ask(VICTIM)
    stage.at(Phase.ENCAPSULATE).tell(VICTIM, Adverts(adverts))
    return stage.tell(VICTIM, lists)


@refused("does not verify (sign_ciphertexts)", PeerError)
def a_ciphertext_list_signed_by_another(stage: Stage) -> object:
    forged = stage.by(HIGH, Label.SIGN_CIPHERTEXTS, _list_of(stage, LOW))
    return _with_list(stage, LOW, index=forged)


@refused("is for a lower-numbered member", PeerError)
def a_ciphertext_for_a_lower_member(stage: Stage) -> object:
    items = (ItemDigest(LOW, digest_of("ciphertext")), *_list_of(stage, HIGH).items)
    return _with_list(stage, HIGH, index=stage.by(HIGH, Label.SIGN_CIPHERTEXTS, CiphertextIndex(items)))


@refused("from the higher-numbered end", PeerError)
def a_ciphertext_from_the_wrong_end(stage: Stage) -> object:
    return _with_list(stage, HIGH, own=bytes(1088))


@refused("ciphertext list leaves this site out", PeerError)
def a_ciphertext_withheld(stage: Stage) -> object:
    return _with_list(stage, LOW, own=None)


@refused("ciphertext list leaves this site out", PeerError)
def a_ciphertext_list_without_this_site(stage: Stage) -> object:
    items = tuple(item for item in _list_of(stage, LOW).items if item.member != VICTIM)
    return _with_list(stage, LOW, index=stage.by(LOW, Label.SIGN_CIPHERTEXTS, CiphertextIndex(items)))


@refused("ciphertext is not the one that its sender signed", PeerError)
def a_ciphertext_of_the_aggregators_own(stage: Stage) -> object:
    return _with_list(stage, LOW, own=bytes(1088))


@refused("fewer than t neighbours have agreed", PeerError)
def missing_neighbours_in_e(stage: Stage) -> object:
    lists = _ciphertexts(stage).lists[: stage.session.params.threshold - 1]
    return stage.tell(VICTIM, Ciphertexts(lists))


# -- mask --------------------------------------------------------------------------------------


def _bundles(stage: Stage) -> Bundles:
    request = stage.at(Phase.MASK).ask(VICTIM)
    assert isinstance(request, Bundles)
    return request


def _with_bundle(stage: Stage, sender: MemberIndex, **changes: object) -> object:
    bundles = {item.sender: item for item in _bundles(stage).bundles}
    bundles[sender] = replace(bundles[sender], **changes)  # type: ignore[arg-type]
    return stage.tell(VICTIM, Bundles(tuple(bundles.values())))


def item_of(stage: Stage, sender: MemberIndex) -> BundleItem:
    """What a neighbour has for the victim."""
    item = next(item.own for item in _bundles(stage).bundles if item.sender == sender)
    assert item is not None
    return item


def index_of(stage: Stage, sender: MemberIndex) -> ShareIndex:
    """The index that a neighbour signed."""
    item = next(item for item in _bundles(stage).bundles if item.sender == sender)
    return stage.cast.codec.decode(ShareIndex, item.index.statement)


def with_item(stage: Stage, sender: MemberIndex, item: BundleItem) -> object:
    """A bundle item of a corrupt neighbour's making, under its own signature."""
    index = index_of(stage, sender)
    data = derive.item_digest(stage.session.h, sender, VICTIM, derive.bundle_item_bytes(item))
    items = tuple(ItemDigest(VICTIM, data) if entry.member == VICTIM else entry for entry in index.items)
    statement = stage.by(sender, Label.SIGN_BUNDLE, replace(index, items=items))
    return _with_bundle(stage, sender, index=statement, own=item)


@refused("the list of bundles is not strictly sorted", PeerError)
def a_bundle_twice(stage: Stage) -> object:
    bundles = _bundles(stage).bundles
    return stage.tell(VICTIM, Bundles((bundles[0], *bundles)))


@refused("the list of bundles names a member", PeerError)
def a_member_in_u1_without_an_edge(stage: Stage) -> object:
    """A member whose ciphertext list was withheld would enter the share set without a mask."""
    lists = tuple(item for item in _ciphertexts(stage).lists if item.sender != LOW)
    bundles = _bundles(stage)
    stage.at(Phase.SHARE).tell(VICTIM, Ciphertexts(lists))
    return stage.tell(VICTIM, bundles)


@refused("does not verify (sign_bundle)", PeerError)
def a_bundle_signed_by_another(stage: Stage) -> object:
    index = index_of(stage, LOW)
    return _with_bundle(stage, LOW, index=stage.by(HIGH, Label.SIGN_BUNDLE, index))


@refused("neighbour's bundle does not list this site", PeerError)
def a_bundle_that_does_not_list_this_site(stage: Stage) -> object:
    index = index_of(stage, LOW)
    items = tuple(entry for entry in index.items if entry.member != VICTIM)
    return _with_bundle(stage, LOW, index=stage.by(LOW, Label.SIGN_BUNDLE, replace(index, items=items)))


@refused("neighbour's bundle does not list this site", PeerError)
def a_bundle_item_withheld(stage: Stage) -> object:
    return _with_bundle(stage, LOW, own=None)


@refused("bundle item is not the one that its owner signed", PeerError)
def a_bundle_item_of_the_aggregators_own(stage: Stage) -> object:
    return _with_bundle(stage, LOW, own=replace(item_of(stage, LOW), envelope=bytes(80)))


@refused("two ends of an edge commit to different masks", PeerError)
def another_edge_commitment(stage: Stage) -> object:
    return with_item(stage, LOW, replace(item_of(stage, LOW), edge=digest_of("another seed")))


@refused("fewer than t neighbours are in the share set", PeerError)
def missing_neighbours_in_u1(stage: Stage) -> object:
    bundles = _bundles(stage).bundles[: stage.session.params.threshold - 1]
    return stage.tell(VICTIM, Bundles(bundles))


# -- confirm -----------------------------------------------------------------------------------


def _confirm(stage: Stage, survivors: tuple[int, ...]) -> object:
    request = ConfirmRequest(tuple(map(MemberIndex, survivors)))
    return stage.at(Phase.CONFIRM).tell(VICTIM, request)


@refused("the list of survivors is not strictly sorted", PeerError)
def a_survivor_twice(stage: Stage) -> object:
    return _confirm(stage, (0, 0, *stage.members[1:]))


@refused("the list of survivors names a member", PeerError)
def a_survivor_outside_u1(stage: Stage) -> object:
    """A member whose bundle this client never saw would enter with masks that do not cancel."""
    bundles = tuple(item for item in _bundles(stage).bundles if item.sender != HIGH)
    stage.tell(VICTIM, Bundles(bundles))
    return stage.tell(VICTIM, ConfirmRequest(stage.members))


@refused("or this site is missing from it", PeerError)
def survivors_without_this_site(stage: Stage) -> object:
    return _confirm(stage, tuple(member for member in stage.members if member != VICTIM))


@refused("or this site is missing from it", PeerError)
def this_site_out_of_its_place(stage: Stage) -> object:
    others = tuple(member for member in stage.members if member != VICTIM)
    return _confirm(stage, (VICTIM, *others))


@refused("survivors are below the floor", PeerError)
def too_few_survivors(stage: Stage) -> object:
    return _confirm(stage, stage.members[: stage.session.params.floor - 1])


@refused("of the same contribution differ by 1 member", DifferenceRuleError)
def a_sum_with_one_member_fewer(stage: Stage) -> object:
    """The set without the last member was summed before, over the same base."""
    stage.at(Phase.CONFIRM)
    record(stage).answer(
        stage.cast.terms(round=9).round_id, 1, digest_of("earlier"), stage.cast.sites[:-1], stage.terms.base
    )
    return stage.tell(VICTIM, ConfirmRequest(stage.members))


@refused("ConfirmRequest came while Confirmed", UnexpectedMessageError)
def two_certified_survivor_sets(stage: Stage) -> object:
    stage.at(Phase.CONFIRM).tell(VICTIM, ConfirmRequest(stage.members[:-1]))
    return stage.tell(VICTIM, ConfirmRequest(stage.members))


# -- unmask ------------------------------------------------------------------------------------


def _unmask(stage: Stage) -> UnmaskRequest:
    request = stage.at(Phase.UNMASK).ask(VICTIM)
    assert isinstance(request, UnmaskRequest)
    return request


@refused("another survivor set than the one signed here", ShareConflictError)
def other_survivors_than_signed(stage: Stage) -> object:
    request = _unmask(stage)
    return stage.tell(VICTIM, replace(request, survivors=request.survivors[:-1]))


@refused("signatures are below the quorum", PeerError)
def too_few_signatures(stage: Stage) -> object:
    request = _unmask(stage)
    signatures = request.signatures[: stage.session.params.quorum - 1]
    return stage.tell(VICTIM, replace(request, signatures=signatures))


@refused("survivors' signatures is not strictly sorted", PeerError)
def one_signature_many_times(stage: Stage) -> object:
    request = _unmask(stage)
    return stage.tell(VICTIM, replace(request, signatures=(request.signatures[0],) * len(stage.members)))


@refused("survivors' signatures names a member", PeerError)
def a_signature_of_no_survivor(stage: Stage) -> object:
    """A member that is not in the set does not count for it, even if it signs."""
    survivors = stage.members[:-1]
    stage.at(Phase.CONFIRM).tell(VICTIM, ConfirmRequest(survivors))
    confirm = _confirm_over(stage, survivors)
    signatures = tuple(
        (member, stage.by(member, Label.SIGN_CONFIRM, confirm).signature) for member in stage.members
    )
    return stage.tell(VICTIM, UnmaskRequest(survivors, signatures))


def _confirm_over(stage: Stage, survivors: tuple[MemberIndex, ...]) -> Confirm:
    statement = record(stage).confirmed(stage.session.h)
    assert statement is not None
    return replace(stage.cast.codec.decode(Confirm, statement), survivors=survivors)


@refused("does not verify (sign_confirm)", PeerError)
def signatures_over_another_transcript(stage: Stage) -> object:
    """What members sign who were shown other lists does not count here."""
    request = _unmask(stage)
    other = replace(_confirm_over(stage, stage.members), transcript=digest_of("another transcript"))
    signatures = tuple(
        (member, stage.by(member, Label.SIGN_CONFIRM, other).signature) for member in stage.members
    )
    return stage.tell(VICTIM, replace(request, signatures=signatures))


@refused("another survivor set than the one answered here", ShareConflictError)
def double_unmask(stage: Stage) -> object:
    request = _unmask(stage)
    stage.tell(VICTIM, request)
    return stage.tell(VICTIM, replace(request, survivors=request.survivors[:-1]))
