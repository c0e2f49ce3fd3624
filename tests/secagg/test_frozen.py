"""What a restart needs comes back as it was written; damage is an error that says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.errors import StorageError
from secfed.ids import ClientId, Digest, MemberIndex
from secfed.secagg.frozen import Frozen, Owner, Signatures
from secfed.secagg.messages import Dropped

digests = st.binary(min_size=32, max_size=32).map(Digest)
members = st.integers(0, 127).map(MemberIndex)


@st.composite
def owners(draw: st.DrawFn) -> Owner:
    holders = tuple(sorted(draw(st.sets(members, max_size=5))))
    commitments = {holder: (draw(digests), draw(digests), draw(digests)) for holder in holders}
    return Owner(holders, commitments, draw(st.binary(max_size=60)))


@st.composite
def frozen_attempts(draw: st.DrawFn) -> Frozen:
    survivors = sorted(draw(st.sets(members, max_size=5)))
    dropped = st.builds(Dropped, st.just(ClientId("site-a")), st.sampled_from(["mask", "share"]), st.text())
    return Frozen(
        vectors={member: draw(digests) for member in survivors},
        transcript=draw(digests),
        owners=draw(st.dictionaries(members, owners(), max_size=4)),
        dropped=tuple(draw(st.lists(dropped, max_size=3))),
    )


@given(frozen_attempts())
def test_a_frozen_attempt_comes_back(frozen: Frozen) -> None:
    again = Frozen.from_bytes(frozen.to_bytes())
    assert again == frozen
    assert again.to_bytes() == Frozen.from_bytes(again.to_bytes()).to_bytes()
    assert again.survivors == tuple(sorted(frozen.vectors))


@given(st.lists(st.tuples(members, st.binary(min_size=64, max_size=64))).map(tuple))
def test_signatures_come_back(pairs: tuple[tuple[MemberIndex, bytes], ...]) -> None:
    assert Signatures.from_bytes(Signatures(pairs).to_bytes()) == Signatures(pairs)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b'{"vectors":[[0,"zz"]],"transcript":"","owners":[],"dropped":[]}',
        b'{"vectors":[],"transcript":"","owners":[{"member":1,"holders":[2],"commitments":"","blob":""}],'
        b'"dropped":[]}',
        b'{"vectors":[],"transcript":"","owners":[],"dropped":[{"name":"x"}]}',
        b"\xff\xfe",
    ],
)
def test_a_damaged_record_is_named(data: bytes) -> None:
    with pytest.raises(StorageError, match="frozen attempt is damaged"):
        Frozen.from_bytes(data)


@pytest.mark.parametrize("data", [b"", b"{}x", b'[[1,"*"]]', b"[[1]]", b"3"])
def test_damaged_signatures_are_named(data: bytes) -> None:
    with pytest.raises(StorageError, match="signatures of a frozen attempt are damaged"):
        Signatures.from_bytes(data)
