"""Every bound on what others may send, hold or ask for, with its unit and its reason.

A message's or file's size is compared with its limit before it is parsed, so that nobody makes this side
allocate more than a small multiple of that. What takes a place for a while (a connection, a call, an entry
in memory) has a count or a time here, and what may come slowly a rate. Two things stand elsewhere: how
long one's own side waits or how often it looks, beside the code that does, and which values a field may
have, in its schema.
"""

from __future__ import annotations

__all__ = [
    "ADAPTER_MAX", "ARRAY_NAME_CHARS_MAX", "ARRAY_SIDES_MAX", "AUDIT_KINDS_EACH_MAX", "AUDIT_KINDS_MAX",
    "BLOB_ENTRY_BYTES", "BODY_BYTES_MAX", "CALLS_EACH_MAX", "CALLS_MAX", "CALL_BYTES_MAX",
    "CERTIFICATE_BYTES_MAX", "CHUNK_BYTES_MAX", "COHORT_MAX", "COMMAND_BYTES_MAX", "CONNECTIONS_MAX",
    "CONNECTION_IDLE_S", "CURVE_MAX", "DIGEST_BYTES", "ENROLMENT_BYTES_MAX", "ENTRY_BYTES_MAX",
    "ENVELOPE_BYTES", "FIRST_FRAME_S", "FRAME_BYTES_MAX", "HANDSHAKE_S", "HELLOS_MAX", "HELLO_BYTES_MAX",
    "HISTORY_BYTES_MAX", "HISTORY_ROUNDS_MAX", "INVITE_BYTES_MAX", "JOBS_MAX", "JOB_PLAN_BYTES_MAX",
    "MAX_SKEW_S", "MESSAGE_S", "MLKEM_CIPHERTEXT_BYTES", "MLKEM_KEY_BYTES", "NEIGHBOURS_MAX",
    "PLAN_BITS_MAX", "PROBES_MAX", "PROBE_BYTES_MAX", "PROBE_S", "PUBLIC_PAIRS_MAX", "PUBLIC_TEXT_MAX",
    "REFUSAL_BYTES_MAX", "REFUSAL_S", "REPLY_BYTES_MAX", "ROSTER_BYTES_MAX", "ROSTER_FILE_BYTES_MAX",
    "ROUND_PLAN_BYTES_MAX", "SEAL_TAG_BYTES", "SHARE_BYTES", "SIGNATURE_BYTES", "SITES_MAX",
    "SLOWEST_BYTES_PER_S", "STATEMENT_BYTES_MAX", "STREAMS_MAX", "SUITE_CHARS_MAX", "TEXT_BYTES_MAX",
    "TOLD_BYTES_MAX", "UNPROVEN_MAX", "VECTOR_BYTES_MAX", "VECTOR_COORDINATES_MAX", "VECTOR_WORDS_MAX",
    "VERSION_CHARS_MAX", "WORD_BITS_MAX", "X25519_KEY_BYTES",
]  # fmt: skip

_KIB = 1024
_MIB = 1024 * _KIB

# -- exact sizes, bytes; fixed by the primitives -----------------------------------------------

DIGEST_BYTES = 32
"""SHA-256."""

SIGNATURE_BYTES = 64
"""Ed25519, RFC 8032."""

X25519_KEY_BYTES = 32
"""RFC 7748."""

MLKEM_KEY_BYTES = 1184
"""ML-KEM-768 encapsulation key, FIPS 203."""

MLKEM_CIPHERTEXT_BYTES = 1088
"""ML-KEM-768 ciphertext, FIPS 203."""

SHARE_BYTES = 32
"""A number below 2^255 - 19."""

SEAL_TAG_BYTES = 16
"""What AES-256-GCM adds to a plaintext."""

ENVELOPE_BYTES = 2 * SHARE_BYTES + SEAL_TAG_BYTES
"""A share of the self mask and one of the recovery key, sealed."""

BLOB_ENTRY_BYTES = 2 + 32
"""A neighbour in a recovery blob: its index and the edge's mask seed."""

# -- counts ------------------------------------------------------------------------------------

COHORT_MAX = 1024
"""Members of one cohort: an outcome with a reason in full for each member still fits a statement."""

