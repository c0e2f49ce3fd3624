"""Who masks with whom: on the complete graph, everybody with everybody.

The ring graph for more than 128 members is not built; `params` refuses such cohorts.
"""

from __future__ import annotations

from secfed.ids import MemberIndex

__all__ = ["neighbours"]


def neighbours(member: MemberIndex, clients: int) -> tuple[MemberIndex, ...]:
    """The member's neighbours in ascending order."""
    return tuple(MemberIndex(other) for other in range(clients) if other != member)
