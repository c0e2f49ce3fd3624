"""What a member of a round may say wrongly: its own statements, changed and signed again with its own key.

Each message comes off a tape, from the answer that the member's real client has just made. The
signature is right, unless that is what was changed; what it is under is not what the member owes. A
statement that is right after all, such as other keys of good form, is no hostile input: it is sent
with a spoilt signature. What becomes of right statements with wrong secrets behind them, the attacks on
shares and vectors tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from mutants import Tape, field_mutant, parts, raw_mutant

from secfed.crypto import agreement
from secfed.crypto.agreement import AgreementPublic
from secfed.crypto.labels import Label
from secfed.crypto.signing import SigningKey
from secfed.errors import PeerError
from secfed.identity import signed
from secfed.ids import ClientId, Digest, MemberIndex
from secfed.rounds.client import Upload
from secfed.rounds.exchange import Answer
from secfed.secagg import derive
from secfed.secagg import messages as ms
from secfed.wire import calls, sums
from secfed.wire.codec import ProtoCodec
from secfed.wire.pb import service_pb2, statements_pb2, sum_pb2

__all__ = ["DEEP", "KINDS", "Insider", "Kind"]

PRIME = 2**255 - 19

LOW_ORDER = [
    value.to_bytes(32, "little")
    for value in (0, 1, PRIME - 1, PRIME, PRIME + 1, *sorted(agreement._LOW_ORDER)[2:4])
]
"""Points whose multiples say nothing, also in a second encoding."""

MEMBERS = (0, 1, 2, 3, 4, 128, 300, 1023, 1024, 65_535, 2**31, 2**32 - 1)
SIZES = (0, 1, 2**20, 2**30, 2**30 + 1, 2**32, 2**63, 2**64 - 1)
FORTIES = (b"", bytes(32), b"\xff" * 32, PRIME.to_bytes(32, "little"), b"\x01" + bytes(31))
"""In the place of 32 bytes."""


@dataclass(frozen=True)
class Kind:
    """One thing that a member owes: what it is called, signed as, and written as."""

    name: str
    label: Label
    statement: type[Any]
    schema: type[Message]


KINDS: dict[type, Kind] = {
    ms.OpenAttempt: Kind("advert", Label.SIGN_ADVERT, ms.Advert, statements_pb2.Advert),
    ms.Adverts: Kind(
        "ciphertexts", Label.SIGN_CIPHERTEXTS, ms.CiphertextIndex, statements_pb2.CiphertextIndex
    ),
    ms.Ciphertexts: Kind("bundle", Label.SIGN_BUNDLE, ms.ShareIndex, statements_pb2.ShareIndex),
    ms.Bundles: Kind("vector", Label.SIGN_MASKED, ms.MaskedStatement, statements_pb2.MaskedStatement),
    ms.ConfirmRequest: Kind("confirm", Label.SIGN_CONFIRM, ms.Confirm, statements_pb2.Confirm),
    ms.UnmaskRequest: Kind("shares", Label.SIGN_UNMASK, ms.ShareAnswers, statements_pb2.ShareAnswers),
    ms.OutcomeNotice: Kind(
        "countersignature", Label.SIGN_COUNTERSIGN, ms.Countersignature, statements_pb2.Countersignature
    ),
}
"""By what it is asked with."""

DEEP = (
    "statement by its fields",
    "statement by its bytes",
    "statement that nobody asked for",
    "another label",
    "another attempt, sender or reader",
    "an earlier statement",
)
"""Changes that only whoever opens the statement can see, and must refuse."""

SHALLOW = ("answer by its fields", "answer by its bytes", "another answer")

_Bound = tuple[Label, bytes, str, str | None]

_codec = ProtoCodec()


class Insider:
    """Spoils one answer after the other.

    Args:
        place: The member's place in the cohort.
        cohort: How many members it has.
    """

    def __init__(self, site: ClientId, key: SigningKey, place: int, cohort: int) -> None:
        self._site, self._key = site, key
        self._place, self._others = place, [each for each in range(cohort) if each != place]
        self._earlier: list[tuple[bytes, Message]] = []
        self._h = Digest(bytes(32))

    def owes(self, kind: Kind, said: Answer | Upload) -> None:
        """The answer that is now to be spoilt, as its client made it."""
        if isinstance(said, Upload):
            body = calls.encode_upload_header(calls.UploadHeader(said.attempt, said.statement))
            self._message: Message = service_pb2.UploadHeader.FromString(body)
            self._packed = said.packed
        else:
            self._message = sum_pb2.Said.FromString(sums.encode_said(said))
        if hasattr(self, "_kind"):
            self._earlier.append((self._true, self._whole))
        self._kind, self._h, self._whole = kind, said.attempt, self._message
        self._true = _signed(self._message).statement

    @property
    def method(self) -> str:
        """Which call it goes with."""
        return "Upload" if self._kind.name == "vector" else "Exchange"

    def spoil(self, dice: Tape, *, deep: bool = False) -> tuple[str, bytes, list[bytes]]:
        """What was done, the call's body, and of a vector the frames after it."""
        match what := dice.choice(DEEP if deep else (*DEEP, *DEEP, *SHALLOW)):
            case "answer by its fields":
                body = field_mutant(dice, self._message)
            case "answer by its bytes":
                body = raw_mutant(dice, self._message.SerializeToString(), self._true)
            case "another answer":
                earlier = [whole for _, whole in self._earlier] or [sum_pb2.Said()]
                body = dice.choice(earlier).SerializeToString()
            case _:
                what, body, right = self._restated(dice, what, deep)
                return what, body, [] if right or self.method != "Upload" else self._pieces()
        if body == self._message.SerializeToString():  # a change that changed nothing
            what, body, _ = self._restated(dice, "signature", deep)
        return what, body, []

    def breach(self, tape: Tape) -> tuple[bytes, list[bytes]]:
        """A body that can be read and must not be taken, which costs the member its place; and the frames."""
        for change in (tape.data[0], *range(len(DEEP))):
            _, body, pieces = self.spoil(Tape(bytes([change]) + tape.data[1:]), deep=True)
            try:
                (calls.decode_upload_header if self.method == "Upload" else sums.decode_said)(body)
            except PeerError:
                continue
            return body, pieces
        raise AssertionError("a statement under another label can be read")

    def _pieces(self) -> list[bytes]:
        """The whole vector, as its client masked it."""
        piece = service_pb2.Piece(offset=0, data=self._packed)
        return [service_pb2.UploadFrame(piece=piece).SerializeToString()]

    # -- statements ----------------------------------------------------------------------------

    def _restated(self, dice: Tape, what: str, deep: bool) -> tuple[str, bytes, bool]:
        """What was done, the answer with another statement, and whether that may be said.

        Only of a vector it may: it is refused when the vector does not follow.
        """
        answer = type(self._message)()
        answer.CopyFrom(self._message)
        statement = self._statement(dice, what, answer)
        owed = (self._kind.label, bytes(self._h), str(self._site), None)
        bound = self._bound(dice, what, owed)
        label, context, sender, reader = bound
        signature = signed.sign(
            self._key, label, context=context, sender=sender, recipient=reader, statement=statement
        ).signature
        right = bound == owed and self._right(statement)
        if right and (deep or statement == self._true or self._kind.name != "vector"):
            what, right = "signature", False
            signature = bytes([signature[0] ^ 1]) + signature[1:]
        item = _signed(answer)
        item.statement, item.signature = statement, signature
        return what, answer.SerializeToString(), right

    def _statement(self, dice: Tape, what: str, answer: Message) -> bytes:
        """What is signed; its answer is changed with it where both must fit."""
        true, earlier = self._true, [old for old, _ in self._earlier]
        match what:
            case "statement by its fields":
                return field_mutant(dice, self._kind.schema.FromString(true))
            case "statement by its bytes":
                return raw_mutant(dice, true, dice.choice(earlier or [true]))
            case "statement that nobody asked for":
                changed = self._kind.schema.FromString(true)
                self._unasked(dice, changed, answer)
                data: bytes = changed.SerializeToString(deterministic=True)
                return data
            case "an earlier statement":
                return dice.choice(earlier or [b""])
            case _:
                return true

    def _bound(self, dice: Tape, what: str, owed: _Bound) -> _Bound:
        """As what, where, by whom and for whom it is signed."""
        label, context, sender, reader = owed
        match what:
            case "another label":
                label = dice.choice([each for each in Label if each is not label])
            case "another attempt, sender or reader":
                match dice.randrange(3):
                    case 0:
                        context = dice.choice((b"", bytes(32), context[:-1], context + b"\0", context[::-1]))
                    case 1:
                        sender = dice.choice(("", "hosp-a", "hosp-b", "center", f"{sender}x"))
                    case _:
                        reader = dice.choice(("center", "hosp-a", "x"))
        return label, context, sender, reader

    def _right(self, data: bytes) -> bool:
        """Whether this may be said, even if it is not what the client said."""
        if data == self._true:
            return True
        try:
            said = _codec.decode(self._kind.statement, data)
            if isinstance(said, ms.Advert):
                agreement.check_public(AgreementPublic(said.x25519, said.mlkem))
        except PeerError:
            return False
        match said, _codec.decode(self._kind.statement, self._true):
            case ms.Advert(), _:
                return True
            case ms.ShareAnswers(), ms.ShareAnswers(transcript, shares):
                return said.transcript == transcript and said.shares.items() <= shares.items()
            case ms.MaskedStatement(), ms.MaskedStatement(vector, size, _):
                known = set(said.complaints) <= set(self._others)
                return known and (said.vector, said.size_bytes) == (vector, size)
        return False

    def _unasked(self, dice: Tape, statement: Any, answer: Any) -> None:
        """Change statement and answer alike, so that they fit each other, to what is not owed."""
        match self._kind.name:
            case "advert" if dice.randrange(2):
                statement.x25519 = dice.choice(LOW_ORDER)
            case "advert":
                at = 3 * dice.randrange(384)
                statement.mlkem = statement.mlkem[:at] + b"\xff\xff\xff" + statement.mlkem[at + 3 :]
            case "ciphertexts":
                self._readdress(dice, statement.items, answer.answer.ciphertexts.ciphertexts)
            case "bundle":
                self._readdress(dice, statement.items, answer.answer.bundle.items)
            case "vector" if dice.randrange(2):
                statement.size_bytes = dice.choice((*SIZES, len(self._packed) - 1, len(self._packed) + 1))
            case "vector":
                del statement.complaints[:]
                me, others = self._place, self._others
                wrong = ([me], [*others, me], others[:1] * 2, others[::-1], [dice.choice(MEMBERS)])
                statement.complaints.extend(dice.choice(wrong))
            case "confirm":
                there = list(statement.survivors)
                del statement.survivors[:]
                others = (there[1:], there[:-1], [self._place], there[::-1], [*there, len(there)], there * 2)
                statement.survivors.extend(dice.choice(others))
            case "shares":
                item = dice.choice(statement.answers)
                match dice.randrange(4):
                    case 0:
                        item.recovery_key = item.self_mask or bytes(32)
                    case 1:
                        item.self_mask = dice.choice(FORTIES)
                    case 2:
                        item.member = dice.choice((self._place, *MEMBERS))
                    case _:
                        item.self_mask = dice.choice(statement.answers).self_mask[::-1]
            case _:
                statement.sum = dice.choice(FORTIES)

    def _readdress(self, dice: Tape, digests: Any, items: Any) -> None:
        """Leave one reader out, name one twice, or one whom nothing is for; or give one something else."""
        at = dice.randrange(len(items))
        match dice.randrange(4):
            case 0:
                del items[at], digests[at]
            case 1:
                items.append(items[at])
                digests.append(digests[at])
            case 2:
                items[at].member = digests[at].member = dice.choice((self._place, *MEMBERS))
                self._sign_item(digests[at], items[at])
            case _:
                bare = hasattr(items[at], "data")
                item, field = (items[at], "data") if bare else (items[at].item, "envelope")
                old = getattr(item, field)
                setattr(item, field, dice.choice((b"", old[:-1], old + b"\0", old * 2)))
                self._sign_item(digests[at], items[at])

    def _sign_item(self, digest: Any, item: Any) -> None:
        """Let the statement be over the item as it is now."""
        inner = [] if hasattr(item, "data") else [item.item]
        data = b"".join(each.envelope + each.self_share + each.recovery_share + each.edge for each in inner)
        reader = MemberIndex(min(item.member, 65_535))
        digest.digest = derive.item_digest(
            self._h, MemberIndex(self._place), reader, data if inner else item.data
        )


def _signed(message: Message) -> Any:
    """The signed statement in an answer."""
    return next(part for part in parts(message) if part.DESCRIPTOR.name == "Signed")
