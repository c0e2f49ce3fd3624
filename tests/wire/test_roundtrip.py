"""Whatever a message holds: decode(encode(x)) == x, and encoding is one function of x."""

from __future__ import annotations

import string
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from secfed import limits
from secfed.identity.signed import Signed
from secfed.ids import JobId, RoundId
from secfed.rounds import exchange as ex
from secfed.secagg import messages as ms
from secfed.secagg.manifest import Manifest
from secfed.wire import calls, service, status, strict, sums
from secfed.wire.codec import ProtoCodec

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
FROM_1 = st.integers(1, 2**32 - 1)
DIGEST = st.binary(min_size=32, max_size=32)
MEMBER = st.integers(0, limits.COHORT_MAX - 1)
SITE = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?", fullmatch=True)
LONG_SITE = st.text(string.ascii_lowercase, min_size=63, max_size=63)
NAME = SITE | LONG_SITE
TEXT = st.text(max_size=120).map(strict.clip)
FEDERATION = st.text("0123456789abcdef", min_size=32, max_size=32)
DECIMAL = st.just("") | st.decimals(0, 999, places=4).map(str)
SIGNED = st.builds(Signed, st.binary(max_size=300), st.binary(min_size=64, max_size=64))


def sizes(size: int) -> st.SearchStrategy[bytes]:
    """Bytes of one size; the content is drawn small, for long fields are of no interest bit by bit."""
    return st.binary(min_size=1, max_size=4).map(lambda seed: (seed * size)[:size])


def ascending(
    values: st.SearchStrategy[Any], least: int = 0, most: int = 6
) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, min_size=least, max_size=most, unique=True).map(sorted).map(tuple)


def by_member(
    values: st.SearchStrategy[Any], least: int = 0
) -> st.SearchStrategy[tuple[tuple[int, Any], ...]]:
    return st.dictionaries(MEMBER, values, min_size=least, max_size=6).map(lambda d: tuple(sorted(d.items())))


MEMBERS, SOMEBODY = ascending(MEMBER), ascending(MEMBER, least=1)
LISTED = by_member(DIGEST)
ITEMS = ascending(MEMBER).flatmap(
    lambda members: st.tuples(*(st.builds(ms.ItemDigest, st.just(member), DIGEST) for member in members))
)
BUNDLE_ITEM = st.builds(ms.BundleItem, sizes(80), DIGEST, DIGEST, DIGEST)
SHARE = st.builds(ms.SelfMaskShare, DIGEST) | st.builds(ms.RecoveryKeyShare, DIGEST)
DROPPED = st.builds(ms.Dropped, SITE, st.sampled_from([phase.value for phase in ms.Phase]), TEXT)


def by_site(values: st.SearchStrategy[Any], key: Any) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, max_size=4, unique_by=key).map(lambda items: tuple(sorted(items, key=key)))


STATEMENTS: dict[type[Any], st.SearchStrategy[Any]] = {
    Manifest: st.builds(
        Manifest,
        protocol=U32,
        suite=st.text(string.ascii_letters, min_size=1, max_size=128),
        federation=FEDERATION,
        roster=DIGEST,
        job=NAME,
        job_plan=DIGEST,
        round_plan=DIGEST,
        round=FROM_1,
        sum_index=U32,
        attempt=FROM_1,
        cohort=ascending(NAME, least=1),
        corrupt=U32,
        layout=DIGEST,
        length=st.integers(1, limits.VECTOR_WORDS_MAX),
        word_bits=st.integers(1, 32),
        base=DIGEST,
        previous_round=U32,
        previous=DIGEST,
        losses=U32,
    ),
    ms.Advert: st.builds(ms.Advert, DIGEST, sizes(1184)),
    ms.CiphertextIndex: st.builds(ms.CiphertextIndex, ITEMS),
    ms.ShareIndex: st.builds(ms.ShareIndex, ITEMS.filter(bool), DIGEST),
    ms.MaskedStatement: st.builds(
        ms.MaskedStatement, DIGEST, st.integers(1, limits.VECTOR_BYTES_MAX), MEMBERS
    ),
    ms.Confirm: st.builds(ms.Confirm, DIGEST, SOMEBODY),
    ms.ShareAnswers: st.builds(ms.ShareAnswers, DIGEST, st.dictionaries(MEMBER, SHARE, max_size=6)),
    ms.Void: st.builds(ms.Void, TEXT),
    ms.Outcome: st.builds(
        ms.Outcome,
        st.builds(RoundId, NAME, FROM_1, U32),
        st.booleans(),
        ascending(NAME),
        by_site(DROPPED, lambda item: item.site),
        DIGEST,
        DIGEST,
        DIGEST,
    ),
    ms.Countersignature: st.builds(ms.Countersignature, DIGEST, DIGEST),
}

