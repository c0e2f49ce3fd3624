"""Every domain-separation label, once.

A label goes first into every hash, key derivation and signature, so that bytes made for one
purpose mean nothing for another. No raw string stands elsewhere. Values never change within
a protocol version: a change is a new `PROTOCOL_VERSION`.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["PROTOCOL_VERSION", "SUITE", "Label"]

PROTOCOL_VERSION = 1
"""Version of messages, derivations and rules; both sides must agree."""

SUITE = "X25519-MLKEM768-HKDFSHA256-AES256GCM-AES256CTR-ED25519-SHAMIR25519"
"""The one cipher suite of this version; part of the manifest's digest h."""


class Label(Enum):
    """What a digest, a derived key or a signature is for. The value is the exact byte string."""

    # digests
    MANIFEST = b"secfed/1/digest/manifest"
    JOB_PLAN = b"secfed/1/digest/job-plan"
    ROUND_PLAN = b"secfed/1/digest/round-plan"
    ROSTER = b"secfed/1/digest/roster"
    ROSTER_KEY = b"secfed/1/digest/roster-key"
    LAYOUT = b"secfed/1/digest/layout"
    ADAPTER = b"secfed/1/digest/adapter"
    BODY = b"secfed/1/digest/body"
    ITEM = b"secfed/1/digest/item"
    ITEM_LIST = b"secfed/1/digest/item-list"
    STATEMENT = b"secfed/1/digest/statement"
    RING_ADVERTS = b"secfed/1/digest/ring-adverts"
    CERTIFICATE = b"secfed/1/digest/certificate"
    TRANSCRIPT = b"secfed/1/digest/transcript"
    OUTCOME_TRANSCRIPT = b"secfed/1/digest/outcome-transcript"
    SUM = b"secfed/1/digest/sum"
    MASKED_VECTOR = b"secfed/1/digest/masked-vector"
    SHARE_COMMITMENT = b"secfed/1/digest/share-commitment"
    EDGE_COMMITMENT = b"secfed/1/digest/edge-commitment"
    JOURNAL_ENTRY = b"secfed/1/digest/journal-entry"
    CONTRIBUTION = b"secfed/1/digest/contribution"
    POLICY = b"secfed/1/digest/policy"

    # derived keys
    AGREEMENT_SALT = b"secfed/1/key/agreement-salt"
    EDGE_MASK = b"secfed/1/key/edge-mask"
    ENVELOPE = b"secfed/1/key/envelope"
    SELF_MASK = b"secfed/1/key/self-mask"
    BLOB = b"secfed/1/key/recovery-blob"
    RING_ORDER = b"secfed/1/key/ring-order"
    CONTRIBUTION_KEY = b"secfed/1/key/contribution-digest"
    FFA_FROZEN_A = b"secfed/1/key/ffa-frozen-a"
    UNIT_RECORDS = b"secfed/1/key/unit-records"
    STREAM_NOISE = b"secfed/1/key/stream-noise"
    STREAM_SAMPLING = b"secfed/1/key/stream-sampling"
    RANK_GREETING = b"secfed/1/key/rank-greeting"

    # signatures
    SIGN_ROSTER = b"secfed/1/sign/roster"
    SIGN_INVITE = b"secfed/1/sign/invite"
    SIGN_JOB_PLAN = b"secfed/1/sign/job-plan"
    SIGN_ROUND_PLAN = b"secfed/1/sign/round-plan"
    SIGN_MANIFEST = b"secfed/1/sign/manifest"
    SIGN_HELLO = b"secfed/1/sign/hello"
    SIGN_ADVERT = b"secfed/1/sign/advert"
    SIGN_CIPHERTEXTS = b"secfed/1/sign/ciphertexts"
    SIGN_BUNDLE = b"secfed/1/sign/bundle"
    SIGN_MASKED = b"secfed/1/sign/masked-update"
    SIGN_CONFIRM = b"secfed/1/sign/confirm"
    SIGN_UNMASK = b"secfed/1/sign/unmask"
    SIGN_VOID = b"secfed/1/sign/void"
    SIGN_OUTCOME = b"secfed/1/sign/outcome"
    SIGN_COUNTERSIGN = b"secfed/1/sign/countersign"
    SIGN_LEDGER = b"secfed/1/sign/ledger-entry"
    SIGN_LEDGER_HANDOVER = b"secfed/1/sign/ledger-handover"
    SIGN_AUDIT = b"secfed/1/sign/audit-entry"
    SIGN_ENROLMENT = b"secfed/1/sign/enrolment"
    SIGN_MANIFEST_FILE = b"secfed/1/sign/round-manifest-file"
