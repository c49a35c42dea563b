"""What this replica has lately acknowledged: tells a repeated event from a conflicting one without asking the log.

Used by `feedback.intake` and `feedback.imports`. Bounded, and lost at a restart: the ledger counts once in any case.
"""

import collections
import enum


class Seen(enum.Enum):
    NEVER = enum.auto()
    SAME = enum.auto()
    OTHER = enum.auto()


class Acknowledged:
    """The newest identities with the digest of their bodies; the one untouched for longest goes first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._digests: collections.OrderedDict[tuple[str, str], bytes] = collections.OrderedDict()

    def look(self, identity: tuple[str, str], digest: bytes) -> Seen:
        known = self._digests.get(identity)
        if known is None:
            return Seen.NEVER
        self._digests.move_to_end(identity)
        return Seen.SAME if known == digest else Seen.OTHER

    def add(self, identity: tuple[str, str], digest: bytes) -> None:
        """Remembers what the log has. The first body stays: it is the one that counts."""
        self._digests.setdefault(identity, digest)
        if len(self._digests) > self._capacity:
            self._digests.popitem(last=False)
