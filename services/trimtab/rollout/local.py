"""Policies on this machine: rows in the table that the supervisor makes true.

Built by `rollout.app`; the table is `rollout.processes`, the supervisor `cli.machine.supervisor`.
"""

import contextlib
import os
import pathlib
import signal

from trimtab.rollout import backend, processes


class LocalBackend:
    """A `backend.Backend` over the supervisor's table."""

    def __init__(self, state: pathlib.Path, command: tuple[str, ...], environment: dict[str, str]) -> None:
        """command: with {policy_id}, {line} and {address}; environment: what it is told, paths and no secrets."""
        self._table = processes.Table(state)
        self._command = command
        self._environment = environment

    def ensure(self, wanted: backend.Wanted) -> backend.ProcessStatus:
        argv = tuple(map(wanted.fill, self._command))
        row = self._table.ensure(processes.ProcessSpec(process_name(wanted.policy_id), argv, self._environment))
        healthy = row.status is processes.Status.RUNNING
        return backend.ProcessStatus(
            address=row.address,
            healthy=healthy,
            problem="" if healthy else _problem(row),
            restarts=row.restarts,
            complete=healthy,
            replicas=(backend.Replica(row.name, row.address, str(row.pid)),) if healthy else (),
        )

    def release(self, policy_id: str, line: str) -> None:
        self._table.release(process_name(policy_id))

    def replace(self, replica: backend.Replica) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(replica.life), signal.SIGTERM)

    def close(self) -> None:
        self._table.close()


def process_name(policy_id: str) -> str:
    return f"policy-{policy_id.replace('/', '-')[:20]}"


def _problem(row: processes.Row) -> str:
    if row.status is processes.Status.CRASHED:
        return f"its process ended with {row.last_exit}; its log is logs/{row.name}.log"
    return "the supervisor has not started its process yet"
