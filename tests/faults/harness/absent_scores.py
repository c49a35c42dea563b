"""Row 18: the reward service gives NaN, is killed, and stands still: during a run that it scores, and during a release.

The run is RLOO with real gradients; it waits while nobody scores, and leaves out and counts what has no score. The
release is of a policy that users like better: its guardrail on the reward stays unknown, so it is not promoted.
"""

import asyncio
import json
import pathlib
from typing import Any

from tests.faults import killing, test_scores_killed
from tests.faults.harness import checks, installation, job, process, subjects, world
from tests.services.rollout import conftest as rollout_making
from tests.services.rollout import test_releases_end_to_end as releasing

from trimtab.bus import topics
from trimtab.core import models, releases, runs, scoring, text
from trimtab.trainer.methods import elsewhere
from trimtab.wire import calls, schemas

_State = releases.ReleaseState
_ITERATIONS, _NAN_UNTIL = 60, 3
_SETTINGS = {"iterations": _ITERATIONS, "prompts": 3, "samples": 2, "max_tokens": 8, "lr": 1e-3}


def absent(of: installation.Installation, seen: checks.Seen) -> None:
    """18: NaN, kill -9, SIGSTOP; first while a run learns, then while a release is judged."""
    _during_a_run(of, seen)
    # in the smallest size that is left to tests/services/rollout/test_rewards_guard_a_release.py
    if not of.mutant and of.size.votes > world.SMALLEST.votes:
        asyncio.run(_during_a_release(of, seen))


def _during_a_run(of: installation.Installation, seen: checks.Seen) -> None:
    killing.run(test_scores_killed.make_inputs, of.folder)
    parent, dataset = of.publish("policy", models.ModelKind.POLICY), of.publish("dataset", models.ModelKind.DATASET)
    judge = of.publish("reward", models.ModelKind.REWARD, announce=True)
    nan = of.folder / "nan.on"
    reward = of.subject("reward", environment={process.NAN: str(nan)})
    ledger = of.subject("ledger", database=f"sqlite:///{of.folder / 'ledger.db'}")
    steering = job.Steering(of.folder / "jobs")
    trainer = of.subject(
        "trainer",
        environment=steering.environment,
        state=of.folder / "trainer",
        ledger_address=ledger.address,
        python=steering.interpreter(),
    )
    for subject in (reward, ledger, trainer):
        subject.start()
    for subject in (reward, ledger, trainer):
        subject.await_serving()
    _warm(of, reward, judge)
    nan.write_text("2")
    run_id = of.start_run(
        trainer,
        runs.RunKind.RLOO,
        "request-1",
        parent_id=parent,
        reference_id=parent,
        reward_id=judge,
        dataset_id=dataset,
        seed=of.seed,
        settings_json=json.dumps({**_SETTINGS, "scorer": reward.address}),
    )
    _until_step(of, trainer, run_id, _NAN_UNTIL)
    nan.unlink()
    step = _until_step(of, trainer, run_id, of.run(trainer, run_id).step + 2)
    pauses = 0
    for away, back in ((reward.kill, reward.start), (reward.pause, reward.resume)):
        away()
        waits = of.await_run(trainer, run_id, lambda run: bool(run.problem))
        pauses += waits.state is runs.RunState.RUNNING and reward.address in waits.problem
        back()
        _warm(of, reward, judge)
        step = _until_step(of, trainer, run_id, step + 2)
    _look(of, seen, of.await_run(trainer, run_id), nan.with_suffix(".given"))
    seen.require(pauses == 2, "The run did not wait for the reward service.")
    seen.notes.append("the run waited twice, once killed and once stopped")


def _warm(of: installation.Installation, reward: subjects.Subject, model_id: str) -> None:
    """Returns when the service has its model in memory."""
    item = scoring.ScoreItem((text.Message(text.Role.USER, text.Text("which one")),), text.Text("it is red"))
    wanted = scoring.ScoreRequest(model_id, (item,))
    of.ask(reward, calls.RewardCalls, lambda to: to.score(wanted, timeout_s=installation.WITHIN_S))


def _until_step(of: installation.Installation, trainer: subjects.Subject, run_id: str, step: int) -> int:
    if of.mutant and of.run(trainer, run_id).state is runs.RunState.SUCCEEDED:
        return step
    return of.await_run(trainer, run_id, lambda run: run.step >= step).step