NEIGHBOURS_MAX = 300
"""Neighbours of a member, on the ring: what they are dealt then still fits one reply to a client. A fifth
of corrupt members and a tenth of lost ones need 196 of 1000, and 256 of 10 000. (On the complete graph
everybody else is one, which is fewer.)"""

SITES_MAX = 4096
"""Sites in a status reply: more than a roster within `ROSTER_BYTES_MAX` can hold."""

JOBS_MAX = 256
"""Jobs in a status reply, and jobs that are not over; of those that are, a reply has the newest."""

HISTORY_ROUNDS_MAX = 256
"""Ended rounds of a job in a status reply: the newest; the audit log holds all."""

WORD_BITS_MAX = 32
"""B: a word of the ring fits in a uint32."""

VECTOR_WORDS_MAX = 1 << 28
"""Words in a vector: 1 GiB in memory, some forty times a rank-16 adapter of a 7B model's attention."""

# -- plans, which an admin writes and everybody reads -------------------------------------------

PLAN_BITS_MAX = 24
"""Fixed-point bits: with 128 clients the sum still fits in 31 bits; larger cohorts refuse too fine a grid."""

VECTOR_COORDINATES_MAX = 1 << 31
"""Coordinates that all arrays of a plan have together: 8 GiB of words, above any adapter."""

ADAPTER_MAX = 1 << 28
"""Numbers of a whole adapter, frozen arrays included: 1 GiB as float32, as much as the longest upload, and
some forty times a rank-16 adapter of a 7B model's attention. The aggregator makes and keeps all of them,
also those that are in no contribution."""

ARRAY_SIDES_MAX = 8
"""Dimensions of one array; adapters have two, or four."""

ARRAY_NAME_CHARS_MAX = 512
"""An array's name, characters: above what nested module names reach."""

CURVE_MAX = 100
"""Rounds up to which a plan has epsilon after each: every site works them out again, more take minutes."""

PUBLIC_PAIRS_MAX = 32
"""Public pairs in a plan: enough for a mean, few enough to go through the model every round."""

PUBLIC_TEXT_MAX = 65_536
"""Characters of all public pairs together: in any script they fit in a plan's bytes beside its arrays."""

# -- sizes, bytes ------------------------------------------------------------------------------

VECTOR_BYTES_MAX = VECTOR_WORDS_MAX * 4
"""A packed vector of the most words at the widest word; a published file has no more either."""

STATEMENT_BYTES_MAX = 512 * _KIB
"""A statement: an outcome that gives a reason in full for each of 1024 members just fits, and nothing
else comes near; a manifest of so many has at most 66 KiB, a share index of 300 neighbours 12 KiB."""

CHUNK_BYTES_MAX = _MIB
"""A piece of a vector or file: half the cost per byte of 64 KiB pieces, and small beside a process."""

BODY_BYTES_MAX = _MIB
"""A call's body: a job plan has at most half of this, a bundle for 300 neighbours 90 KiB."""

COMMAND_BYTES_MAX = _KIB
"""Bodies that name a job, a digest or a verb."""

HELLO_BYTES_MAX = _KIB
"""A hello: twelve short fields."""

CALL_BYTES_MAX = BODY_BYTES_MAX + 2 * _KIB
"""A body, a hello, its signature and their lengths."""

FRAME_BYTES_MAX = CALL_BYTES_MAX + 64
"""The largest message that an aggregator takes in: a call or a piece in an upload's frame."""

JOB_PLAN_BYTES_MAX = 512 * _KIB
"""A job plan's signed text: the names and shapes of some 4000 arrays."""

ROUND_PLAN_BYTES_MAX = 64 * _KIB
"""A round plan's signed text: digests and deadlines, under 2 KiB."""

ROSTER_BYTES_MAX = 4 * _MIB
"""A roster's signed text: some 2500 members with their certificates."""

REPLY_BYTES_MAX = ROSTER_BYTES_MAX + 128
"""The largest message that a client takes in; a status reply is held to it too."""

TOLD_BYTES_MAX = 4 * _MIB
"""What Exchange answers: the bundles of 300 neighbours, each with the digests of what 300 others were
dealt, are 3.5 MiB; those of 70 neighbours 0.2."""

