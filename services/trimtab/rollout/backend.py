"""Where policies run: the port. Adapters: `rollout.local` (this machine's supervisor).

Called by `rollout.controller` from a thread, since adapters block. Both calls say what is wanted and return at once;
the controller asks again at every look.
"""

import dataclasses
from typing import Protocol


@dataclasses.dataclass(frozen=True, slots=True)
class ProcessStatus:
    """A policy's processes. address: host:port, possibly before anything listens there. problem: why not healthy.

    restarts: how often it ended unasked since it was first wanted.
    """

    address: str
    healthy: bool
    problem: str = ""
    restarts: int = 0


class Backend(Protocol):
    def ensure(self, policy_id: str, line: str) -> ProcessStatus:
        """Wants the policy to be served, and says how it is."""
        ...

    def release(self, policy_id: str) -> None:
        """The policy need not be served any more."""
        ...
