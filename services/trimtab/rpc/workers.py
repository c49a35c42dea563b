"""The threads and tasks of a process: started together, told to stop together, and none dies unseen.

Used by `rpc.process` only. A worker that raises ends the process: half a process that still looks healthy is worse.
A consumer that halts (`bus.deadletter`) ends no process: started again it would meet the same records, again and again.
Its thread waits for an operator's word; what the process answers meanwhile is its own to say (`ledger.app`).
"""

import asyncio
import contextlib
import dataclasses
import functools
import threading
from collections.abc import Awaitable, Callable

from trimtab.bus import deadletter, threads
from trimtab.obs import logging

_log = logging.get("trimtab.workers")


@dataclasses.dataclass(slots=True)
class _Task:
    name: str
    run: Callable[[asyncio.Event], Awaitable[None]]
    intake: bool
    running: "asyncio.Future[None] | None" = None


class Workers:
    """`failed` is true once any worker raised or would not stop."""

    def __init__(self) -> None:
        self.failed = False
        self._threads: list[tuple[str, Callable[[threading.Event], None]]] = []
        self._tasks: list[_Task] = []
        self._running: list[threading.Thread] = []
        self._stop_threads = threading.Event()
        self._stop_tasks = asyncio.Event()
        self._stop_intake = asyncio.Event()
        self._failure = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_lock = threading.Lock()
        # What failed before the event loop was there.
        self._early: list[tuple[str, BaseException]] = []

    def add_thread(self, name: str, run: Callable[[threading.Event], None]) -> None:
        self._threads.append((name, run))

    def add_task(self, name: str, run: Callable[[asyncio.Event], Awaitable[None]], *, intake: bool) -> None:
        self._tasks.append(_Task(name, run, intake))

    def start(self) -> None:
        """Call inside the event loop."""
        with self._loop_lock:
            self._loop = asyncio.get_running_loop()
        for name, problem in self._early:
            self._fail(name, "worker failed", problem)
        for task in self._tasks:
            task.running = asyncio.ensure_future(task.run(self._stop_intake if task.intake else self._stop_tasks))
            task.running.add_done_callback(functools.partial(self._task_ended, name=task.name))
        for name, run in self._threads:
            thread = threading.Thread(target=self._run_thread, args=(name, run), name=name, daemon=True)
            thread.start()
            self._running.append(thread)

    def fail(self, name: str, problem: BaseException) -> None:
        """From any thread: what was told here has failed, and ends the process as a worker that raised does."""
        with self._loop_lock:
            if self._loop is None:
                self._early.append((name, problem))
                return
        with contextlib.suppress(RuntimeError):  # the loop has closed: the process is ending anyway
            self._loop.call_soon_threadsafe(self._fail, name, "worker failed", problem)

    async def stopped_or_failed(self, stop: asyncio.Event) -> None:
        """Returns when `stop` is set or a worker has failed."""
        waits = [asyncio.create_task(event.wait()) for event in (stop, self._failure)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def stop_intake(self, seconds: float) -> None:
        """Ends the tasks that bring in work from outside."""
        self._stop_intake.set()
        await self._end_tasks([task for task in self._tasks if task.intake], seconds)

    async def stop(self, seconds: float) -> None:
        """Ends all other workers, each within `seconds`."""
        self._stop_tasks.set()
        self._stop_threads.set()
        await self._end_tasks([task for task in self._tasks if not task.intake], seconds)
        for thread in self._running:
            await asyncio.to_thread(thread.join, seconds)
            if thread.is_alive():
                self._fail(thread.name, "worker did not stop", None)

    async def _end_tasks(self, tasks: list[_Task], seconds: float) -> None:
        running = {task.running: task.name for task in tasks if task.running is not None}
        if not running:
            return
        _, late = await asyncio.wait(running, timeout=seconds)
        for future in late:
            self._fail(running[future], "worker did not stop", None)
            future.cancel()

    def _task_ended(self, future: "asyncio.Future[None]", name: str) -> None:
        if not future.cancelled() and (problem := future.exception()) is not None:
            self._fail(name, "worker failed", problem)

    def _run_thread(self, name: str, run: Callable[[threading.Event], None]) -> None:
        with threads.Kept() as kept:
            while self._may_go_on(run):
                pass
        if kept.problem is not None:
            self.fail(name, kept.problem)

    def _may_go_on(self, run: Callable[[threading.Event], None]) -> bool:
        """Runs it to its end; True when its consumer halted and may go on by now, so that it is to be run again."""
        try:
            run(self._stop_threads)
            return False
        except deadletter.TooManyDeadLetters as problem:
            consumer = problem.halted.consumer
            _log.error("a consumer halts", consumer=consumer, reason=str(problem))
            goes_on = problem.wait(self._stop_threads)
            _log.info("a consumer goes on" if goes_on else "a halted consumer ends", consumer=consumer)
            return goes_on

    def _fail(self, name: str, what: str, problem: BaseException | None) -> None:
        _log.error(what, worker=name, exc_info=problem)
        self.failed = True
        self._failure.set()
