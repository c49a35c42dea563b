"""The book of runs: what was asked for, how far each is, and who is told of a change.

`trainer.servicer` asks and watches through `trainer.runs.requests`, the worker (`trainer.runs.worker`) and the triggers
write. The rows live in `trainer.data.store`, so that a restarted trainer finds the runs it was in the middle of.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import json
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import sqlalchemy

from trimtab.core import clock, errors, runs
from trimtab.trainer.data import store

FINAL_STATES = frozenset({runs.RunState.SUCCEEDED, runs.RunState.FAILED, runs.RunState.CANCELLED})


class Runbook:
    """Reads and writes runs, in the order in which they were asked for."""

    def __init__(self, database: store.Store, now: clock.Clock = clock.utc_now) -> None:
        self._database = database
        self._now = now
        self._feed = _Feed()

    def ask(self, connection: sqlalchemy.Connection, spec: runs.RunSpec, asked_by: str) -> str:
        """Queues a run inside the caller's transaction; its id. Call `changed` after the commit."""
        run_id = f"run-{uuid.uuid4().hex}"
        connection.execute(
            sqlalchemy.insert(store.RUNS).values(
                id=run_id,
                tenant=spec.tenant,
                line=spec.line,
                state=runs.RunState.QUEUED.value,
                spec=json.dumps(dataclasses.asdict(spec)),
                created_at=self._now().isoformat(),
                asked_by=asked_by,
            )
        )
        return run_id

    def changed(self) -> None:
        """Wakes everybody who watches or waits."""
        self._feed.announce()

    def get(self, tenant: str, run_id: str) -> runs.Run:
        """The run; NotFound when the tenant has none of this id."""
        where = (store.RUNS.c.id == run_id, store.RUNS.c.tenant == tenant)
        found = self._select(*where)
        if not found:
            raise errors.NotFound("run", run_id)
        return found[0]

    def find(self, tenant: str, line: str = "") -> tuple[runs.Run, ...]:
        """The tenant's runs, oldest first; of one line when it is named."""
        where = [store.RUNS.c.tenant == tenant]
        if line:
            where.append(store.RUNS.c.line == line)
        return tuple(self._select(*where))

    def next_open(self, triggered: bool) -> runs.Run | None:
        """What to work on, of the triggered runs or the others: what was interrupted, else what waits longest."""
        asked_by = store.RUNS.c.asked_by
        of_queue = asked_by == runs.TRIGGER if triggered else asked_by != runs.TRIGGER
        for state in (runs.RunState.RUNNING, runs.RunState.QUEUED):
            found = self._select(store.RUNS.c.state == state.value, of_queue)
            if found:
                return found[0]
        return None

    def start(self, run_id: str) -> None:
        """QUEUED -> RUNNING; a run that is resumed keeps its start."""
        self._update(
            run_id, runs.RunState.QUEUED, state=runs.RunState.RUNNING.value, started_at=self._now().isoformat()
        )

    def fix_cut(self, run_id: str) -> int:
        """Up to which arrival this run's own data set is cut: decided once, whatever arrives or dies later."""
        where = store.RUNS.c.id == run_id
        with self._database.transaction() as connection:
            fixed = connection.execute(sqlalchemy.select(store.RUNS.c.cut_arrival).where(where)).scalar()
            if fixed is None:
                fixed = store.newest_arrival(connection)
                connection.execute(sqlalchemy.update(store.RUNS).where(where).values(cut_arrival=fixed))
        return int(fixed)

    def set_spec(self, run_id: str, spec: runs.RunSpec) -> None:
        """Completes what a running run depends on."""
        self._update(run_id, runs.RunState.RUNNING, spec=json.dumps(dataclasses.asdict(spec)))

    def progress(self, run_id: str, step: int, steps: int, figures: dict[str, float]) -> None:
        """The run goes on."""
        self._update(run_id, runs.RunState.RUNNING, step=step, steps=steps, figures=json.dumps(figures), problem="")

    def waits(self, run_id: str, reason: str) -> None:
        """The run does not go on now. reason: a sentence."""
        self._update(run_id, runs.RunState.RUNNING, problem=reason)

    def end(
        self,
        run_id: str,
        state: runs.RunState,
        *,
        problem: str = "",
        model_ids: tuple[str, ...] = (),
        figures: dict[str, float] | None = None,
    ) -> None:
        """The run's last change. figures: those of the result; None keeps the last of its progress."""
        values: dict[str, Any] = {
            "state": state.value,
            "problem": problem,
            "model_ids": json.dumps(model_ids),
            "ended_at": self._now().isoformat(),
        }
        if figures is not None:
            values["figures"] = json.dumps(figures)
        self._update(run_id, runs.RunState.RUNNING, **values)

    def cancel(self, connection: sqlalchemy.Connection, run_id: str) -> bool:
        """A queued run ends at once, a running one when its process has; False when that was asked for before.

        Inside the caller's transaction; call `changed` after the commit. WrongState for one that has ended.
        """
        where = store.RUNS.c.id == run_id
        row = connection.execute(sqlalchemy.select(store.RUNS.c.state, store.RUNS.c.cancel).where(where)).one()
        state = runs.RunState(row.state)
        if state in FINAL_STATES:
            raise errors.WrongState(f"Run {run_id} has {state}; only a queued or running one can be cancelled.")
        values: dict[str, Any] = {"cancel": True}
        if state is runs.RunState.QUEUED:
            values |= {"state": runs.RunState.CANCELLED.value, "ended_at": self._now().isoformat()}
        connection.execute(sqlalchemy.update(store.RUNS).where(where).values(**values))
        return not row.cancel

    def is_cancelled(self, run_id: str) -> bool:
        """Whether somebody asked for this running run to stop."""
        asked = sqlalchemy.select(store.RUNS.c.cancel).where(store.RUNS.c.id == run_id)
        with self._database.reading() as connection:
            return bool(connection.execute(asked).scalar())

    def is_ended(self, run_id: str) -> bool:
        """Whether there is such a run and it has ended."""
        return any(run.state in FINAL_STATES for run in self._select(store.RUNS.c.id == run_id))

    def wait(self, timeout_s: float) -> None:
        """Blocks a worker thread until something changes, or the time is over."""
        self._feed.wait(timeout_s)

    async def watch(self, tenant: str, run_id: str) -> AsyncIterator[runs.Run]:
        """The run now and after every change, until it has ended."""
        last: runs.Run | None = None
        with self._feed.watching() as something_new:
            while last is None or last.state not in FINAL_STATES:
                something_new.clear()
                run = await asyncio.to_thread(self.get, tenant, run_id)
                if run != last:
                    yield run
                    last = run
                else:
                    await something_new.wait()

    def _update(self, run_id: str, only_in: runs.RunState, **values: Any) -> bool:
        statement = (
            sqlalchemy.update(store.RUNS)
            .where(store.RUNS.c.id == run_id, store.RUNS.c.state == only_in.value)
            .values(**values)
        )
        with self._database.transaction() as connection:
            happened = connection.execute(statement).rowcount == 1
        if happened:
            self._feed.announce()
        return happened

    def _select(self, *where: sqlalchemy.ColumnElement[bool]) -> list[runs.Run]:
        with self._database.reading() as connection:
            rows = connection.execute(sqlalchemy.select(store.RUNS).where(*where).order_by(store.RUNS.c.ordinal))
            return [_run(row) for row in rows]


