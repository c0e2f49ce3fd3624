"""What each part of each attack gets where the defences that its row names are gone.

For each part words that stand in its evidence only when it succeeded. The catalogue's test holds
that no part is left out here, so that none can be added that is only watched.
"""

from __future__ import annotations

ONE_VECTOR = "the vector of site-0, true to the last bit, where 3 is the fewest"
TWO_VECTORS = "the sum of 2 honest vectors"
THE_WORD = "the word of site-0, which took "

GAINS: dict[str, dict[str, tuple[str, ...]]] = {
    "two-survivor-sets": {
        "a set for each half": (ONE_VECTOR, "2 certified survivor sets of one attempt, of 4 and 4 members"),
    },
    "two-survivor-sets-100": {
        "a set for each half": ("the vector of site-00, true to the last bit",),
    },
    "double-unmask": {
        "split lists": (ONE_VECTOR,),
        "overlapping lists": (ONE_VECTOR,),
    },
    "second-attempt": {
        "two attempts at once": (
            "as the difference of two sums the vector of site-0",
            "in more than one opened sum",
        ),
    },
    "swapped-keys": {
        "two members' keys swapped": (THE_WORD + "one member's keys in another's name",),
        "the peers' keys exchanged": (ONE_VECTOR,),
        "members with invented keys": (ONE_VECTOR,),
    },
    "sybil-cohort": {
        "a cohort of two": (ONE_VECTOR,),
        "strangers from no roster": (ONE_VECTOR,),
    },
    "lowered-threshold": {
        "A of 1": (TWO_VECTORS,),
        "A of 0": (ONE_VECTOR,),
    },
    "repeated-ids": {
        "an advert again and again": (ONE_VECTOR,),
        "a survivor twice": (
            "the sum of 3 honest vectors (site-0, site-1, site-2), true to the last bit, where 4",
        ),
        "a signature again and again": (TWO_VECTORS,),
    },
    "model-per-client": {
        "two models in one round": ("the update of site-0: the model of the 3 others let them add nothing",),
    },
    "round-replay": {
        "a vector again under the same masks": (
            "the vector of site-0, true to the last bit, from 5 vectors under one mask",
        ),
        "an ended round again": ("in more than one opened sum of one round",),
    },
    "sum-difference": {
        "the same vectors without one": (
            "as the difference of two sums the vector of site-0, true to the last bit",
        ),
    },
    "members-without-edge": {
        "one neighbour in E": (ONE_VECTOR,),
        "a member of U1 that is not in E": (
            THE_WORD + "a share set with members that it shares no mask with",
        ),
        "bundles that do not list the victim": (ONE_VECTOR,),
    },
    "forgotten-vector": {
        "two attempts with one vector": ("the vector of site-0 in more than one opened sum of one round",),
    },
    "noise-shortfall": {
        "a job of mode distributed": ("a site that takes part in a job of mode distributed",),
        "a job of mode client": ("a site that takes part in a job of mode client",),
    },
    "modulus-wrap": {
        "words of one vector's width": ("words that wrapped",),
        "words of one bit too few": ("words that wrapped",),
    },
    "weak-mask-seeds": {
        "keys that are guessed": (ONE_VECTOR,),
        "masks that serve twice": ("masks that served twice",),
        "a key of low order": (THE_WORD + "a key of low order",),
        "a reflected key": (THE_WORD + "a reflected key",),
    },
    "chosen-graph": {
        "two halves that never meet": ("the sum of 2 honest vectors (site-0, site-1), true to the last bit",),
        "accomplices alone on the ring": ("the vector of site-000, true to the last bit, where 59 is",),
        "the best of several rings": ("the vector of site-000, true to the last bit, where 59 is",),
    },
    "split-share-set": {
        "two members hidden from each other": ("signers saw 3 different share sets",),
        "one member hidden from another": ("signers saw 2 different share sets",),
    },
    "weight-over-cap": {
        "a corrupt site's weight": ("in which its own weight is 65535 of 65548",),
        "an honest site's weight": ("the weight 11 of an honest site in a published sum",),
        "a cap beyond the grid": ("a site that is ready for a job with a cap of 65536 on a grid of 16 bits",),
    },
    "bad-shares": {
        "a holder's wrong shares": ("(a holder gives shares that nobody dealt)",),
        "a dealer's sealed garbage": ("(a dealer seals garbage for one member)",),
        "a dealer's other commitments": ("(a dealer commits to other shares than it seals)",),
    },
    "leaked-secrets": {
        "state and files": ("the vector of site-0 in ", "the identity key of site-0 in "),
        "logs and output": ("the passphrase in what the aggregator printed", "site-0/output.log"),
        "/proc": ("the passphrase in /proc/PID/environ",),
        "core dumps": ("a core dump with all keys",),
    },
    "telling-metadata": {
        "zeros, and a vector at the bound": (
            "what tells the two apart, in 3 rounds of one kind alone: message 3: Exchange of",
        ),
    },
    "saturation-leak": {
        "an update within the bound, and one beyond": (
            "that site-0 stays out where its update goes beyond the bound",
        ),
    },
    "hostile-bytes": {
        "bytes that are no message": ("to a body of a cut one in GetStatus",),
        "another encoding of a message": (
            "to a body of an unknown field in Exchange",
            "to a body of everything twice in Exchange",
            "to a call and an unknown field in Exchange",
            "to a call twice in Exchange",
        ),
        "endless lengths": (
            "to a body of an endless field in Exchange",
            "to a call and an endless field in Exchange",
        ),
        "nested groups": (
            "to a body of nested groups in Exchange",
            "to a call and nested groups in Exchange",
        ),
        "more bytes than allowed": (
            "to more bytes than a call may have in Exchange",
            "to more bytes than a frame may have in Exchange",
        ),
        "a pickle": ("code that ran inside the aggregator",),
        "memory": ("MiB of the aggregator's memory",),
        "the honest round": ("the end of a round that it could stop",),
        "replies to a client": (
            THE_WORD + "an invitation, with an unknown field",
            THE_WORD + "an invitation, twice",
            THE_WORD + "an invitation, and an endless field",
            THE_WORD + "an invitation, and nested groups",
            THE_WORD + "an invitation, behind more bytes than are allowed",
            "code that ran inside a client",
        ),
    },
    "stolen-key-file": {
        "what stands in the file": ("the identity key, in the clear in the file",),
        "guesses": ("both private keys, by the guess None", "an answer of the aggregator to robbed"),
        "a file changed and put back": ("loads a changed file as another, client",),
    },
    "revoked-member": {
        "a held call": ("what the revoked site-2 was told on its held call",),
        "a revoked member": (
            "an answer to site-2 over its open connection",
            "an answer to site-2 over a new one",
        ),
        "an expired member": (
            "an answer to site-3 over its open connection",
            "an answer to site-3 over a new one",
        ),
        "a member before its time": (
            "an answer to site-4 over its open connection",
            "an answer to site-4 over a new one",
        ),
    },
    "wrong-role": {
        "client": ("an answer to StartJob with the key of a client", "a job that no admin stopped"),
        "admin": ("an answer to Exchange with the key of a admin",),
        "auditor": ("an answer to ControlJob with the key of a auditor",),
        "aggregator": ("an answer to GetStatus with the key of a aggregator",),
        "stranger": ("an answer to GetStatus with the key of a stranger",),
        "another's name": ("an answer to ControlJob in the name of office",),
    },
    "roster-fork": {
        "an older version, told to a client": ("a client that goes by an older version",),
        "a fork, told to a client": ("a client that goes by a fork",),
        "another key's, told to a client": ("a client that goes by another key's",),
        "an older version in a client's folder": ("a client that goes by an older version",),
        "an older version in the aggregator's folder": ("an aggregator that goes by an older version",),
        "a fork in the aggregator's folder": ("an aggregator that goes by a fork",),
        "another key's in the aggregator's folder": ("an aggregator that goes by another key's",),
        "a call under an older version": ("an answer to a call under an older roster",),
    },
}
