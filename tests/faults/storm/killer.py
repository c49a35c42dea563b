"""Kills processes at random moments, everything at least once, in an order that the seed decides."""

import collections
import pathlib
import random
import threading
from collections.abc import Callable

from tests.faults.storm import host as hosts

# What there is to kill beside training jobs; each once before any twice.
SERVICES = ("gateway", "policy", "feedback", "ledger", "trainer", "reward", "rollout")
# So many die before the rest of the storm begins.
_EARLY = 3
# Share of a job's deaths that come when it has something to go on from.
_AFTER_SAVING = 0.7


class Killer:
    """`kills`: how many services; `jobs`: how often each training run. Every death goes into `deaths`."""

    def __init__(
        self, host: hosts.Host, *, seed: int, kills: int, jobs: int, pause_s: tuple[float, float], supervisor: bool
    ) -> None:
        self.deaths: collections.Counter[str] = collections.Counter()
        self.problem: Exception | None = None
        self._host = host
        self._rng = random.Random(f"killer {seed}")
        self._pause_s = pause_s
        self._jobs = jobs
        names = [*SERVICES, hosts.SUPERVISOR] if supervisor else list(SERVICES)
        order: list[str] = []
        while len(order) < kills - _EARLY:
            order += self._rng.sample(names, len(names))
        early = self._rng.sample([name for name in names if name != "policy"], _EARLY)
        self._order = early + order[: kills - _EARLY]
        self._stop = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._threads = [
            threading.Thread(target=self._guarded, args=(act,)) for act in (self._services, self._trainings)
        ]

    def start(self, begun: Callable[[], bool]) -> None:
        """begun: whether the time of the others has come, after the first few."""
        self._begun = begun
        for thread in self._threads:
            thread.start()

    @property
    def done(self) -> bool:
        """Whether every service that was to be killed has been."""
        return self.problem is not None or not self._threads[0].is_alive()

    def end(self) -> None:
        """No more kills; raises what went wrong with one."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self.problem is not None:
            raise self.problem

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as problem:  # noqa: BLE001  the story must hear of it, whatever it is
            self.problem = problem

    def _services(self) -> None:
        for number, name in enumerate(self._order):
            while number >= _EARLY and not self._begun():
                if self._stop.wait(0.2):
                    return
            if self._stop.wait(self._rng.uniform(*self._pause_s)):
                return
            while not self._kill(name):
                if self._stop.wait(0.2):
                    return

    def _trainings(self) -> None:
        """Each training run so often: soon after it has saved something, or at a random moment of its life."""
        left: dict[str, int] = {}
        rng = random.Random(self._rng.getrandbits(64))
        while not self._stop.wait(0.2):
            seen = self._host.job()
            if seen is None or not left.setdefault(seen[0], self._jobs):
                continue
            self._wait_for(seen, rng.uniform(1.0, 12.0), after_saving=rng.random() < _AFTER_SAVING)
            with self._one_at_a_time:
                if self._host.job() == seen:
                    self._host.kill(hosts.JOB, seen[1])
                    self.deaths[hosts.JOB] += 1
                    left[seen[0]] -= 1

    def _wait_for(self, seen: tuple[str, int], seconds: float, *, after_saving: bool) -> None:
        if not after_saving:
            self._stop.wait(seconds)
            return
        saved = self._host.last_saved(seen[0])
        while self._host.job() == seen and self._host.last_saved(seen[0]) == saved and not self._stop.wait(0.1):
            pass

    def _kill(self, name: str) -> bool:
        with self._one_at_a_time:
            pid = self._host.victims().get(name)
            if pid is None:
                return False
            self._host.kill(name, pid)
        self.deaths[name] += 1
        return True


def resumed(runs: pathlib.Path) -> int:
    """How often a job has gone on from a checkpoint."""
    return sum(log.read_text(errors="replace").count("goes on from a checkpoint") for log in runs.glob("*/job.log"))