def _run(row: Any) -> runs.Run:
    spec = json.loads(row.spec)
    return runs.Run(
        id=row.id,
        spec=runs.RunSpec(**{**spec, "kind": runs.RunKind(spec["kind"])}),
        state=runs.RunState(row.state),
        created_at=datetime.datetime.fromisoformat(row.created_at),
        started_at=_moment(row.started_at),
        ended_at=_moment(row.ended_at),
        model_ids=tuple(json.loads(row.model_ids)),
        problem=row.problem,
        step=row.step,
        steps=row.steps,
        figures=tuple(runs.RunFigure(name, value) for name, value in sorted(json.loads(row.figures).items())),
        asked_by=row.asked_by,
    )


def _moment(value: str | None) -> datetime.datetime | None:
    return None if value is None else datetime.datetime.fromisoformat(value)


class _Feed:
    """Tells threads and asyncio tasks that something has changed."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._version = 0
        self._seen = threading.local()
        self._watchers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def announce(self) -> None:
        with self._condition:
            self._version += 1
            self._condition.notify_all()
            for loop, event in self._watchers:
                loop.call_soon_threadsafe(event.set)

    def wait(self, timeout_s: float) -> None:
        """Until a change that this thread has not yet been told of."""
        seen = getattr(self._seen, "version", 0)
        with self._condition:
            self._condition.wait_for(lambda: self._version > seen, timeout_s)
            self._seen.version = self._version

    @contextlib.contextmanager
    def watching(self) -> Iterator[asyncio.Event]:
        """An event, of the running loop, that is set at every change."""
        entry = (asyncio.get_running_loop(), asyncio.Event())
        with self._condition:
            self._watchers.add(entry)
        try:
            yield entry[1]
        finally:
            with self._condition:
                self._watchers.discard(entry)
