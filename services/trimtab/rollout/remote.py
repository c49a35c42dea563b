"""The services the controller calls: the ledger for evidence, unscored answers and the lease, the reward service for
scores, policy processes for what they loaded.

Built by `rollout.app`. Channels are opened at the first call, since that has to happen inside the event loop.
"""

from grpc import aio

import trimtab_client
from trimtab.core import completions, errors, ledger, scoring
from trimtab.wire import calls

_DESCRIBE_S = 5.0
_LEDGER_S = 30.0


class Remote:
    """Channels by address; one token for all."""

    def __init__(self, ledger_address: str, reward_address: str, token: str) -> None:
        self._ledger_address = ledger_address
        self._reward_address = reward_address
        self._token = token
        self._channels: dict[str, aio.Channel] = {}

    async def acquire_lease(
        self, request: ledger.AcquireLeaseRequest, *, timeout_s: float = _LEDGER_S
    ) -> ledger.AcquireLeaseResponse:
        return await self._ledger().acquire_lease(request, timeout_s=timeout_s)

    async def release_lease(self, request: ledger.ReleaseLeaseRequest, *, timeout_s: float = _LEDGER_S) -> None:
        await self._ledger().release_lease(request, timeout_s=timeout_s)

    async def evidence(
        self, request: ledger.EvidenceRequest, *, timeout_s: float = _LEDGER_S
    ) -> ledger.EvidenceResponse:
        return await self._ledger().evidence(request, timeout_s=timeout_s)

    async def unscored(
        self, request: ledger.UnscoredRequest, *, timeout_s: float = _LEDGER_S
    ) -> ledger.UnscoredResponse:
        return await self._ledger().unscored(request, timeout_s=timeout_s)

    async def score(
        self, request: scoring.ScoreRequest, *, timeout_s: float = calls.GENERATE_S
    ) -> scoring.ScoreResponse:
        return await calls.RewardCalls(self._channel(self._reward_address)).score(request, timeout_s=timeout_s)

    async def describe(self, address: str) -> completions.DescribeResponse | None:
        """What the policy process at an address says it is; None while it does not answer as serving."""
        try:
            return await calls.PolicyCalls(self._channel(address)).describe(timeout_s=_DESCRIBE_S)
        except (errors.ServiceUnavailable, errors.DeadlineExceeded, errors.Overloaded):
            return None

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    def _ledger(self) -> calls.LedgerCalls:
        return calls.LedgerCalls(self._channel(self._ledger_address))

    def _channel(self, address: str) -> aio.Channel:
        if address not in self._channels:
            self._channels[address] = trimtab_client.connect(address, self._token)
        return self._channels[address]