BUNDLE = st.dictionaries(MEMBER, BUNDLE_ITEM, min_size=1, max_size=4).flatmap(
    lambda items: st.builds(ms.Bundle, SIGNED, st.just(items), sizes(34 * len(items) + 16))
)
REPLY = (
    st.builds(ms.SignedReply, SIGNED)
    | st.builds(ms.CiphertextList, SIGNED, st.dictionaries(MEMBER, sizes(1088), max_size=4))
    | BUNDLE
)
REQUEST = (
    st.builds(ms.OpenAttempt, SIGNED)
    | st.builds(ms.Adverts, by_member(SIGNED), LISTED)
    | st.builds(
        lambda pairs, listed: ms.Ciphertexts(
            tuple(ms.DeliveredCiphertexts(m, *rest) for m, rest in pairs), listed
        ),
        by_member(st.tuples(SIGNED, st.none() | sizes(1088))),
        LISTED,
    )
    | st.builds(
        lambda pairs, listed: ms.Bundles(tuple(ms.DeliveredBundle(m, *rest) for m, rest in pairs), listed),
        by_member(st.tuples(SIGNED, st.none() | BUNDLE_ITEM)),
        LISTED,
    )
    | st.builds(ms.ConfirmRequest, SOMEBODY)
    | st.builds(ms.UnmaskRequest, SOMEBODY, by_member(sizes(64), least=1))
    | st.builds(ms.VoidNotice, DIGEST, SIGNED)
    | st.builds(ms.OutcomeNotice, DIGEST, SIGNED)
)
SAID = (
    st.builds(ex.Present, st.just("") | NAME)
    | st.builds(ex.Ready, NAME, FROM_1, DIGEST)
    | st.builds(ex.Declined, NAME, FROM_1)
    | st.builds(ex.Answer, DIGEST, REPLY)
    | st.builds(ex.Refused, DIGEST, TEXT)
)
TEXT_FILE = st.binary(min_size=1, max_size=300)
TOLD = (
    st.builds(ex.Wait, TEXT, U32)
    | st.builds(ex.Offer, TEXT_FILE, TEXT_FILE)
    | st.builds(ex.Ask, DIGEST, REQUEST)
)
CALL = st.builds(calls.Call, SIGNED, st.binary(max_size=300))
HELLO = st.builds(
    ex.Hello, U32, st.from_regex(r"[0-9]\.[0-9]{1,3}", fullmatch=True), FEDERATION, NAME, DIGEST,
    st.sampled_from(service.METHODS), U64, DIGEST, DIGEST, U64, DIGEST, DIGEST,
)  # fmt: skip
CHUNK = st.tuples(st.binary(min_size=1, max_size=99), st.integers(0, 2**20), st.integers(0, 2**20)).map(
    lambda drawn: calls.Chunk(drawn[1], drawn[1] + len(drawn[0]) + drawn[2], drawn[0])
)
LEFT = by_site(st.tuples(SITE, TEXT), lambda item: item[0])
ROUND_STATE = st.builds(
    ex.RoundState, U32, U32, TEXT, U32, ascending(SITE, most=3),
    LEFT, LEFT, DECIMAL, U64, TEXT,
)  # fmt: skip
JOB_STATE = st.builds(
    ex.JobState, NAME, TEXT, TEXT, TEXT, U32, U32, U32, TEXT, U32,
    by_site(st.builds(ex.MemberState, SITE, TEXT, U64), lambda item: item.site),
    by_site(ROUND_STATE, lambda item: item.round),
)  # fmt: skip
STATUS = st.builds(
    ex.StatusReply,
    st.just("0.1.0"),
    FEDERATION,
    U32,
    ascending(SITE),
    by_site(JOB_STATE, lambda item: item.job),
)
OTHERS: dict[str, tuple[st.SearchStrategy[Any], Any, Any]] = {
    "said": (SAID, sums.encode_said, sums.decode_said),
    "told": (TOLD, sums.encode_told, sums.decode_told),
    "call": (CALL, calls.encode_call, calls.decode_call),
    "hello": (HELLO, calls.encode_hello, calls.decode_hello),
    "header": (
        st.builds(calls.UploadHeader, DIGEST, SIGNED), calls.encode_upload_header, calls.decode_upload_header
    ),
    "frame": (
        CALL | st.builds(calls.Piece, st.integers(0, 2**30), TEXT_FILE),
        calls.encode_upload_frame, calls.decode_upload_frame,
    ),
    "download": (DIGEST, calls.encode_download, calls.decode_download),
    "chunk": (CHUNK, calls.encode_chunk, calls.decode_chunk),
    "roster": (
        st.builds(calls.InForce, DIGEST, st.just(b"") | TEXT_FILE),
        calls.encode_in_force,
        calls.decode_in_force,
    ),
    "start": (TEXT_FILE, calls.encode_start_job, calls.decode_start_job),
    "command": (
        st.builds(ex.JobCommand, NAME, st.sampled_from(["pause", "resume", "stop"])),
        calls.encode_job_command, calls.decode_job_command,
    ),
    "status request": (st.none() | NAME, status.encode_status_request, status.decode_status_request),
    "status": (STATUS, status.encode_status, status.decode_status),
    "job reply": (JOB_STATE, status.encode_job_reply, status.decode_job_reply),
}  # fmt: skip

