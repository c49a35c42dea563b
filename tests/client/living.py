"""A whole platform, seen by an app: where its doors are, what became of feedback, and a crash when a test wants one."""

import os
import signal

from tests import timing
from tests.integration.loop import living

from trimtab.core import errors, feedback, ledger
from trimtab.rollout import processes

LINE = living.LINE


class Up(living.Up):
    def environment(self) -> dict[str, str]:
        """What the examples read."""
        return {
            "TRIMTAB_ADDRESS": self.address(),
            "TRIMTAB_BASE_URL": f"{self.url}/v1",
            "TRIMTAB_API_KEY": self.api_key(),
        }

    def kill(self, name: str) -> int:
        """Ends one process as a crash would, and tells how often it was started anew before. It will be again."""
        row = self._row(name)
        os.kill(row.pid, signal.SIGKILL)
        return row.restarts

    def restarts(self, name: str) -> int:
        """How often a process was started anew."""
        return self._row(name).restarts

    def _row(self, name: str) -> processes.Row:
        [row] = [row for row in processes.Table(self.state).rows() if row.name == name]
        return row

    def joined(self, identity: str) -> dict[str, feedback.FeedbackEvent]:
        """Everything that was said in the chain an id belongs to, by id, once all of it is joined with its answer."""
        told: list[ledger.TracedFeedback] = []

        def all_joined() -> bool:
            try:
                told[:] = self.trace(identity).feedback
            except errors.NotFound:  # the ledger has yet to read it
                return False
            return bool(told) and all(one.status is ledger.FeedbackStatus.JOINED for one in told)

        timing.until(all_joined, "joined feedback")
        assert not any(one.copies for one in told)
        return {one.event.id: one.event for one in told}
