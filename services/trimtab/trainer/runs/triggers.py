"""Starts and carries on training cycles: enough new examples -> data set -> reward model -> policy -> its release.

A line's cycles follow one another without end. Each

- starts when enough examples have arrived since the last one ended, whatever became of that one: nothing is trained
  twice without news of what serves now, and a candidate that was refused, rolled back or not proven stops nothing;
- cuts a data set of *all* the line's examples, so that a reward model, made anew from the anchor, is never taught by
  the newest answers alone (replay);
- trains the policy that serves the line when the reward model is ready, against the anchor of that time as reference:
  the KL that PPO weighs and the gate bounds is that to the anchor, not a sum over cycles. What operators promote, undo
  or adopt while the reward model trains is so taken up;
- ends with its candidate's release. Until then nobody knows which policy the next one would start from.

One worker thread of `trainer.app` calls `step` again and again. A cycle's state is a row in the store and every step
is a function of it, so that a trainer killed anywhere takes the step again: the cut is fixed by `cut_arrival` before
it is made, and a run is queued in the same transaction that notes it.
"""

import dataclasses
import enum
import threading
from collections.abc import Mapping
from typing import Any

import sqlalchemy

from trimtab.core import failpoints, lines, models, releases, runs
from trimtab.obs import logging
from trimtab.trainer import recipes
from trimtab.trainer.data import cuts, store
from trimtab.trainer.links import known, publishing
from trimtab.trainer.runs import requests, runbook

_LOOK_EVERY_S = 1.0
_log = logging.get(__name__)


class CycleState(enum.StrEnum):
    CUTTING = "cutting"
    REWARD = "reward"
    POLICY = "policy"
    RELEASE = "release"
    ENDED = "ended"


@dataclasses.dataclass(frozen=True, slots=True)
class Cycle:
    """One pass from feedback to the users' verdict on a policy. number: 1 for a line's first.

    anchor_id: the line's when it started. end_arrival: the newest example when it ended; outcome: how, in words.
    """

    ordinal: int
    tenant: str
    line: str
    number: int
    state: CycleState
    cut_arrival: int
    anchor_id: str
    dataset_id: str = ""
    reward_run_id: str = ""
    policy_run_id: str = ""
    end_arrival: int = 0
    outcome: str = ""