GENTLE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("kind", STATEMENTS, ids=lambda kind: str(kind.__name__))
@GENTLE
@given(data=st.data())
def test_statements_come_back(kind: type[Any], data: st.DataObject) -> None:
    codec, value = ProtoCodec(), data.draw(STATEMENTS[kind])
    encoded = codec.encode(value)
    decoded = codec.decode(kind, encoded)
    assert decoded == value
    assert codec.encode(decoded) == encoded


@pytest.mark.parametrize("name", OTHERS)
@GENTLE
@given(data=st.data())
def test_other_messages_come_back(name: str, data: st.DataObject) -> None:
    strategy, encode, decode = OTHERS[name]
    value = data.draw(strategy)
    encoded = encode(value)
    assert decode(encoded) == value
    assert encode(decode(encoded)) == encoded


def test_mappings_are_encoded_sorted_by_member() -> None:
    """The order in which a mapping was filled does not show."""
    item = ms.BundleItem(bytes(80), bytes(32), bytes(32), bytes(32))
    signed, blob = Signed(b"index", bytes(64)), bytes(2 * 34 + 16)
    one, other = ({5: item, 2: item}, {2: item, 5: item})
    assert (
        len({sums.encode_said(ex.Answer(bytes(32), ms.Bundle(signed, m, blob))) for m in (one, other)}) == 1
    )


def test_a_masked_update_is_uploaded_instead() -> None:
    with pytest.raises(ValueError, match="Upload"):
        sums.encode_said(ex.Answer(bytes(32), ms.MaskedUpdate(Signed(b"", bytes(64)), b"\x00")))


@pytest.mark.parametrize("neighbours", [127, 300])
def test_the_largest_cohort_fits(neighbours: int) -> None:
    """The longest request there is, all neighbours' bundles of as many each, is within its limit."""
    codec = ProtoCodec()
    others = range(limits.COHORT_MAX - neighbours, limits.COHORT_MAX)
    items = tuple(ms.ItemDigest(member, bytes(32)) for member in others)
    index = Signed(codec.encode(ms.ShareIndex(items, bytes(32))), bytes(64))
    item = ms.BundleItem(bytes(80), bytes(32), bytes(32), bytes(32))
    listed = tuple((member, bytes(32)) for member in range(limits.COHORT_MAX))
    lists = ms.Ciphertexts(tuple(ms.DeliveredCiphertexts(m, index, bytes(1088)) for m in others), listed)
    bundles = ms.Bundles(tuple(ms.DeliveredBundle(m, index, item) for m in others), listed)
    advert = Signed(codec.encode(ms.Advert(bytes(32), bytes(1184))), bytes(64))
    adverts = ms.Adverts(tuple((m, advert) for m in range(limits.COHORT_MAX)), listed)
    for request in (adverts, lists, bundles):
        ask = ex.Ask(bytes(32), request)
        assert sums.decode_told(sums.encode_told(ask)) == ask


