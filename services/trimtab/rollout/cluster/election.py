"""Which of several controllers acts: a Lease of the cluster, as its own components have one.

Asked by `rollout.desk` before the lease row of the ledger, which fences: its generation is on every record. The Lease
only saves the others the asking, and shows in `kubectl get lease` who acts. Its holder is trusted for as long as it
said, counted from when somebody here saw it change: clocks of several machines are not compared.
"""

import time
from collections.abc import Callable

from kubernetes import client

from trimtab.core import clock
from trimtab.rollout.cluster import api


class Election:
    def __init__(
        self,
        cluster: api.Api,
        name: str,
        holder: str,
        lasts_s: float,
        *,
        now: clock.Clock = clock.utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = cluster
        self._name = name
        self._holder = holder
        self._lasts_s = lasts_s
        self._now = now
        self._monotonic = monotonic
        self._seen: tuple[str, float] = ("", 0.0)

    def won(self) -> bool:
        """Takes or renews it where it may; whether it is held. Blocking; ServiceUnavailable when the API is away."""
        found = self._api.lease(self._name)
        if found is not None and self._is_kept(found):
            return False
        return self._api.write_lease(self._mine(found))

    def give_back(self) -> None:
        found = self._api.lease(self._name)
        if found is not None and found.spec.holder_identity == self._holder:
            found.spec.holder_identity = ""
            self._api.write_lease(found)

    def _is_kept(self, lease: api.Lease) -> bool:
        """By another one."""
        holder = lease.spec.holder_identity or ""
        if lease.metadata.resource_version != self._seen[0]:
            self._seen = (lease.metadata.resource_version, self._monotonic())
        if holder in {"", self._holder}:
            return False
        lasts_s = lease.spec.lease_duration_seconds or self._lasts_s
        return self._monotonic() < self._seen[1] + lasts_s

    def _mine(self, found: api.Lease | None) -> api.Lease:
        now = self._now()
        since, changes = now, 0
        if found is not None:
            again = found.spec.holder_identity == self._holder
            since = found.spec.acquire_time if again else now
            changes = (found.spec.lease_transitions or 0) + (not again)
        return client.V1Lease(
            metadata=client.V1ObjectMeta(
                name=self._name, resource_version=found.metadata.resource_version if found is not None else None
            ),
            spec=client.V1LeaseSpec(
                holder_identity=self._holder,
                lease_duration_seconds=max(1, round(self._lasts_s)),
                acquire_time=since,
                renew_time=now,
                lease_transitions=changes,
            ),
        )
