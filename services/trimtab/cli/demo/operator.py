"""What the demo's operator asks of the platform, through the services' gRPC doors, until it is answered.

Each act has an id of its own under which it is asked again, so that a service that dies between doing and answering
does it once. `patience` stretches every limit: a platform that is being killed takes longer.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from trimtab.cli.machine import operating, platform
from trimtab.core import control, errors, ledger, releases, runs

NAME = "demo operator"
_AWAY_LIMIT_S = 60.0
_POLL_S = 0.3
_QUICK_S, _ACT_S = 10.0, 30.0
_OFFER_LIMIT_S, _START_LIMIT_S = 60.0, 120.0
_Found = TypeVar("_Found")


class Operator:
    """Operates one line of a running platform."""

    def __init__(self, doors: platform.Doors, line: str, patience: float) -> None:
        self.tenant = doors.facts.tenant
        self._doors = doors
        self._line = line
        self._patience = patience

    async def start_run(self, spec: runs.RunSpec) -> runs.Run:
        request = runs.StartRunRequest(spec, NAME, operating.new_request())
        return await self._ask(lambda: self._doors.trainer.start_run(request, timeout_s=_ACT_S))

    async def get_run(self, run_id: str) -> runs.GetRunResponse:
        request = runs.GetRunRequest(self.tenant, run_id)
        return await self._ask(lambda: self._doors.trainer.get_run(request, timeout_s=_QUICK_S))

    async def list_runs(self) -> tuple[runs.Run, ...]:
        request = runs.ListRunsRequest(self.tenant, self._line)
        return await self._ask(lambda: self._doors.trainer.list_runs(request, timeout_s=_QUICK_S))

    async def finished(self, run: runs.Run, tell: Callable[[str], None]) -> runs.Run:
        return await platform.finished(self._doors, run, tell, away_limit_s=self._patience * _AWAY_LIMIT_S)

    async def adopt(self, model_id: str, reason: str) -> releases.Release:
        request = control.AdoptRequest(self.tenant, self._line, model_id, NAME, reason, operating.new_request())
        return await self._ask(lambda: self._doors.rollout.adopt(request, timeout_s=_ACT_S))

    async def force(self, model_id: str, reason: str) -> releases.Release:
        request = control.StartReleaseRequest(self.tenant, self._line, model_id, NAME, reason, operating.new_request())
        return await self._ask(lambda: self._doors.rollout.start_release(request, timeout_s=_ACT_S))

    async def get_release(self, release_id: str) -> releases.Release:
        request = control.GetReleaseRequest(self.tenant, release_id)
        return await self._ask(lambda: self._doors.rollout.get_release(request, timeout_s=_QUICK_S))

    async def history(self) -> tuple[releases.Release, ...]:
        """Every release of the line, oldest first."""
        request = control.ListReleasesRequest(self.tenant, self._line)
        listed = await self._ask(lambda: self._doors.rollout.list_releases(request, timeout_s=_QUICK_S))
        return tuple(reversed(listed))

    async def offered(self, policy_id: str) -> releases.Release:
        """The newest release of a policy, once there is one."""

        async def newest() -> releases.Release | None:
            found = [release for release in await self.history() if release.candidate_id == policy_id]
            return found[-1] if found else None

        return await self.eventually("a release", newest, _OFFER_LIMIT_S)

    async def until_serving(self, release_id: str) -> releases.Release:
        """The release, once its policy's process serves, or it has ended before."""

        async def serving() -> releases.Release | None:
            release = await self.get_release(release_id)
            early = (releases.ReleaseState.PENDING, releases.ReleaseState.VERIFYING)
            return None if release.state in early else release

        return await self.eventually("its process", serving, _START_LIMIT_S)

    async def ended(self, release: releases.Release, tell: Callable[[str], None]) -> releases.Release:
        return await platform.ended(self._doors, release, tell, away_limit_s=self._patience * _AWAY_LIMIT_S)

    async def counts(self) -> ledger.CountsResponse:
        request = ledger.CountsRequest(self.tenant, self._line)
        return await self._ask(lambda: self._doors.ledger.counts(request, timeout_s=_QUICK_S))

    async def eventually(self, what: str, probe: Callable[[], Awaitable[_Found | None]], limit_s: float) -> _Found:
        """What `probe` finds, asked again and again; WrongState says `what` did not come within the limit."""
        limit_s *= self._patience
        try:
            async with asyncio.timeout(limit_s):
                found = await probe()
                while found is None:
                    await asyncio.sleep(_POLL_S)
                    found = await probe()
        except TimeoutError:
            raise errors.WrongState(f"The demo waited {limit_s:.0f} s in vain for {what}.") from None
        return found

    async def _ask(self, ask: Callable[[], Awaitable[_Found]]) -> _Found:
        return await platform.patiently(ask, self._patience * _AWAY_LIMIT_S)
