"""The journal: what is acknowledged stays, what is damaged is named, what was never acknowledged goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secfed.errors import LedgerError, LockedError, StorageError
from secfed.ids import NO_DIGEST, Digest
from secfed.store import journal as journals
from secfed.store.journal import EMPTY, FaultKind, Head, Journal

LineDigest = Callable[[bytes], Digest]
BODIES = [{"n": number, "text": f'é ","sig":"{number}'} for number in range(5)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


@pytest.fixture
def signed_journal(path: Path, line_digest: LineDigest, pen: Any) -> Callable[..., Journal]:
    def opened(**options: Any) -> Journal:
        return Journal(path, digest=line_digest, signer=pen.sign, verifier=pen.check, **options)

    return opened


@pytest.fixture
def head(signed_journal: Callable[..., Journal]) -> Head:
    """The head of a closed, signed journal of five entries."""
    with signed_journal() as journal:
        for body in BODIES:
            journal.append(body)
        return journal.head


def test_entries_come_back_in_order(
    signed_journal: Callable[..., Journal], head: Head, line_digest: LineDigest, pen: Any, path: Path
) -> None:
    with signed_journal() as journal:
        assert journal.head == head
        assert [entry.body for entry in journal.entries()] == BODIES
        assert [entry.seq for entry in journal.entries()] == list(range(5))
        added = journal.append({"n": 5})
        assert journal.head == Head(6, added.digest)
        assert list(journal.entries())[-1] == added
    report = journals.verify(path, digest=line_digest, verifier=pen.check)
    assert report == journals.ChainReport(Head(6, added.digest), 0, None)


def test_a_line_is_what_the_format_says(head: Head, path: Path, line_digest: LineDigest, pen: Any) -> None:
    """Recomputed from the documented form alone: `prev` is the digest of the line before."""
    prev = NO_DIGEST
    for seq, line in enumerate(path.read_bytes().splitlines()):
        entry = json.loads(line)
        assert list(entry) == ["body", "prev", "seq", "sig"]
        assert (entry["seq"], entry["prev"], entry["body"]) == (seq, prev.hex(), BODIES[seq])
        prev = line_digest(line)
    assert head == Head(5, prev)


def test_the_file_is_private(head: Head, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_new_journal_is_empty(signed_journal: Callable[..., Journal]) -> None:
    with signed_journal() as journal:
        assert journal.head == EMPTY
        assert list(journal.entries()) == []


def test_a_second_writer_is_turned_away(signed_journal: Callable[..., Journal]) -> None:
    with signed_journal(), pytest.raises(LockedError):
        signed_journal()


@pytest.mark.parametrize("bytes_more", [30, -1], ids=["a foreign line", "a cut"])
def test_a_file_that_somebody_else_changed_is_not_written_on(
    signed_journal: Callable[..., Journal], head: Head, path: Path, bytes_more: int
) -> None:
    """Not even where the size is as before by then: only another start, which verifies, ends it."""
    good = path.read_bytes()
    other = good + b"x" * 29 + b"\n" if bytes_more > 0 else good[:bytes_more]
    with signed_journal() as journal:
        path.write_bytes(other)
        with pytest.raises(StorageError, match=f"has {len(other)} bytes and not the {len(good)}"):
            journal.append({"n": 5})
        assert path.read_bytes() == other
        path.write_bytes(good)
        with pytest.raises(StorageError, match="an earlier write failed"):
            journal.append({"n": 5})
        assert journal.head == head


def test_a_float_is_refused_and_harms_nothing(signed_journal: Callable[..., Journal]) -> None:
    with signed_journal() as journal:
        with pytest.raises(TypeError):
            journal.append({"epsilon": 1.5})
        journal.append({"epsilon": "1.5"})


@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_every_flipped_bit_is_found_and_the_file_left_alone(
    head: Head, path: Path, line_digest: LineDigest, pen: Any, position: int, bit: int
) -> None:
    """The last newline included: it must not pass for a line that a crash cut short."""
    sound = path.read_bytes()
    damaged = bytearray(sound)
    damaged[position % len(sound)] ^= 1 << bit
    copy = path.with_name("copy.jsonl")
    copy.write_bytes(damaged)
    report = journals.verify(copy, digest=line_digest, verifier=pen.check)
    line = sound[: position % len(sound)].count(b"\n")
    assert report.fault is not None
    assert report.fault.entry in (line, line + 1)  # a changed newline joins two lines
    with pytest.raises(LedgerError, match=f"copy.jsonl: entry {report.fault.entry} ") as refused:
        Journal(copy, digest=line_digest, signer=pen.sign, verifier=pen.check, error=LedgerError)
    assert str(report.fault) in str(refused.value)
    assert copy.read_bytes() == damaged


def _verdict(path: Path, lines: list[bytes], line_digest: LineDigest, pen: Any, **options: Any) -> Any:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return journals.verify(path, digest=line_digest, verifier=pen.check if pen else None, **options).fault


def test_swapped_entries_are_named(head: Head, path: Path, line_digest: LineDigest, pen: Any) -> None:
    lines = path.read_bytes().splitlines()
    lines[1], lines[2] = lines[2], lines[1]
    assert _verdict(path, lines, line_digest, pen) == journals.Fault(1, FaultKind.MISPLACED)


def test_an_entry_taken_out_is_named(head: Head, path: Path, line_digest: LineDigest, pen: Any) -> None:
    lines = path.read_bytes().splitlines()
    del lines[3]
    assert _verdict(path, lines, line_digest, pen) == journals.Fault(3, FaultKind.MISPLACED)


def test_a_changed_entry_is_named(head: Head, path: Path, line_digest: LineDigest, pen: Any) -> None:
    lines = path.read_bytes().splitlines()
    lines[2] = lines[2].replace(b'"n":2', b'"n":9')
    assert _verdict(path, lines, line_digest, pen) == journals.Fault(2, FaultKind.CHANGED)


def test_an_entry_from_another_journal_of_the_same_key_is_named(
    head: Head, path: Path, line_digest: LineDigest, pen: Any
) -> None:
    lines = path.read_bytes().splitlines()
    other = path.with_name("other.jsonl")
    with Journal(other, digest=line_digest, signer=pen.sign, verifier=pen.check) as journal:
        for number in range(5):
            journal.append({"other": number})
    lines[4] = other.read_bytes().splitlines()[4]
    assert _verdict(path, lines, line_digest, pen) == journals.Fault(4, FaultKind.SPLICED)


def test_a_foreign_signature_is_named(
    head: Head, path: Path, line_digest: LineDigest, pen: Any, other_pen: Any
) -> None:
    """Somebody with another key writes the rest of the journal anew, chained without a gap."""
    lines = path.read_bytes().splitlines()
    forged = path.with_name("forged.jsonl")
    forged.write_bytes(b"".join(line + b"\n" for line in lines[:2]))
    with Journal(
        forged, digest=line_digest, signer=other_pen.sign, verifier=lambda _line, _sig: True
    ) as journal:
        journal.append({"n": 2})
        journal.append({"n": 3})
    found = journals.verify(forged, digest=line_digest, verifier=pen.check)
    assert found.fault == journals.Fault(2, FaultKind.FOREIGN)
    assert found.head.count == 2
    forged_lines = forged.read_bytes().splitlines()[:3]
    assert _verdict(forged, forged_lines, line_digest, pen) == journals.Fault(2, FaultKind.UNPROVEN)


@pytest.mark.parametrize("kept", [0, 3, 4])
def test_a_cut_tail_shows_against_a_known_head_and_only_then(
    head: Head,
    path: Path,
    line_digest: LineDigest,
    pen: Any,
    signed_journal: Callable[..., Journal],
    kept: int,
) -> None:
    lines = path.read_bytes().splitlines()[:kept]
    assert _verdict(path, lines, line_digest, pen) is None
    assert _verdict(path, lines, line_digest, pen, expect=head) == journals.Fault(kept, FaultKind.CUT)
    with pytest.raises(StorageError, match="tail was cut"):
        signed_journal(expect=head)


def test_another_history_of_the_same_length_shows_against_a_known_head(
    head: Head, path: Path, line_digest: LineDigest, pen: Any, signed_journal: Callable[..., Journal]
) -> None:
    path.unlink()
    with signed_journal() as journal:
        for number in range(6):
            journal.append({"rewritten": number})
    assert journals.verify(path, digest=line_digest, verifier=pen.check, expect=head).fault == journals.Fault(
        4, FaultKind.REPLACED
    )
    with pytest.raises(StorageError, match="entry 4 is not the one"):
        signed_journal(expect=head)


def test_an_older_known_head_is_satisfied_by_a_longer_journal(
    head: Head, signed_journal: Callable[..., Journal]
) -> None:
    with signed_journal(expect=head) as journal:
        journal.append({"n": 5})
    signed_journal(expect=head).close()


def test_in_an_unsigned_journal_the_chain_still_names_the_changed_entry(
    path: Path, line_digest: LineDigest
) -> None:
    with Journal(path, digest=line_digest) as journal:
        for body in BODIES:
            journal.append(body)
    lines = path.read_bytes().splitlines()
    lines[2] = lines[2].replace(b'"n":2', b'"n":9')
    assert _verdict(path, lines, line_digest, None) == journals.Fault(2, FaultKind.CHANGED)


def test_a_signed_journal_is_not_read_as_an_unsigned_one(
    head: Head, path: Path, line_digest: LineDigest
) -> None:
    with pytest.raises(StorageError, match="entry 0"):
        Journal(path, digest=line_digest)


@pytest.mark.parametrize("missing", range(2, 200, 13))
def test_a_torn_last_line_is_put_aside_and_the_rest_stands(
    head: Head, path: Path, signed_journal: Callable[..., Journal], missing: int
) -> None:
    sound = path.read_bytes()
    torn = sound[:-missing]
    stands = torn[: torn.rindex(b"\n") + 1]
    path.write_bytes(torn)
    with signed_journal() as journal:
        assert journal.head.count == 4
        assert path.read_bytes() == stands
        assert path.with_name("journal.jsonl.torn-0").read_bytes() == torn[len(stands) :]
        journal.append({"n": "again"})
    path.write_bytes(path.read_bytes()[:-missing])
    signed_journal().close()
    assert path.with_name("journal.jsonl.torn-1").exists()


def test_an_entry_that_lacks_only_its_newline_counts(
    head: Head, path: Path, signed_journal: Callable[..., Journal], line_digest: LineDigest, pen: Any
) -> None:
    sound = path.read_bytes()
    path.write_bytes(sound[:-1])
    assert journals.verify(path, digest=line_digest, verifier=pen.check, expect=head).head == head
    with signed_journal(expect=head) as journal:
        assert journal.head == head
    assert path.read_bytes() == sound


def test_verify_reports_a_torn_line_and_changes_nothing(
    head: Head, path: Path, line_digest: LineDigest, pen: Any
) -> None:
    torn = path.read_bytes()[:-30]
    path.write_bytes(torn)
    report = journals.verify(path, digest=line_digest, verifier=pen.check)
    assert report.fault is None
    assert report.head.count == 4
    assert report.torn_bytes == len(torn) - torn.rindex(b"\n") - 1
    assert path.read_bytes() == torn


@pytest.mark.parametrize(("at", "stands"), [("before:append", 5), ("before:sync", 6), ("after:append", 6)])
def test_a_crash_in_append_leaves_a_sound_journal(
    head: Head,
    signed_journal: Callable[..., Journal],
    stop: Any,
    crash: type[BaseException],
    at: str,
    stands: int,
) -> None:
    stop.at = at
    with signed_journal(barrier=stop) as journal, pytest.raises(crash):
        journal.append({"n": 5})
    with signed_journal() as journal:
        assert journal.head.count == stands


def test_after_a_failed_sync_nothing_is_appended_until_it_is_opened_again(
    head: Head, signed_journal: Callable[..., Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with signed_journal(error=LedgerError) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(journals.os, "fsync", broken)
            with pytest.raises(LedgerError, match="Input/output"):
                journal.append({"n": 5})
        with pytest.raises(LedgerError, match="earlier write failed"):
            journal.append({"n": 5})
    signed_journal().close()


def test_a_line_without_end_is_refused_before_it_is_read_whole(
    path: Path, line_digest: LineDigest, head: Head, pen: Any
) -> None:
    with path.open("ab") as file:
        file.write(b'{"' + b"x" * (3 << 20))
    report = journals.verify(path, digest=line_digest, verifier=pen.check)
    assert report.fault == journals.Fault(5, FaultKind.CHANGED)


def test_a_file_exchanged_under_an_open_journal_is_noticed(
    head: Head, path: Path, signed_journal: Callable[..., Journal]
) -> None:
    with signed_journal() as journal:
        data = path.read_bytes()
        path.write_bytes(data.replace(b'"n":4', b'"n":7'))
        with pytest.raises(StorageError, match="entry 4"):
            list(journal.entries())


def test_signer_and_verifier_go_together(path: Path, line_digest: LineDigest, pen: Any) -> None:
    with pytest.raises(ValueError, match="together"):
        Journal(path, digest=line_digest, signer=pen.sign)