def _look(of: installation.Installation, seen: checks.Seen, run: runs.Run, given: pathlib.Path) -> None:
    """The journal, the run's own count, and the weights."""
    scores: list[Any] = []
    for path in (of.run_folder(run.id) / elsewhere.SCORES).glob("*.json"):
        scores += [one["outcome"] for one in json.loads(path.read_text())["scores"]]
    numbers = [one for one in scores if not isinstance(one, str)]
    nan = len(given.read_text().splitlines())
    unscored = len(scores) - len(numbers)
    counted = next(int(figure.value) for figure in run.figures if figure.name == "unscored")
    seen.check("invented", "answers scored NaN that count as scored", nan, ["one"] * max(0, nan - unscored))
    seen.check("uncounted", "unscored answers not counted", unscored, ["one"] * abs(unscored - counted))
    folder = of.registry.fetch(run.model_ids[0])
    killing.run(_require_finite, folder, of.folder / "weights.json")
    told = json.loads((of.folder / "weights.json").read_text())
    seen.check("nan", "weights that are no numbers", told["weights"], ["one"] * told["not_finite"])
    seen.require(nan > 0, "No NaN was given.")
    seen.require(told["moved"] > 0, "No weight moved.")


def _require_finite(folder: pathlib.Path, tell: pathlib.Path) -> None:
    """In a process of its own: counts the weights, those that are no numbers and those that training moved."""
    from safetensors import torch as tensor_files

    ours = tensor_files.load_file(folder / "model.safetensors")
    before = tensor_files.load_file(tell.parent / "policy" / "model.safetensors")
    tell.write_text(
        json.dumps(
            {
                "weights": sum(one.numel() for one in ours.values()),
                "not_finite": sum(int((~one.isfinite()).sum()) for one in ours.values()),
                "moved": sum(int((one != before[name]).sum()) for name, one in ours.items()),
            }
        )
    )


async def _during_a_release(of: installation.Installation, seen: checks.Seen) -> None:
    """What the guardrail says while the service stands still, is killed, and gives no number."""
    folder = of.folder / "release"
    folder.mkdir()
    nan, judge = folder / "nan.on", of.folder / "reward"
    with rollout_making.supervising(folder) as made:
        made.lines_file.write_text(made.lines_file.read_text().replace("sessions = 300", "sessions = 3000"))
        told = subjects.settings_of(folder, made.log_url)
        reward = subjects.Subject("reward", "reward", folder, told, environment={process.NAN: str(nan)})
        of.subjects.append(reward)
        made.reward_address = reward.address
        reward.start()
        await asyncio.to_thread(reward.await_serving)
        async with rollout_making.with_ledger(made) as platform, platform.rollout() as rollout:
            old = await releasing.adopted(platform, rollout)
            platform.publish_model("reward", kind=models.ModelKind.REWARD, weights=judge, method="reward")
            reward.pause()
            new = platform.publish_model("new")
            approval = {old: 0.3, new: 0.9}
            release = await platform.reach(new, _State.SAFETY, seconds=installation.WITHIN_S)
            platform.visit(release, approval, 60)
            await platform.reach(new, _State.EVIDENCE, seconds=installation.WITHIN_S)
            said = {"stopped": await _judged(platform, approval)}
            reward.kill()
            said["killed"] = await _judged(platform, approval)
            nan.write_text("1")
            reward.start()
            given = nan.with_suffix(".given")
            await platform.until(lambda: given.exists() and _scores(platform), installation.WITHIN_S)
            said["NaN"] = await _judged(platform, approval)
            scored = [str(one.outcome) for one in _scores(platform) if not isinstance(one.outcome, str)]
            seen.check("guessed", "answers of the release with a score", len(_scores(platform)), scored)
    bad = [f"{name}: {one.standing}" for name, one in said.items() if one.standing is not releases.Standing.UNKNOWN]
    seen.check("fine", "times the guardrail was not unknown", len(said), bad)


async def _judged(platform: Any, approval: dict[str, float]) -> releases.Guardrail:
    """What the guardrail on the reward says of a better policy, once votes that come now are in the verdict.

    AssertionError when the release ends all the same.
    """
    before = platform.head()
    known = before.evidence.judged_at if before.evidence else None
    platform.visit(before, approval, 130)

    def waits() -> bool:
        head = platform.head()
        assert head.state is _State.EVIDENCE, f"the release is {head.state}: {head.history[-1].reason}"
        found = head.evidence
        return found is not None and found.judged_at != known and "not known yet to keep within reward" in found.reason

    await platform.until(waits, installation.WITHIN_S)
    return next(one for one in platform.head().evidence.guardrails if one.name == "reward")


def _scores(platform: Any) -> list[scoring.AnswerScore]:
    return [schemas.decode(one.value, one.headers, scoring.AnswerScore) for one in platform.read(topics.SCORES)]