ROSTER_FILE_BYTES_MAX = 64 * _MIB
"""A roster's file, some 40 000 entries: more than goes over the wire, and whoever reads a file reads no
more."""

INVITE_BYTES_MAX = 96 * _MIB
"""An invite's file: a roster at its own bound, written as a JSON text."""

ENROLMENT_BYTES_MAX = 64 * _KIB
"""A site's public half, of which some 2 KiB are used."""

CERTIFICATE_BYTES_MAX = 8 * _KIB
"""A certificate in PEM; one over P-256 has some 800 bytes."""

ENTRY_BYTES_MAX = _MIB
"""A line of a ledger or an audit log, read or written: far above any entry. Others' are read, too."""

HISTORY_BYTES_MAX = 2 * _MIB
"""Ended rounds in a status reply, of all its jobs together: half of the reply, with all sites named some
thirty rounds of a thousand."""

# -- text --------------------------------------------------------------------------------------

TEXT_BYTES_MAX = 384
"""A sentence or two for people, bytes of UTF-8."""

VERSION_CHARS_MAX = 64
"""A package version, characters."""

SUITE_CHARS_MAX = 128
"""A suite's name, long enough that another one can be reported by name, characters."""

REFUSAL_BYTES_MAX = 4096
"""A refusal's class, message and hint in a call's trailing metadata: two texts of at most
`TEXT_BYTES_MAX` and a name, escaped as JSON. More is not read."""

# -- rates --------------------------------------------------------------------------------------

SLOWEST_BYTES_PER_S = 64 * _KIB
"""A vector or file that comes slower than this is given up, by whichever side waits for it: what one peer
can hold the others up by is then a time that follows from the size."""

# -- places on a daemon, and how long they are held --------------------------------------------

CONNECTIONS_MAX = 4096
"""Connections at one time, and never more than half of the files that the process may open: its own
files must not wait for peers. gRPC cannot tell one certificate's connections from another's."""

HANDSHAKE_S = 10
"""From the first TCP packet to the end of the TLS handshake, seconds; who only connects is gone then."""

CONNECTION_IDLE_S = 120
"""A connection without a call, seconds: also ends those that show no more than HTTP/2's preface."""

STREAMS_MAX = 16
"""Calls at one time on one connection; a member has few, see `CALLS_EACH_MAX`."""

CALLS_MAX = 10_000
"""Calls at one time over all members: some of each of `COHORT_MAX`, and one that waits of thousands more."""

CALLS_EACH_MAX = 8
"""Calls of one member at a time: one that waits, one upload or download, and some that overlap."""

UNPROVEN_MAX = 16
"""Uploads over one certificate at a time whose hello is still awaited: it comes with the first frame.
Of more the oldest gives way, so whoever has the TLS key alone takes neither the other members' share of
calls nor the member's own. (Other calls are not let in before their one message is here.)"""

FIRST_FRAME_S = 10.0
"""How long an upload may take to say what it is, seconds."""

MESSAGE_S = 30.0
"""How long any other call may take to bring its one message, seconds: 1 MiB at 64 KiB/s takes half of it."""

REFUSAL_S = 2.0
"""How long the other side may take to hear why its call ends, seconds."""

MAX_SKEW_S = 600
"""How far a caller's clock may be off, seconds; so for how long its numbers must be remembered."""

HELLOS_MAX = 100_000
"""Calls of one member within the clock's window: some 8 MiB, a hundred times what a busy round makes."""

AUDIT_KINDS_MAX = 1000
"""Kinds of audit entry kept apart between two writes; more of them are written as one kind, `many`, for each
member and call."""

AUDIT_KINDS_EACH_MAX = 100
"""Of them, kinds of one member: nobody's many addresses or commands take the others' places."""

PROBES_MAX = 16
"""Requests, or health checks, at one time on a loopback port: each takes a descriptor, and a thread."""

PROBE_BYTES_MAX = 1024
"""The largest question to the gRPC health service: a service's name."""

PROBE_S = 5
"""How long one request on the metrics port may take, seconds."""
