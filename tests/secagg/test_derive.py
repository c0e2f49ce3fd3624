"""Derivations: both ends agree, every input matters, and what is sealed opens only in its place."""

from __future__ import annotations

from dataclasses import replace

import pytest

from secfed.crypto import agreement
from secfed.errors import PeerError
from secfed.ids import Digest, MemberIndex
from secfed.secagg import derive
from secfed.secagg.derive import EdgeKeys, HeldShares
from secfed.secagg.messages import BundleItem

H, OTHER_H = Digest(bytes(31) + b"\x01"), Digest(bytes(31) + b"\x02")
LOW, HIGH, THIRD = MemberIndex(3), MemberIndex(7), MemberIndex(9)


@pytest.fixture(scope="module")
def ends() -> tuple[EdgeKeys, EdgeKeys]:
    """One edge, as its lower and its higher end see it."""
    low, high = agreement.KeyPair.generate(), agreement.KeyPair.generate()
    ciphertext, shared = agreement.encapsulate(high.public)
    salt = derive.agreement_salt(b"low advert", b"high advert", ciphertext)
    at_low = agreement.edge_secret(low, high.public, shared, salt=salt)
    at_high = agreement.edge_secret(high, low.public, high.decapsulate(ciphertext), salt=salt)
    return derive.edge_keys(at_low, H, LOW, HIGH), derive.edge_keys(at_high, H, HIGH, LOW)


def test_both_ends_of_an_edge_have_one_mask_and_crossed_envelope_keys(
    ends: tuple[EdgeKeys, EdgeKeys],
) -> None:
    low, high = ends
    assert low.mask == high.mask
    assert (low.outgoing, low.incoming) == (high.incoming, high.outgoing)
    assert len({low.mask, low.outgoing, low.incoming}) == 3
    assert low.mask.hex() not in repr(low)


def test_another_attempt_gives_other_keys() -> None:
    pair = agreement.KeyPair.generate()
    secret = agreement.edge_secret(pair, pair.public, bytes(32), salt=b"")
    one, other = (derive.edge_keys(secret, h, LOW, HIGH) for h in (H, OTHER_H))
    assert not {one.mask, one.outgoing, one.incoming} & {other.mask, other.outgoing, other.incoming}


def test_an_envelope_opens_at_its_holder_alone(ends: tuple[EdgeKeys, EdgeKeys]) -> None:
    low, high = ends
    shares = HeldShares(b"s" * 32, b"r" * 32)
    sealed = derive.seal_envelope(low, H, LOW, HIGH, shares)
    assert derive.open_envelope(high, H, LOW, HIGH, sealed) == shares
    for h, owner, me in ((OTHER_H, LOW, HIGH), (H, THIRD, HIGH), (H, LOW, THIRD)):
        with pytest.raises(PeerError, match="does not open"):
            derive.open_envelope(high, h, owner, me, sealed)
    with pytest.raises(PeerError, match="does not open"):
        derive.open_envelope(low, H, LOW, HIGH, sealed)  # reflected to its sender
    assert b"s" * 32 not in sealed


def test_an_envelope_of_another_size_is_refused(ends: tuple[EdgeKeys, EdgeKeys]) -> None:
    low, high = ends
    sealed = derive.seal_envelope(low, H, LOW, HIGH, HeldShares(b"s" * 32, b"r" * 31))
    with pytest.raises(PeerError, match="something else than two shares"):
        derive.open_envelope(high, H, LOW, HIGH, sealed)


def test_a_blob_opens_under_its_owner_and_neighbours_alone() -> None:
    seeds = {HIGH: b"h" * 32, LOW: b"l" * 32}
    sealed = derive.seal_blob(b"K" * 32, H, THIRD, seeds)
    assert derive.open_blob(b"K" * 32, H, THIRD, (LOW, HIGH), sealed) == seeds
    wrong = [
        (b"k" * 32, H, THIRD, (LOW, HIGH)),
        (b"K" * 32, OTHER_H, THIRD, (LOW, HIGH)),
        (b"K" * 32, H, MemberIndex(1), (LOW, HIGH)),
        (b"K" * 32, H, THIRD, (LOW,)),
        (b"K" * 32, H, THIRD, (LOW, MemberIndex(8))),
    ]
    for secret, h, owner, neighbours in wrong:
        with pytest.raises(PeerError, match="does not open"):
            derive.open_blob(secret, h, owner, neighbours, sealed)


def test_every_commitment_is_bound_to_all_its_inputs() -> None:
    share = b"s" * 32
    commitments = [
        derive.self_commitment(H, LOW, HIGH, share),
        derive.self_commitment(OTHER_H, LOW, HIGH, share),
        derive.self_commitment(H, HIGH, LOW, share),
        derive.self_commitment(H, LOW, HIGH, b"t" * 32),
        derive.recovery_commitment(H, LOW, HIGH, share),
        derive.edge_commitment(H, LOW, HIGH, share),
        derive.edge_commitment(OTHER_H, LOW, HIGH, share),
        derive.edge_commitment(H, LOW, THIRD, share),
        derive.item_digest(H, LOW, HIGH, share),
        derive.item_digest(H, HIGH, LOW, share),
        derive.vector_digest(H, LOW, share),
    ]
    assert len(set(commitments)) == len(commitments)
    assert derive.edge_commitment(H, LOW, HIGH, share) == derive.edge_commitment(H, HIGH, LOW, share)


def test_an_owners_two_keys_differ_even_for_one_secret() -> None:
    keys = {
        derive.self_mask_seed(b"x" * 32, H, LOW),
        derive.self_mask_seed(b"x" * 32, H, HIGH),
        derive.self_mask_seed(b"x" * 32, OTHER_H, LOW),
        derive.blob_key(b"x" * 32, H, LOW),
    }
    assert len(keys) == 4


def test_a_bundle_item_is_digested_whole() -> None:
    item = BundleItem(b"e" * 80, Digest(b"a" * 32), Digest(b"b" * 32), Digest(b"c" * 32))
    changed = [
        replace(item, envelope=b"f" * 80),
        replace(item, self_share=item.recovery_share),
        replace(item, recovery_share=item.edge),
        replace(item, edge=item.self_share),
    ]
    assert len({derive.bundle_item_bytes(each) for each in (item, *changed)}) == 5
