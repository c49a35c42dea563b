"""Works off the book of runs: prepare, have a job train, publish, end.

`trainer.app` runs `Worker.run` in two threads, one for the runs that people ask for and one for those that feedback
triggers: a cycle that takes a day makes nobody wait. Training itself is `trainer.job`, in a child (`trainer.runs.jobs`)
or on another machine (`trainer.runs.hosted`); publishing is `trainer.links.publishing`. A run stays RUNNING in the book
until its models are published and announced, so that a trainer killed anywhere finds it and goes on: with the job if
there is no result yet, with publishing if there is. A job that is killed itself is started again and goes on from its
last checkpoint; so is one that ended because something was away, for as long as it is.
"""

import dataclasses
import pathlib
import sys
import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

from trimtab import registry
from trimtab.core import errors, failpoints, lines, runs
from trimtab.obs import logging, metrics
from trimtab.trainer import offers, record
from trimtab.trainer.data import cuts, quarantines
from trimtab.trainer.judging import sets
from trimtab.trainer.links import known, publishing
from trimtab.trainer.runs import jobs, requests, runbook

_IDLE_S = 0.5
_PROGRESS_EVERY_S = 0.2
_RETRY_AFTER_S = 0.5
# A job that starts again takes seconds.
_START_AGAIN_AFTER_S = 2.0
_END_GRACE_S = 5.0
# So often in a row may a job be killed without having come to a new checkpoint.
_DEATHS = 5
_log = logging.get(__name__)
_Made = TypeVar("_Made")

# What says that this run can never succeed as it was asked for.
_REFUSED = (errors.NotFound, errors.InvalidField, errors.ArtifactCorrupt)


class _Stopped(Exception):
    """The trainer ends; the run stays RUNNING for the next one."""


class _Ended(Exception):
    """The run ends without a model."""

    def __init__(self, state: runs.RunState, problem: str) -> None:
        super().__init__(problem)
        self.state = state


