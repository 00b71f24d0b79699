"""Share: which member gets which of N parts, so that all have nearly the same and few parts move. Pure.

Everybody computes it from the same rows and comes to the same end, so nobody has to be told. A member keeps what it has
up to its quota, what is over goes to those below theirs. With N parts and M members a quota is N // M, and one more
for N % M of them: those that have most already, so that nothing moves for the sake of the one.

Whoever looks a moment earlier may see it otherwise. Leases make that harmless: a part has one holder; and three turns
after the last member came or went everybody has its share.

Next: service.partitions
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

from eventplat.hashing import bucket_of

Part = TypeVar("Part", int, str)


def share(parts: Collection[Part], members: Collection[str], holders: Mapping[Part, str]) -> dict[Part, str]:
    """The member that each of `parts` belongs to.

    Args:
        members: Those that live; without any the answer is empty.
        holders: Who has which part now; one who is no member has nothing.

    Returns:
        Every part, once; two members differ by one part at most.
    """
    kept: dict[str, list[Part]] = {member: [] for member in members}
    for part in sorted(parts):
        if (holder := holders.get(part)) in kept:
            kept[str(holder)].append(part)
    if not kept:
        return {}
    least, more = divmod(len(parts), len(kept))
    ranked = sorted(kept, key=lambda member: (-len(kept[member]), bucket_of(member), member))
    quotas = {member: least + (place < more) for place, member in enumerate(ranked)}
    shares = {part: member for member in ranked for part in kept[member][: quotas[member]]}
    free = [part for part in sorted(parts) if part not in shares]
    for member in ranked:
        has = min(len(kept[member]), quotas[member])
        taken, free = free[: quotas[member] - has], free[quotas[member] - has :]
        shares |= dict.fromkeys(taken, member)
    return shares
