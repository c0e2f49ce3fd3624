"""What a client refuses on the ring, where it has its neighbours' statements and of all others a digest."""

from __future__ import annotations

from dataclasses import replace

from simfed.cast import digest_of
from simfed.refusals import refused
from simfed.refusals_open import VICTIM
from simfed.stage import Stage

from secfed.errors import PeerError
from secfed.ids import Digest, MemberIndex
from secfed.secagg.messages import (
    Adverts,
    Bundles,
    Ciphertexts,
    ConfirmRequest,
    DeliveredCiphertexts,
    Listed,
    Phase,
)

HELD_BACK = "is listed by its digest and held back"
OTHER = "a statement is not the one of the list's digest"
STRANGER = "the list of digests names a member"


def _neighbours(stage: Stage) -> tuple[MemberIndex, ...]:
    return stage.session.graph.neighbours(VICTIM)


def _far(stage: Stage) -> MemberIndex:
    """Somebody who is no neighbour of the victim."""
    near = {VICTIM, *_neighbours(stage)}
    return next(member for member in stage.members if member not in near)


def _adverts(stage: Stage) -> Adverts:
    request = stage.at(Phase.ENCAPSULATE).ask(VICTIM)
    assert isinstance(request, Adverts)
    return request


def _lists(stage: Stage) -> Ciphertexts:
    request = stage.at(Phase.SHARE).ask(VICTIM)
    assert isinstance(request, Ciphertexts)
    return request


def _bundles(stage: Stage) -> Bundles:
    request = stage.at(Phase.MASK).ask(VICTIM)
    assert isinstance(request, Bundles)
    return request


def _with(listed: Listed, member: MemberIndex, digest: Digest | None) -> Listed:
    """The digests with another one for this member, or none."""
    found = dict(listed)
    found.pop(member, None)
    return tuple(sorted((found | ({} if digest is None else {member: digest})).items()))


# -- neighbours follow from all adverts --------------------------------------------------------


@refused(HELD_BACK, PeerError, ring=True)
def neighbours_that_the_aggregator_chose(stage: Stage) -> object:
    """Adverts in full of members that it would like to see around the victim."""
    request = _adverts(stage)
    chosen = [member for member in stage.members if member not in _neighbours(stage)][: len(request.adverts)]
    adverts = stage.session._collected.adverts
    shown = tuple((member, adverts[member]) for member in chosen)
    return stage.tell(VICTIM, replace(request, adverts=shown))


@refused(HELD_BACK, PeerError, ring=True)
def a_ring_of_other_adverts(stage: Stage) -> object:
    """One digest of its own making turns the ring, and other members are neighbours."""
    request = _adverts(stage)
    return stage.tell(
        VICTIM, replace(request, listed=_with(request.listed, _far(stage), digest_of("ground")))
    )


@refused(HELD_BACK, PeerError, ring=True)
def a_neighbours_advert_held_back(stage: Stage) -> object:
    request = _adverts(stage)
    return stage.tell(VICTIM, replace(request, adverts=request.adverts[1:]))


@refused(OTHER, PeerError, ring=True)
def another_advert_in_the_digests_in_the_victims_name(stage: Stage) -> object:
    request = _adverts(stage)
    return stage.tell(VICTIM, replace(request, listed=_with(request.listed, VICTIM, digest_of("forged"))))


@refused(OTHER, PeerError, ring=True)
def the_victim_left_out_of_the_digests(stage: Stage) -> object:
    request = _adverts(stage)
    return stage.tell(VICTIM, replace(request, listed=_with(request.listed, VICTIM, None)))


@refused(OTHER, PeerError, ring=True)
def another_digest_for_a_neighbour(stage: Stage) -> object:
    request = _adverts(stage)
    other = _neighbours(stage)[0]
    return stage.tell(VICTIM, replace(request, listed=_with(request.listed, other, digest_of("forged"))))


@refused(OTHER, PeerError, ring=True)
def no_digests_at_all(stage: Stage) -> object:
    return stage.tell(VICTIM, replace(_adverts(stage), listed=()))


@refused("the list of digests is not strictly sorted", PeerError, ring=True)
def a_digest_twice(stage: Stage) -> object:
    request = _adverts(stage)
    return stage.tell(VICTIM, replace(request, listed=(request.listed[0], *request.listed)))


@refused(STRANGER, PeerError, ring=True)
def a_digest_from_outside_the_cohort(stage: Stage) -> object:
    request = _adverts(stage)
    stranger = MemberIndex(len(stage.members))
    return stage.tell(VICTIM, replace(request, listed=_with(request.listed, stranger, digest_of("x"))))


# -- E and U1 on the ring ----------------------------------------------------------------------


@refused("the list of ciphertext lists names a member", PeerError, ring=True)
def a_ciphertext_list_of_no_neighbour(stage: Stage) -> object:
    request, far = _lists(stage), _far(stage)
    item = DeliveredCiphertexts(far, stage.session._collected.lists[far].index, None)
    lists = tuple(sorted((*request.lists, item), key=lambda each: each.sender))
    return stage.tell(VICTIM, replace(request, lists=lists))


@refused(HELD_BACK, PeerError, ring=True)
def a_neighbours_ciphertext_list_held_back(stage: Stage) -> object:
    request = _lists(stage)
    return stage.tell(VICTIM, replace(request, lists=request.lists[1:]))


@refused(STRANGER, PeerError, ring=True)
def a_listed_ciphertext_list_without_an_advert(stage: Stage) -> object:
    """A member that the victim saw absent among the adverts turns up among the lists."""
    later, far = _lists(stage), _far(stage)
    request = _adverts(stage)
    # Without one advert the ring is another, so everybody's adverts are shown.
    others = tuple(pair for pair in sorted(stage.session._collected.adverts.items()) if pair[0] != far)
    stage.tell(VICTIM, Adverts(others, _with(request.listed, far, None)))
    return stage.tell(VICTIM, replace(later, lists=()))


@refused(HELD_BACK, PeerError, ring=True)
def a_neighbours_bundle_held_back(stage: Stage) -> object:
    request = _bundles(stage)
    return stage.tell(VICTIM, replace(request, bundles=request.bundles[1:]))


@refused(STRANGER, PeerError, ring=True)
def a_listed_bundle_without_a_ciphertext_list(stage: Stage) -> object:
    later, far = _bundles(stage), _far(stage)
    request = _lists(stage)
    stage.tell(VICTIM, replace(request, listed=_with(request.listed, far, None)))
    return stage.tell(VICTIM, later)


@refused("the list of survivors names a member", PeerError, ring=True)
def a_survivor_that_was_not_in_the_rings_share_set(stage: Stage) -> object:
    request, far = _bundles(stage), _far(stage)
    stage.tell(VICTIM, replace(request, listed=_with(request.listed, far, None)))
    return stage.tell(VICTIM, ConfirmRequest(stage.members))