class Worker:
    """One run at a time and queue, oldest first, an interrupted one before all others."""

    def __init__(
        self,
        *,
        book: runbook.Runbook,
        folder: pathlib.Path,
        artifacts: registry.Registry,
        publisher: publishing.Publisher,
        cutter: cuts.Cutter,
        held: quarantines.Quarantines,
        topics_say: known.Known,
        configured: Mapping[str, lines.LineConfig],
        start: Callable[[jobs.RunFolder], jobs.Job],
        topics_known: threading.Event,
    ) -> None:
        """folder: of all run folders. start: begins the job of one that is prepared. topics_known: set once `models`
        and `rollouts` were read to their ends."""
        self._book = book
        self._folder = folder
        self._registry = artifacts
        self._publisher = publisher
        self._cutter = cutter
        self._quarantines = held
        self._known = topics_say
        self._lines = configured
        self._start = start
        self._topics_known = topics_known
        self._said = ("", "")

    def run(self, stop: threading.Event, *, triggered: bool) -> None:
        """Works off the triggered runs, or the others, until told to stop."""
        # What was announced before a crash must be known before anything is announced again.
        while not self._topics_known.wait(_IDLE_S):
            if stop.is_set():
                return
        self._sweep()
        while not stop.is_set():
            run = self._book.next_open(triggered)
            if run is None:
                self._book.wait(_IDLE_S)
            else:
                self._work(run, stop)

    def _sweep(self) -> None:
        """Drops the weights of runs that had ended when a trainer was killed."""
        for path in sorted(self._folder.glob("*")):
            if self._book.is_ended(path.name):
                jobs.RunFolder(path).forget_weights()

    def _work(self, run: runs.Run, stop: threading.Event) -> None:
        _log.info("run starts", run=run.id, kind=run.spec.kind, line=run.spec.line, state=run.state)
        self._book.start(run.id)
        failpoints.reach("trainer.run.started")
        folder = jobs.RunFolder(self._folder / run.id)
        try:
            self._finish(run, folder, stop)
        except _Ended as ended:
            self._book.end(run.id, ended.state, problem=str(ended))
        except _REFUSED as problem:
            self._book.end(run.id, runs.RunState.FAILED, problem=str(problem))
        except _Stopped:
            _log.info("run interrupted", run=run.id)
            return
        failpoints.reach("trainer.run.ended")
        folder.forget_weights()
        ended_run = self._book.get(run.spec.tenant, run.id)
        metrics.TRAINER_RUNS.labels(run.spec.kind.value, ended_run.state.value).inc()
        _log.info("run ended", run=run.id, state=ended_run.state, problem=ended_run.problem)

    def _finish(self, run: runs.Run, folder: jobs.RunFolder, stop: threading.Event) -> None:
        """Everything up to the run's success."""
        if not run.spec.dataset_id:
            dataset_id = self._patiently(run, stop, self._cutting(run))
            run = dataclasses.replace(run, spec=dataclasses.replace(run.spec, dataset_id=dataset_id))
            self._book.set_spec(run.id, run.spec)
        self._check_reward(run)
        # what is offered has not ended, whatever lies there
        result = None if offers.waiting(folder.path) else folder.result()
        result = result or self._train(run, folder, stop)
        self._check_reward(run)
        failpoints.reach("trainer.run.before_publishing")
        model_ids = self._patiently(run, stop, lambda: self._publisher.publish_result(run, result))
        failpoints.reach("trainer.run.published")
        self._book.end(run.id, runs.RunState.SUCCEEDED, model_ids=model_ids, figures=result.figures)

    def _check_reward(self, run: runs.Run) -> None:
        """InvalidField when its reward model went into quarantine while it waited or trained."""
        field = requests.learned_from(run.spec.kind)
        self._quarantines.check_reward(run.spec.tenant, run.spec.line, getattr(run.spec, field), f"spec.{field}")

    def _cutting(self, run: runs.Run) -> Callable[[], str]:
        """What makes a data set of all the line's examples, for a run that was asked for without one, when it is called
        again until they are here. Those that come while it waits are not waited for."""
        tenant, line, wanted = run.spec.tenant, run.spec.line, sys.maxsize

        def cut() -> str:
            nonlocal wanted
            wanted = min(wanted, self._cutter.standing(tenant, line))  # fewer, when some were withdrawn meanwhile
            self._cutter.check_arrived(tenant, line, wanted)
            return self._cutter.cut(tenant, line, self._book.fix_cut(run.id), run.id)

        return cut

    def _train(self, run: runs.Run, folder: jobs.RunFolder, stop: threading.Event) -> publishing.Result:
        """The result of the run's job, started as often as it is killed while it gets on."""
        folder.prepare(run, self._judging(run), self._registry)
        deaths, saved = 0, folder.last_saved()
        while True:
            job = self._start(folder)
            try:
                exit_code = self._watch(run, folder, job, stop)
            finally:
                job.close()
            result = folder.result() if exit_code <= 0 else None
            if result is not None:
                return result
            if self._book.is_cancelled(run.id):
                raise _Ended(runs.RunState.CANCELLED, "It was cancelled.")
            deaths = 1 if folder.last_saved() > saved else deaths + 1
            saved = folder.last_saved()
            if exit_code == record.NOT_NOW_EXIT:
                deaths = 0
                self._pause(run, folder.problem(exit_code), _START_AGAIN_AFTER_S, stop)
                continue
            if exit_code >= 0 or deaths >= _DEATHS:
                raise _Ended(runs.RunState.FAILED, folder.problem(exit_code))
            _log.warning("the training process was killed; it goes on", run=run.id, signal=-exit_code, deaths=deaths)

    def _judging(self, run: runs.Run) -> record.Judging:
        line = self._lines[run.spec.line]
        anchor_id, _ = self._known.anchor_and_live(run.spec.tenant, run.spec.line)
        own = {
            name: record.OwnSet(sets.publish(self._registry, given.file, line).id, given.at_least)
            for name, given in line.evaluation.items()
        }
        return record.Judging(line.gates, anchor_id, own)

    def _watch(self, run: runs.Run, folder: jobs.RunFolder, job: jobs.Job, stop: threading.Event) -> int:
        """Relays the job's progress to the book until it ends; its exit code."""
        last, waited_for = folder.progress(), ""
        while True:
            exit_code = job.wait(_PROGRESS_EVERY_S)
            progress = folder.progress()
            if progress is not None and progress != last:
                self._book.progress(run.id, progress.step, progress.steps, progress.figures)
                last = progress
            if exit_code is not None:
                return exit_code
            if (waits_for := job.waits_for()) != waited_for:
                waited_for = waits_for
                self._book.waits(run.id, waits_for)
            if stop.is_set():
                job.leave(_END_GRACE_S)
                raise _Stopped
            if self._book.is_cancelled(run.id):
                job.end(_END_GRACE_S)
                raise _Ended(runs.RunState.CANCELLED, "It was cancelled.")

    def _patiently(self, run: runs.Run, stop: threading.Event, act: Callable[[], _Made]) -> _Made:
        """Waits for the ledger, the lease and the log as long as it takes: what was done so far is safe on disk."""
        while True:
            self._require_wanted(run, stop)
            try:
                return act()
            except publishing.NOT_NOW as problem:
                self._pause(run, str(problem), _RETRY_AFTER_S, stop)

    def _pause(self, run: runs.Run, reason: str, seconds: float, stop: threading.Event) -> None:
        """Says in the book why the run does not go on, and waits."""
        if (run.id, reason) != self._said:  # it looks twice a second, and may wait for hours
            self._said = (run.id, reason)
            _log.warning("run waits", run=run.id, reason=reason)
        self._book.waits(run.id, reason)
        stop.wait(seconds)
        self._require_wanted(run, stop)

    def _require_wanted(self, run: runs.Run, stop: threading.Event) -> None:
        if stop.is_set():
            raise _Stopped
        if self._book.is_cancelled(run.id):
            raise _Ended(runs.RunState.CANCELLED, "It was cancelled.")
