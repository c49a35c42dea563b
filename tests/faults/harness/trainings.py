"""Training runs beside everything else: asked for one after the other, each tried until it is there, and run again.

Real jobs on a policy of some ten thousand weights, which learn a reward model from whatever votes there are. A run is
asked for under one request id, however often; whether it comes to its end is the trainer's to see to.
"""

import asyncio
import contextlib
import dataclasses
import pathlib
import tempfile
import threading
import time

from tests.faults.harness import load, subjects, world
from tests.faults.storm import world as small

import trimtab_client
from trimtab import registry
from trimtab.core import errors, runs
from trimtab.trainer.data import datasets
from trimtab.trainer.runs import reproducing
from trimtab.wire import calls

_BETWEEN_S = 10.0
_ENDS_WITHIN_S = 600.0
_LOOK_S = 0.5
# What a job writes that goes on.
_STARTS = "goes on from a checkpoint"
_COMPARED = 3
_SETTINGS = '{"lr": 1e-3, "epochs": 1, "batch": 64}'
_ENDED = frozenset({runs.RunState.SUCCEEDED, runs.RunState.FAILED, runs.RunState.CANCELLED})


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """A run that has ended. disturbed: how often its job was started again. problem: of one that failed."""

    name: str
    run_id: str
    dataset_id: str
    state: str
    problem: str
    disturbed: int


class Trainings:
    """`go_on` is for a thread of its own; over: told that there are to be no more."""

    def __init__(self, of: world.World, over: threading.Event) -> None:
        self.done: list[Done] = []
        self._of, self._over = of, over
        self._under_way = ""
        texts = [f"question {number} answer {number}" for number in range(200)]
        self._base = small.publish_base(_registry(of), texts, of.seed, load.TENANT)

    def go_on(self) -> None:
        """One run after the other. `finish` sees the one to its end that is under way when it is over."""
        while not self._over.wait(_BETWEEN_S):
            self._under_way = f"run {len(self.done) + 1}"
            request = self._request(self._under_way)
            while not self._over.wait(_LOOK_S):
                if (run := self._asked(request)) is not None:
                    self._note(run)
                    break

    def finish(self) -> Done:
        """The run under way and one more of all votes, which it returns. Failed when one does not come to its end."""
        for name in filter(None, (self._under_way, "all votes")):
            request, give_up_at = self._request(name), time.monotonic() + _ENDS_WITHIN_S
            while (run := self._asked(request)) is None:
                if time.monotonic() > give_up_at:
                    raise subjects.Failed(f"Run {name!r} did not end: see {self._trainer.said}")
                time.sleep(_LOOK_S)
            self._note(run)
        return self.done[-1]

    def _request(self, name: str) -> runs.StartRunRequest:
        spec = runs.RunSpec(
            load.TENANT, load.LINE, runs.RunKind.REWARD, parent_id=self._base, settings_json=_SETTINGS, label=name
        )
        return runs.StartRunRequest(spec, "ada", name, "a soak")

    def _asked(self, request: runs.StartRunRequest) -> runs.Run | None:
        """The run, asked for once more, when it has ended."""
        with contextlib.suppress(errors.TrimtabError):  # the trainer is being started again, or hangs
            run = asyncio.run(_ask(self._trainer.address, self._of.secrets.internal_token, request))
            return run if run.state in _ENDED else None
        return None

    def _note(self, run: runs.Run) -> None:
        said = self._of.folder / "trainer" / "runs" / run.id / "job.log"
        starts = said.read_text(errors="replace").count(_STARTS) if said.exists() else 0
        self.done.append(Done(run.spec.label, run.id, run.spec.dataset_id, run.state.value, run.problem, starts))
        self._under_way = ""

    @property
    def _trainer(self) -> subjects.Subject:
        assert self._of.trainer is not None
        return self._of.trainer

    def most_disturbed(self, last: Done) -> list[Done]:
        """The last, and those that went on from a checkpoint most often."""
        others = sorted((one for one in self.done if one is not last), key=lambda one: one.disturbed, reverse=True)
        return [last, *others[: _COMPARED - 1]]


async def _ask(address: str, token: str, request: runs.StartRunRequest) -> runs.Run:
    """The same act however often it is asked for: the run as it is now."""
    async with trimtab_client.connect(address, token) as channel:
        return await calls.TrainerCalls(channel).start_run(request)


def again(of: world.World, run: Done) -> bool:
    """Whether it has the same weights when it is run once more, from what it has published."""
    store = _registry(of)
    with tempfile.TemporaryDirectory() as scratch:
        return reproducing.reproduce(store, reproducing.find(store, run.run_id), pathlib.Path(scratch)).equal


def members(of: world.World, run: Done) -> list[str]:
    """The examples of its data set by their ids, as often as they stand in it."""
    return [member.example_id for member in datasets.read_members(_registry(of).fetch(run.dataset_id))]


def _registry(of: world.World) -> registry.Registry:
    return registry.Registry(f"file://{of.folder / 'registry'}", of.folder / "cache")
