"""Everything that can happen to a platform, mixed by a seed: what `soak` lets happen to one for half an hour.

Each thing happens once before any happens twice. The first replica is never killed, and in the second half of the time
neither the ledger nor the trainer is: what a process has come to after a quarter of an hour is seen then.
"""

import collections
import contextlib
import random
import threading
import time
from collections.abc import Callable

import psutil
from tests.faults.harness import checker, subjects, world

_PAUSES_S = (3.0, 9.0)
_AWAY_S = (1.0, 6.0)
_DEAD_S = (0.2, 1.0)
_WEATHER_S = (5.0, 15.0)
_LATENCY_S, _RESETS = 0.2, 0.05
_HOUR_S = 3600.0
# Of one training run: a job that dies five times without a checkpoint has failed, and says so.
_JOB_DIES = 2


class Weather:
    """`act` and `turn_link` are for threads of their own, and return when it is over."""

    def __init__(self, of: world.World, broker: subjects.Broker, over: threading.Event, seconds: float) -> None:
        self.happened: collections.Counter[str] = collections.Counter()
        self.killed_at: list[float] = []
        self._of, self._broker, self._over = of, broker, over
        self._half_time = time.monotonic() + seconds / 2
        self._job_deaths: collections.Counter[int] = collections.Counter()
        assert of.trainer is not None
        self._trainer = of.trainer
        self._acts: dict[str, Callable[[], bool]] = {
            "replica killed": lambda: self._kill(of.rng.choice(of.replicas[1:])),
            "ledger killed": lambda: self._is_early() and self._kill(of.ledger),
            "trainer killed": lambda: self._is_early() and self._kill(self._trainer),
            "training job killed": self._kill_job,
            "broker killed": self._kill_broker,
            "replica paused": lambda: self._pause(of.rng.choice(of.replicas)),
            "ledger paused": lambda: self._pause(of.ledger),
            "trainer paused": lambda: self._pause(self._trainer),
            "broker paused": self._pause_broker,
            "link cut": self._cut_link,
            "clock set": self._set_clock,
        }

    @property
    def kills(self) -> int:
        return sum(count for what, count in self.happened.items() if what.endswith("killed"))

    def act(self) -> None:
        """One thing after the other."""
        coming: list[str] = []
        while not self._over.wait(self._of.rng.uniform(*_PAUSES_S)):
            if not coming:
                coming = self._of.rng.sample([*self._acts], len(self._acts))
            what = coming.pop()
            self._of.history.begin(what)
            if self._acts[what]():
                self.happened[what] += 1
            self._of.history.end(what)

    def turn_link(self) -> None:
        """Good and bad times of the link to the broker, beside everything else."""
        rng, link = random.Random(self._of.rng.getrandbits(64)), self._of.link
        try:
            while not self._over.wait(rng.uniform(*_WEATHER_S)):
                link.latency_s, link.resets = _LATENCY_S, _RESETS
                self.happened["link bad"] += 1
                self._over.wait(rng.uniform(*_WEATHER_S))
                link.latency_s = link.resets = 0.0
        finally:
            link.latency_s = link.resets = 0.0

    def _is_early(self) -> bool:
        return time.monotonic() < self._half_time

    def _kill(self, subject: subjects.Subject) -> bool:
        subject.kill()
        time.sleep(self._of.rng.uniform(*_DEAD_S))
        subject.start()
        subject.await_serving()
        return True

    def _kill_job(self) -> bool:
        """The process that trains, where there is one."""
        with contextlib.suppress(psutil.NoSuchProcess):  # it ends at this moment by itself
            for job in psutil.Process(self._trainer.pid).children():
                run = hash(tuple(job.cmdline()))
                if self._job_deaths[run] < _JOB_DIES:
                    self._job_deaths[run] += 1
                    job.kill()
                    return True
        return False

    def _kill_broker(self) -> bool:
        self._broker.kill()
        with self._of.history.lasting(checker.AWAY):
            time.sleep(self._of.rng.uniform(*_DEAD_S))
        self._broker.start()
        return True

    def _pause(self, subject: subjects.Subject) -> bool:
        subject.pause()
        time.sleep(self._of.rng.uniform(*_AWAY_S))
        subject.resume()
        return True

    def _pause_broker(self) -> bool:
        self._broker.node.pause()
        with self._of.history.lasting(checker.AWAY):
            time.sleep(self._of.rng.uniform(*_AWAY_S))
        self._broker.node.resume()
        return True

    def _cut_link(self) -> bool:
        self._of.link.cut()
        with self._of.history.lasting(checker.AWAY):
            time.sleep(self._of.rng.uniform(*_AWAY_S))
        self._of.link.mend()
        return True

    def _set_clock(self) -> bool:
        self._of.rng.choice(self._of.everyone).set_clock(self._of.rng.choice((_HOUR_S, -_HOUR_S, 0.0)))
        return True