def test_a_request_that_all_are_told_is_serialised_once() -> None:
    """The same object under the same attempt gives the same bytes object; equal bytes in any case."""
    one, other = (ms.ConfirmRequest((1, 2, 3)) for _ in range(2))
    first = sums.encode_told(ex.Ask(bytes(32), one))
    assert sums.encode_told(ex.Ask(bytes(32), one)) is first
    again = sums.encode_told(ex.Ask(bytes(32), other))
    assert again == first
    assert again is not first
    elsewhere = ex.Ask(b"1" * 32, other)
    assert sums.decode_told(sums.encode_told(elsewhere)) == elsewhere


def test_an_outcome_with_every_reason_in_full_fits() -> None:
    sites = range(limits.COHORT_MAX)
    dropped = tuple(ms.Dropped(f"{n:04}" + "x" * 59, "encapsulate", "é" * 9999) for n in sites)
    round_id = RoundId(JobId("x" * 63), 2**32 - 1, 2**32 - 1)
    outcome = ms.Outcome(round_id, False, (), dropped, bytes(32), bytes(32), bytes(32))
    assert len(ProtoCodec().encode(outcome)) <= limits.STATEMENT_BYTES_MAX


def test_history_is_cut_to_the_newest_rounds() -> None:
    rounds = tuple(ex.RoundState(n, 1, "", 3, (), (), (), "", 1, "") for n in range(1, 1001))
    job = ex.JobState("job", "vector", "", "", 1, 1, 1, "", 0, (), rounds)
    kept = status.decode_job_reply(status.encode_job_reply(job)).history
    assert kept == rounds[-limits.HISTORY_ROUNDS_MAX :]


def test_history_of_a_large_federation_is_cut_to_what_fits() -> None:
    """A thousand sites with names in full, in every round of every job: the newest rounds are told."""
    sites = tuple(f"{n:04}" + "x" * 59 for n in range(1000))
    rounds = tuple(ex.RoundState(n, 1, "", 1000, sites, (), (), "", 1, "") for n in range(1, 101))
    jobs = tuple(ex.JobState(f"job-{n}", "vector", "", "", 1, 1, 1, "", 0, (), rounds) for n in range(3))
    reply = ex.StatusReply("0.1.0", "0" * 32, 1, sites, jobs)
    told = status.decode_status(status.encode_status(reply))
    assert [job.history for job in told.jobs] == [rounds[-len(told.jobs[0].history) :]] * 3
    assert 5 < len(told.jobs[0].history) < 100


@pytest.mark.parametrize("offset", [0, 1, 127, 128, 1 << 20, 2**30])
@pytest.mark.parametrize("size", [1, 120, 127, 128, 16_384, limits.CHUNK_BYTES_MAX])
def test_an_awaited_piece_is_known_without_parsing(offset: int, size: int) -> None:
    """Exactly where its one serialisation is at hand, and no other place, size or byte."""
    data = b"\x00\xff" * (size // 2) + b"\x07" * (size % 2)
    frame = calls.encode_upload_frame(calls.Piece(offset, data))
    assert calls.piece_at(frame, offset, size) == data
    assert calls.piece_at(frame, offset + 1, size) is None
    assert calls.piece_at(frame, offset, size + 1) is None
    assert calls.piece_at(frame + b"\x00", offset, size) is None
    assert calls.piece_at(frame[:-1], offset, size) is None
    for place in range(len(frame) - size):
        other = bytearray(frame)
        other[place] ^= 1
        assert calls.piece_at(bytes(other), offset, size) is None
