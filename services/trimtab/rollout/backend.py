"""Where policies run: the port. Adapters: `rollout.local` (this machine's supervisor), `rollout.cluster` (Kubernetes).

Called by `rollout.controller` from a thread, since adapters block. Every call says what is wanted and returns at once;
the controller asks again at every look. ServiceUnavailable or Overloaded: what runs the processes is away, ask later.
"""

import dataclasses
import enum
from typing import Protocol

# In what says how a policy is run: stand for its id and its line.
POLICY, LINE = "{policy_id}", "{line}"


class Role(enum.StrEnum):
    """What a policy is on its line now. PREVIOUS: what served before the last promotion, kept for an undo."""

    STABLE = "stable"
    CANDIDATE = "candidate"
    PREVIOUS = "previous"


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """A policy that shall be served. release_id: of the release that brings or brought it."""

    policy_id: str
    line: str
    role: Role
    release_id: str

    def fill(self, text: str) -> str:
        """With this policy where `text` has POLICY or LINE."""
        return text.replace(POLICY, self.policy_id).replace(LINE, self.line)


@dataclasses.dataclass(frozen=True, slots=True)
class Replica:
    """One process. address: host:port of this one alone. life: another one whenever the process is."""

    name: str
    address: str
    life: str


@dataclasses.dataclass(frozen=True, slots=True)
class ProcessStatus:
    """A policy's processes. address: of all of them, possibly before anything listens there. problem: why not healthy.

    healthy: some can answer. complete: all that shall be there can. restarts: how often they ended unasked since the
    policy was first wanted. replicas: those that can answer.
    """

    address: str
    healthy: bool
    problem: str = ""
    restarts: int = 0
    complete: bool = True
    replicas: tuple[Replica, ...] = ()


class Backend(Protocol):
    def ensure(self, wanted: Wanted) -> ProcessStatus:
        """Wants the policy to be served, and says how it is."""
        ...

    def release(self, policy_id: str, line: str) -> None:
        """The policy need not be served any more."""
        ...

    def replace(self, replica: Replica) -> None:
        """Ends a process that is not what it should be; another one comes in its place."""
        ...
