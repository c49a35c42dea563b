"""Inside the policy process: the engine's limits and end, and what happens to records when the log is away."""

import asyncio
import contextlib
import dataclasses
import pathlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests import timing
from tests.services.policy import harness
from tests.services.policy.harness import Installation, identity, request

from trimtab.bus import sqlite
from trimtab.bus.sqlite import file
from trimtab.core import completions, errors, models
from trimtab.policy import answering, artifact, engine, local, recorder, validation

Finish = completions.FinishReason


@pytest.fixture(scope="module")
def loaded(installation: Installation) -> local.Loaded:
    return artifact.load(installation.registry, installation.settings())


@dataclasses.dataclass
class Inside:
    """The parts of a policy process, without its server."""

    engine: local.LocalEngine
    answering: answering.Answering
    records: recorder.Recorder
    stop: threading.Event
    thread: threading.Thread

    async def end(self) -> None:
        """As the process does it: the engine ends, then what was under way is recorded."""
        self.stop.set()
        await asyncio.to_thread(self.thread.join, 10)
        await self.answering.close()
        await self.records.close(10)


@contextlib.asynccontextmanager
async def parts(
    loaded: local.Loaded,
    log_file: pathlib.Path,
    *,
    max_batch: int = 4,
    max_queue: int = 4,
    spool: int = 3,
    made_by: type[local.LocalEngine] = local.LocalEngine,
) -> AsyncIterator[Inside]:
    log = sqlite.SqliteLog(log_file, deadline_s=0.2)
    made = made_by(lambda: loaded, max_batch=max_batch, max_queue=max_queue, context=0)
    records = recorder.Recorder(log, wait_s=0.3, spool=spool)
    answers = answering.Answering(made, records, policy_id="p" * 64, line=harness.LINE)
    stop = threading.Event()
    with contextlib.closing(log):
        async with harness.thread_of(made, stop) as thread:
            inside = Inside(made, answers, records, stop, thread)
            yield inside
            await inside.end()


def recorded(installation: Installation, log_file: pathlib.Path) -> dict[str, completions.Completion]:
    return dataclasses.replace(installation, folder=log_file.parent).records()


async def until_started(inside: Inside, asked: completions.CompleteRequest) -> "asyncio.Task[object]":
    """A stream in the background that has shown its first text."""
    shown = asyncio.Event()

    async def follow() -> None:
        async for _ in inside.answering.stream(asked):
            shown.set()

    task: asyncio.Task[object] = asyncio.create_task(follow())
    await asyncio.wait_for(shown.wait(), timing.PATIENCE_S)
    return task


async def test_while_the_policy_is_loading_callers_are_told_to_retry() -> None:
    loading = local.LocalEngine(lambda: pytest.fail("not run"), max_batch=1, max_queue=1, context=0)
    with pytest.raises(errors.ServiceUnavailable, match="loaded"):
        loading.facts()


async def test_more_work_than_fits_is_refused_at_once_and_a_leaving_caller_makes_room(
    loaded: local.Loaded, tmp_path: pathlib.Path
) -> None:
    long = {"temperature": 0.0, "max_tokens": 4000}
    async with parts(loaded, tmp_path / "log.db", max_batch=2, max_queue=2) as inside:
        first = await until_started(inside, request(n=4, **long))
        with pytest.raises(errors.Overloaded, match="at most 4"):
            await asyncio.wait_for(inside.answering.complete(request()), timing.SLACK_S)
        first.cancel()
        await asyncio.wait({first})
        async with asyncio.timeout(timing.PATIENCE_S):
            while True:
                with contextlib.suppress(errors.Overloaded):
                    answer = await inside.answering.complete(request(temperature=0.0, max_tokens=3))
                    break
                await asyncio.sleep(0.01)
        assert len(answer.completion.responses[0].token_ids) == 3


async def test_when_the_engine_ends_what_was_under_way_is_answered_and_recorded_as_cancelled(
    loaded: local.Loaded, installation: Installation, tmp_path: pathlib.Path
) -> None:
    asked = request(n=2, temperature=0.0, max_tokens=4000)
    async with parts(loaded, tmp_path / "log.db", max_batch=1) as inside:
        stream = await until_started(inside, asked)
        await inside.end()
        await asyncio.wait_for(stream, timing.PATIENCE_S)
        with pytest.raises(errors.ServiceUnavailable):
            await inside.answering.complete(request())
    begun, waiting = recorded(installation, tmp_path / "log.db")[identity(asked)].responses
    assert (begun.finish_reason, waiting.finish_reason) == (Finish.CANCELLED, Finish.CANCELLED)
    assert 0 < len(begun.token_ids) < 4000
    assert waiting.token_ids == ()


async def fails_of_both(
    inside: Inside,
    asked: completions.CompleteRequest,
    streamed: completions.CompleteRequest,
    expected: tuple[type[Exception], str],
) -> None:
    """One asked for as a whole, one as a stream."""
    problem, said = expected
    with pytest.raises(problem, match=said):
        await inside.answering.complete(asked)
    with pytest.raises(problem, match=said):
        async for _ in inside.answering.stream(streamed):
            pass


class BreakingEngine(local.LocalEngine):
    """Fails in the middle of every answer."""

    def generate(self, *asked: Any, **how: Any) -> Any:
        whole = super().generate(*asked, **how)

        class Broken:
            cancel = whole.cancel

            async def __aiter__(self) -> AsyncIterator[engine.Piece]:
                async for piece in whole:
                    yield piece
                    raise RuntimeError("out of memory")

        return Broken()


