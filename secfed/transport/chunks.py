"""Long byte strings in bounded pieces, and back: every piece but the last has the full size.

The fixed size makes a piece the unit of an upload's progress: whoever sends tiny ones to hold
a slot open is refused at the first.
"""

from __future__ import annotations

from collections.abc import Iterator

from secfed.errors import PeerError
from secfed.limits import CHUNK_BYTES_MAX

__all__ = ["Assembly", "split"]


def split(data: bytes | memoryview, *, piece_bytes: int = CHUNK_BYTES_MAX) -> Iterator[tuple[int, bytes]]:
    """(offset, piece) of all pieces, in order; none for empty data."""
    view = memoryview(data)
    for offset in range(0, len(view), piece_bytes):
        yield offset, bytes(view[offset : offset + piece_bytes])


class Assembly:
    """Checks that pieces come in order, full, and stop at the announced size; the inverse of `split`.

    Args:
        total_bytes: The size that is known beforehand.
        piece_bytes: Size of every piece but the last.
    """

    def __init__(self, total_bytes: int, *, piece_bytes: int = CHUNK_BYTES_MAX) -> None:
        self._total, self._piece = total_bytes, piece_bytes
        self._received = 0

    @property
    def complete(self) -> bool:
        """Whether everything is here."""
        return self._received == self._total

    @property
    def next(self) -> tuple[int, int]:
        """Offset and size of the piece that follows; of size 0 where none does."""
        return self._received, min(self._piece, self._total - self._received)

    def accept(self, offset: int, size: int) -> None:
        """Check the next piece before it is used.

        Raises:
            PeerError: Out of order, of another size than this place has, or past the end.
        """
        _, expected = self.next
        if expected == 0:
            raise PeerError("a piece comes after the announced end")
        if offset != self._received or size != expected:
            raise PeerError(
                f"a piece of {size} bytes at {offset}, where {expected} bytes at {self._received} follow"
            )
        self._received += size

    def finish(self) -> None:
        """Refuse an end before everything came.

        Raises:
            PeerError: Bytes are missing.
        """
        if not self.complete:
            raise PeerError(f"the transfer ended after {self._received} of {self._total} bytes")