class Triggers:
    """Watches the lines of this installation."""

    def __init__(
        self,
        *,
        database: store.Store,
        book: runbook.Runbook,
        publisher: publishing.Publisher,
        topics_say: known.Known,
        configured: Mapping[str, lines.LineConfig],
        cutter: cuts.Cutter,
        topics_known: threading.Event,
    ) -> None:
        self._database = database
        self._book = book
        self._publisher = publisher
        self._known = topics_say
        self._lines = configured
        self._cutter = cutter
        self._topics_known = topics_known

    def run(self, stop: threading.Event) -> None:
        """Takes steps until told to stop; a log or ledger that is away is waited for."""
        while not self._topics_known.wait(_LOOK_EVERY_S):
            if stop.is_set():
                return
        while not stop.is_set():
            try:
                self.step()
            except publishing.NOT_NOW as problem:
                _log.warning("cycle waits", reason=str(problem))
            stop.wait(_LOOK_EVERY_S)

    def step(self) -> None:
        """Takes each line's next step, where there is one to take."""
        for line in self._lines.values():
            newest = self.newest(line)
            if newest is None or newest.state is CycleState.ENDED:
                self._maybe_start(line, newest)
            else:
                self._carry_on(line, newest)

    def newest(self, line: lines.LineConfig) -> Cycle | None:
        """The line's newest cycle."""
        table = store.CYCLES
        wanted = (
            sqlalchemy.select(table)
            .where(table.c.tenant == line.tenant, table.c.line == line.name)
            .order_by(table.c.number.desc())
            .limit(1)
        )
        with self._database.reading() as connection:
            row = connection.execute(wanted).mappings().first()
        return None if row is None else Cycle(**{**row, "state": CycleState(row["state"])})

    def _maybe_start(self, line: lines.LineConfig, last: Cycle | None) -> None:
        wanted = line.trigger.examples
        anchor, _ = self._known.anchor_and_live(line.tenant, line.name)
        if not wanted or not anchor or self._is_spent(line):
            return
        held = self._cutter.left_out(line.tenant, line.name)
        with self._database.transaction() as connection:
            number, since = (last.number + 1, last.end_arrival) if last else (1, 0)
            fresh = store.count_new_trainable(connection, line.tenant, line.name, since, held)
            if fresh < wanted:
                return
            connection.execute(
                sqlalchemy.insert(store.CYCLES).values(
                    tenant=line.tenant,
                    line=line.name,
                    number=number,
                    state=CycleState.CUTTING.value,
                    cut_arrival=store.newest_arrival(connection),
                    anchor_id=anchor,
                )
            )
        _log.info("cycle started", line=line.name, cycle=number, new_examples=fresh)

    def _is_spent(self, line: lines.LineConfig) -> bool:
        """Whether the line's triggers have brought about as much as its owner allows."""
        cycles, promotions = line.trigger.cycles, line.trigger.promotions
        if not cycles and not promotions:
            return False
        table = store.CYCLES
        wanted = sqlalchemy.select(table.c.policy_run_id).where(
            table.c.tenant == line.tenant, table.c.line == line.name, table.c.policy_run_id != ""
        )
        with self._database.reading() as connection:
            trained = connection.execute(wanted).scalars().all()
        if cycles and len(trained) >= cycles:
            return True
        return bool(promotions) and sum(self._is_promoted(line, run_id) for run_id in trained) >= promotions

    def _is_promoted(self, line: lines.LineConfig, run_id: str) -> bool:
        found = [
            self._known.release_of(line.tenant, line.name, id_) for id_ in self._book.get(line.tenant, run_id).model_ids
        ]
        return any(release.state is releases.ReleaseState.PROMOTED for release in found if release)

    def _carry_on(self, line: lines.LineConfig, cycle: Cycle) -> None:
        match cycle.state:
            case CycleState.CUTTING:
                self._cut(line, cycle)
            case CycleState.REWARD:
                self._after_reward(line, cycle)
            case CycleState.POLICY:
                self._after_policy(cycle)
            case CycleState.RELEASE:
                self._after_release(cycle)

    def _cut(self, line: lines.LineConfig, cycle: Cycle) -> None:
        dataset_id = self._cutter.cut(
            cycle.tenant, cycle.line, cycle.cut_arrival, f"cycle {cycle.tenant}/{cycle.line}/{cycle.number}"
        )
        incumbent = self._known.incumbent(cycle.tenant, cycle.line)
        spec = self._spec(
            line,
            cycle,
            runs.RunKind.REWARD,
            parent_id=cycle.anchor_id,
            dataset_id=dataset_id,
            reward_id=incumbent,
        )
        self._queue(cycle, spec, CycleState.REWARD, "reward_run_id", dataset_id=dataset_id)

    def _after_reward(self, line: lines.LineConfig, cycle: Cycle) -> None:
        run = self._book.get(cycle.tenant, cycle.reward_run_id)
        if run.state not in runbook.FINAL_STATES:
            return
        if run.state is not runs.RunState.SUCCEEDED:
            self._end(cycle, f"the reward run {run.id} has {run.state}: {run.problem}")
            return
        made = self._publisher.models_of(run)
        reward = next((one for one in made if one.kind is models.ModelKind.REWARD), None)
        judge = next((one for one in made if one.kind is models.ModelKind.EVALUATION_REWARD), None)
        if reward is None or not reward.passed:
            refused = ", ".join(gate.name for gate in reward.gates if not gate.passed) if reward else "no reward model"
            self._end(cycle, f"the reward model was refused at its gates: {refused}")
            return
        anchor, live = self._known.anchor_and_live(cycle.tenant, cycle.line)
        method = runs.RunKind(line.trigger.method)
        spec = self._spec(
            line,
            cycle,
            method,
            parent_id=live,
            reference_id=anchor,
            reward_id=reward.id if "reward_id" in recipes.METHODS[method].needs else "",
            evaluation_reward_id=judge.id if judge else "",
            dataset_id=cycle.dataset_id,
        )
        self._queue(cycle, spec, CycleState.POLICY, "policy_run_id")

    def _after_policy(self, cycle: Cycle) -> None:
        run = self._book.get(cycle.tenant, cycle.policy_run_id)
        if run.state not in runbook.FINAL_STATES:
            return
        if run.state is not runs.RunState.SUCCEEDED:
            self._end(cycle, f"the policy run {run.id} has {run.state}: {run.problem}")
            return
        with self._database.transaction() as connection:
            self._update(connection, cycle, state=CycleState.RELEASE.value)

    def _after_release(self, cycle: Cycle) -> None:
        (policy_id,) = self._book.get(cycle.tenant, cycle.policy_run_id).model_ids
        release = self._known.release_of(cycle.tenant, cycle.line, policy_id)
        if release is not None and release.state in releases.FINAL_STATES:
            self._end(cycle, f"{release.state.value.replace('_', ' ')}: {release.history[-1].reason}")

    def _spec(self, line: lines.LineConfig, cycle: Cycle, kind: runs.RunKind, **inputs: str) -> runs.RunSpec:
        return runs.RunSpec(
            tenant=cycle.tenant,
            line=cycle.line,
            kind=kind,
            settings_json=requests.merged_settings(line, kind, "{}"),
            seed=cycle.number,
            label=f"cycle {cycle.number}",
            **inputs,
        )

    def _queue(self, cycle: Cycle, spec: runs.RunSpec, state: CycleState, column: str, **values: Any) -> None:
        with self._database.transaction() as connection:
            values[column] = self._book.ask(connection, spec, runs.TRIGGER)
            self._update(connection, cycle, state=state.value, **values)
        self._book.changed()

    def _end(self, cycle: Cycle, outcome: str) -> None:
        with self._database.transaction() as connection:
            end = store.newest_arrival(connection)
            self._update(connection, cycle, state=CycleState.ENDED.value, end_arrival=end, outcome=outcome)
            failpoints.reach("trainer.cycle.before_end")
        failpoints.reach("trainer.cycle.ended")
        _log.info("cycle ended", line=cycle.line, cycle=cycle.number, outcome=outcome)

    @staticmethod
    def _update(connection: sqlalchemy.Connection, cycle: Cycle, **values: Any) -> None:
        where = store.CYCLES.c.ordinal == cycle.ordinal
        connection.execute(sqlalchemy.update(store.CYCLES).where(where).values(**values))