async def test_an_answer_the_engine_failed_of_is_recorded_as_failed(
    loaded: local.Loaded, installation: Installation, tmp_path: pathlib.Path
) -> None:
    """Else nobody who judges the policy would see it."""
    asked, streamed = (request(temperature=0.0, max_tokens=30) for _ in range(2))
    async with parts(loaded, tmp_path / "log.db", made_by=BreakingEngine) as inside:
        await fails_of_both(inside, asked, streamed, (RuntimeError, "out of memory"))
    found = recorded(installation, tmp_path / "log.db")
    for one in (asked, streamed):
        assert found[identity(one)].responses == ()
        assert found[identity(one)].measured == completions.Measured(failed=True)
        assert found[identity(one)].exposure == one.assignment.exposure


class LeavingEngine(local.LocalEngine):
    """Is away, or has no room, before some answers begin or in their middle."""

    within = False
    problem: type[errors.TrimtabError] = errors.ServiceUnavailable

    def generate(self, *asked: Any, **how: Any) -> Any:
        whole, within, problem = super().generate(*asked, **how), self.within, self.problem

        class Left:
            cancel = whole.cancel

            async def __aiter__(self) -> AsyncIterator[engine.Piece]:
                async for piece in whole:
                    if within:
                        yield piece
                    raise problem("The engine is away; retry.")

        return Left()


@pytest.mark.parametrize("problem", [errors.ServiceUnavailable, errors.Overloaded])
@pytest.mark.parametrize("within", [False, True])
async def test_another_process_is_asked_only_while_nothing_of_an_answer_was_said(
    loaded: local.Loaded,
    installation: Installation,
    tmp_path: pathlib.Path,
    within: bool,
    problem: type[errors.TrimtabError],
) -> None:
    asked, streamed = (request(temperature=0.0, max_tokens=30) for _ in range(2))
    leaving = type("Leaving", (LeavingEngine,), {"within": within, "problem": problem})
    async with parts(loaded, tmp_path / "log.db", made_by=leaving) as inside:
        await fails_of_both(inside, asked, streamed, (engine.EngineFailed if within else problem, "is away"))
    found = recorded(installation, tmp_path / "log.db")
    assert set(found) == ({identity(asked), identity(streamed)} if within else set())
    assert all(one.measured.failed for one in found.values() if one.measured)


async def test_answers_are_given_while_the_log_is_away_and_their_records_arrive_later(
    loaded: local.Loaded, installation: Installation, tmp_path: pathlib.Path
) -> None:
    log_file = tmp_path / "log.db"
    asked = [request(temperature=0.0, max_tokens=3) for _ in range(3)]
    async with parts(loaded, log_file, spool=3) as inside:
        # an answer waits longer than the log's own deadline: each record is refused once at least
        with contextlib.closing(file.Turnstile(log_file)) as turnstile, turnstile.held():
            for one in asked:
                answer = await asyncio.wait_for(inside.answering.complete(one), timing.PATIENCE_S)
                assert answer.completion.id == identity(one)
            with pytest.raises(errors.LogUnavailable, match="3 completions wait"):
                await inside.answering.complete(request())
    assert set(recorded(installation, log_file)) == {identity(one) for one in asked}


async def test_a_stream_ends_after_the_record_or_the_wait_for_it(
    loaded: local.Loaded, installation: Installation, tmp_path: pathlib.Path
) -> None:
    asked = request(temperature=0.0, max_tokens=3)
    async with parts(loaded, tmp_path / "log.db") as inside:
        events = [event async for event in inside.answering.stream(asked)]
        assert [event.usage is not None for event in events] == [False] * (len(events) - 1) + [True]
        assert events[-1].finish_reason is Finish.LENGTH
        assert identity(asked) in recorded(installation, tmp_path / "log.db")


def test_a_policy_whose_bytes_were_changed_is_never_loaded(tmp_path: pathlib.Path) -> None:
    changed = harness.install(tmp_path)
    for path in (tmp_path / "registry").rglob("*"):
        if path.is_file() and path.stat().st_size > 50_000:
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(errors.ArtifactCorrupt):
        artifact.load(changed.registry, changed.settings())


def test_a_reward_model_is_not_served_as_a_policy(tmp_path: pathlib.Path) -> None:
    other = harness.install(tmp_path)
    reward = harness.publish(other, models.ModelKind.REWARD)
    with pytest.raises(errors.InvalidField, match="names a reward"):
        artifact.load(other.registry, other.settings(model_id=reward))


FACTS = engine.Facts("remote", 100, 4, completions.Sampling(temperature=0.7, max_tokens=50), "d", ("top_k", "stop"))


@pytest.mark.parametrize("unsupported", [{"top_k": 5}, {"stop": ("x",)}])
def test_a_parameter_the_engine_cannot_honour_is_refused_by_name(unsupported: dict[str, object]) -> None:
    asked = dataclasses.replace(request(), sampling=completions.Sampling(**unsupported))  # type: ignore[arg-type]
    with pytest.raises(errors.UnsupportedParameter) as refused:
        validation.check(asked, harness.LINE, FACTS)
    assert refused.value.field == next(iter(unsupported))


def test_absent_parameters_come_from_the_profile_and_tokens_fit_the_context() -> None:
    resolved = validation.resolve(completions.Sampling(top_p=0.5), 70, FACTS)
    assert (resolved.temperature, resolved.top_p, resolved.max_tokens) == (0.7, 0.5, 30)
    assert resolved.seed != validation.resolve(completions.Sampling(), 70, FACTS).seed
    assert validation.resolve(completions.Sampling(seed=0, temperature=0.0), 99, FACTS).seed == 0
    with pytest.raises(errors.PromptTooLong):
        validation.resolve(completions.Sampling(), 100, FACTS)
