"""Pieces in order, full, and no more than was announced."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.errors import PeerError
from secfed.transport.chunks import Assembly, split


@given(data=st.binary(max_size=200), piece=st.integers(1, 50))
def test_pieces_put_together_are_the_data(data: bytes, piece: int) -> None:
    """split and Assembly are inverses for every size."""
    assembly, found = Assembly(len(data), piece_bytes=piece), b""
    for offset, part in split(data, piece_bytes=piece):
        assembly.accept(offset, len(part))
        found += part
    assembly.finish()
    assert found == data


@pytest.mark.parametrize(("offset", "size"), [(0, 9), (0, 11), (1, 10), (10, 10), (0, 0), (0, 25)], ids=str)
def test_a_first_piece_of_another_place_or_size_is_refused(offset: int, size: int) -> None:
    with pytest.raises(PeerError, match="where 10 bytes at 0 follow"):
        Assembly(25, piece_bytes=10).accept(offset, size)


def test_neither_more_nor_less_than_announced() -> None:
    assembly = Assembly(15, piece_bytes=10)
    assembly.accept(0, 10)
    with pytest.raises(PeerError, match="10 of 15"):
        assembly.finish()
    assembly.accept(10, 5)
    with pytest.raises(PeerError, match="after the announced end"):
        assembly.accept(15, 1)
