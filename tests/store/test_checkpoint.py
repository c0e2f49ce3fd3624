"""The note beside a journal: it spares verification, and shows what the journal itself cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secfed.errors import StorageError
from secfed.ids import Digest
from secfed.store.checkpoint import Checkpoint
from secfed.store.journal import EMPTY, Journal

NOTED, LATER = 20, 3


class Desk:
    """A journal with its checkpoint, opened as a daemon opens them; counts the lines it verifies."""

    def __init__(self, folder: Path, digest: Callable[[bytes], Digest], pen: Any) -> None:
        self.path = folder / "log.jsonl"
        self.note = folder / "log.jsonl.head"
        self.verified = 0
        self._digest, self._pen = digest, pen

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.path, signer=self._pen.sign, verifier=self._pen.check)

    def journal(self, checkpoint: Checkpoint) -> Journal:
        return Journal(
            self.path,
            digest=self._digest,
            signer=self._pen.sign,
            verifier=self._check,
            expect=checkpoint.expected,
            verified=checkpoint.verified,
        )

    def _check(self, line: bytes, signature: bytes) -> bool:
        self.verified += 1
        return bool(self._pen.check(line, signature))

    def reopened(self) -> int:
        """Open both; how many entries there are."""
        self.verified = 0
        with self.journal(self.checkpoint()) as journal:
            return journal.head.count

    def write(self) -> None:
        """Entries up to a note, and some after it, as a crash leaves them."""
        checkpoint = self.checkpoint()
        with self.journal(checkpoint) as journal:
            for number in range(NOTED + LATER):
                journal.append({"n": number})
                if number < NOTED:
                    checkpoint.save(journal.sound)


@pytest.fixture
def desk(tmp_path: Path, line_digest: Callable[[bytes], Digest], pen: Any) -> Desk:
    made = Desk(tmp_path, line_digest, pen)
    made.write()
    return made


def test_only_what_came_after_the_note_is_verified(desk: Desk) -> None:
    assert desk.reopened() == NOTED + LATER
    assert desk.verified == LATER


def test_it_goes_on_over_restarts(desk: Desk) -> None:
    for number in range(3):
        checkpoint = desk.checkpoint()
        with desk.journal(checkpoint) as journal:
            journal.append({"again": number})
            checkpoint.save(journal.sound)
    assert desk.reopened() == NOTED + LATER + 3
    assert desk.verified == 0
    desk.note.unlink()  # all of them are sound, not only noted
    assert desk.reopened() == desk.verified == NOTED + LATER + 3


def test_without_a_note_all_is_verified(desk: Desk) -> None:
    desk.note.unlink()
    assert desk.checkpoint().expected == EMPTY
    assert desk.reopened() == desk.verified == NOTED + LATER


def lines(desk: Desk) -> list[bytes]:
    return desk.path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("kept", [0, NOTED - 1], ids=["all of it", "one entry"])
def test_a_tail_that_was_cut_off_is_named(desk: Desk, kept: int) -> None:
    desk.path.write_bytes(b"".join(lines(desk)[:kept]))
    before = desk.path.read_bytes()
    with pytest.raises(StorageError, match="is missing: the tail was cut off"):
        desk.reopened()
    assert desk.path.read_bytes() == before


def test_a_cut_within_a_line_leaves_the_file_alone(desk: Desk) -> None:
    desk.path.write_bytes(b"".join(lines(desk)[: NOTED - 1]) + b'{"body":')
    before = desk.path.read_bytes()
    with pytest.raises(StorageError, match="is missing: the tail was cut off"):
        desk.reopened()
    assert desk.path.read_bytes() == before


@pytest.mark.parametrize("entry", [0, NOTED - 1, NOTED, NOTED + LATER - 1])
def test_a_flipped_byte_is_found_before_and_after_the_note(desk: Desk, entry: int) -> None:
    data = bytearray(desk.path.read_bytes())
    data[len(b"".join(lines(desk)[:entry])) + 9] ^= 1  # within the body
    desk.path.write_bytes(data)
    with pytest.raises(StorageError, match=rf"log\.jsonl: entry {entry} "):
        desk.reopened()
    assert desk.path.read_bytes() == data


def test_every_flipped_bit_of_the_note_is_found(desk: Desk) -> None:
    good = desk.note.read_bytes()
    for position in range(len(good) - 1):
        desk.note.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(StorageError, match=r"log\.jsonl\.head was changed"):
            desk.checkpoint()


@pytest.mark.parametrize("data", [b"", b"{}\n", b"\xff" * 4096])
def test_what_is_no_note_is_refused(desk: Desk, data: bytes) -> None:
    desk.note.write_bytes(data)
    with pytest.raises(StorageError, match=r"log\.jsonl\.head was changed"):
        desk.checkpoint()


def test_another_journal_under_the_note_is_named(desk: Desk) -> None:
    """As many entries of the same key, and none of them the one that was known."""
    desk.path.unlink()
    note = desk.note.read_bytes()
    desk.note.unlink()
    with desk.journal(desk.checkpoint()) as journal:
        for number in range(NOTED + LATER):
            journal.append({"other": number})
    desk.note.write_bytes(note)
    with pytest.raises(StorageError, match=f"entry {NOTED - 1} is not the one that was known"):
        desk.reopened()


@pytest.mark.parametrize("entry", [0, NOTED, NOTED + LATER - 1])
def test_the_note_vouches_for_what_was_written_not_for_what_lies_there(desk: Desk, entry: int) -> None:
    """A line that was verified or written is exchanged before the note is: the note does not cover it up."""
    checkpoint = desk.checkpoint()
    with desk.journal(checkpoint) as journal:
        data = bytearray(desk.path.read_bytes())
        data[len(b"".join(lines(desk)[:entry])) + 9] ^= 1  # within the body; as long as before
        desk.path.write_bytes(data)
        journal.append({"n": NOTED + LATER})
        checkpoint.save(journal.sound)
    with pytest.raises(StorageError, match=rf"log\.jsonl: entry {entry} "):
        desk.reopened()


def test_a_line_put_in_after_the_last_write_is_found_at_the_next_start(desk: Desk) -> None:
    checkpoint = desk.checkpoint()
    with desk.journal(checkpoint) as journal:
        with desk.path.open("ab") as file:
            file.write(b'{"n":"nobody signed this"}\n')
        checkpoint.save(journal.sound)
    with pytest.raises(StorageError, match=rf"log\.jsonl: entry {NOTED + LATER} "):
        desk.reopened()


def test_a_completed_last_line_is_noted_with_its_newline(desk: Desk) -> None:
    """A crash cut off no more than the newline: the entry counts, and a note made then is the file's."""
    desk.path.write_bytes(desk.path.read_bytes()[:-1])
    checkpoint = desk.checkpoint()
    with desk.journal(checkpoint) as journal:
        checkpoint.save(journal.sound)
    assert desk.reopened() == NOTED + LATER
    assert desk.verified == 0
