"""T and the outcome's transcript: one statement more, fewer, changed or moved gives another digest."""

from __future__ import annotations

from secfed.ids import Digest, MemberIndex
from secfed.secagg.transcript import outcome_transcript, transcript

H = Digest(bytes(32))
ONE, TWO = MemberIndex(1), MemberIndex(2)


def test_every_statement_of_every_list_counts() -> None:
    base = {ONE: b"a", TWO: b"b"}
    seen = [
        transcript(H, base, base, base),
        transcript(Digest(b"h" * 32), base, base, base),
        transcript(H, {ONE: b"a"}, base, base),
        transcript(H, base, {ONE: b"a"}, base),
        transcript(H, base, base, {ONE: b"a"}),
        transcript(H, {ONE: b"b", TWO: b"a"}, base, base),
        transcript(H, {ONE: b"a", MemberIndex(3): b"b"}, base, base),
        transcript(H, {ONE: b"ab", TWO: b""}, base, base),
    ]
    assert len(set(seen)) == len(seen)


def test_the_order_in_which_statements_came_does_not_count() -> None:
    forth, back = {ONE: b"a", TWO: b"b"}, {TWO: b"b", ONE: b"a"}
    assert transcript(H, forth, forth, forth) == transcript(H, back, back, back)


def test_the_outcomes_transcript_is_over_set_and_sum() -> None:
    t, total = Digest(b"t" * 32), Digest(b"s" * 32)
    seen = {
        outcome_transcript(H, t, (ONE, TWO), total),
        outcome_transcript(H, t, (ONE,), total),
        outcome_transcript(H, total, (ONE, TWO), t),
        outcome_transcript(Digest(b"h" * 32), t, (ONE, TWO), total),
    }
    assert len(seen) == 4
