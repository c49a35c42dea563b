"""Answers may come from a policy process: late, in another number format, or not at all. Training corrects for it."""

import dataclasses
import functools
import pathlib
import shutil
import statistics
from collections.abc import Iterator

import pytest
import torch
from tests.integration.training.on_policy.bench import METHODS, Bench
from tests.services.policy import harness

from trimtab.core import errors, models, text
from trimtab.modeling import loading
from trimtab.rpc import secrets
from trimtab.trainer import recipes
from trimtab.trainer.links import snapshots
from trimtab.trainer.methods import elsewhere, remote_rollouts, rollouts
from trimtab.trainer.steps import losses

torch.set_num_threads(1)
SETTINGS: recipes.OnPolicySettings = dataclasses.replace(METHODS["rloo"], iterations=4)


@pytest.fixture(scope="module")
def process(trained: dict[str, pathlib.Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Running]:
    """A process that serves the policy that training starts from."""
    folder = tmp_path_factory.mktemp("installation")
    shutil.copytree(trained["policy"], folder / "weights")
    secrets.create(folder / "secrets.toml", harness.TENANT)
    (folder / "lines.toml").write_text(f'[lines.{harness.LINE}]\ntenant = "{harness.TENANT}"\n')
    installation = harness.Installation(folder, "")
    installation.model_id = harness.publish(installation, models.ModelKind.POLICY)
    with harness.started(installation) as running:
        yield running


def sampler(process: harness.Running, folder: pathlib.Path, max_staleness: int = 4) -> remote_rollouts.PolicyService:
    return remote_rollouts.PolicyService(
        door=elsewhere.Door("sampler", process.address, process.installation.token),
        folder=folder,
        context=text.Context(harness.TENANT, harness.LINE),
        parent_id=process.installation.model_id,
        max_staleness=max_staleness,
    )


def drawn(remote: rollouts.Sampler, bench: Bench, iteration: int = 0) -> list[rollouts.Drawn]:
    return remote.draw(bench.prompts(), 3, 16, iteration=iteration, seed=9)


def test_its_answers_carry_tokens_log_probs_and_their_age(process: harness.Running, bench: Bench) -> None:
    answers = drawn(sampler(process, bench.folder), bench, iteration=2)
    assert len(answers) == 3 * len(bench.prompts()) and not any(one.refused for one in answers)
    assert all(one.staleness == 2 and len(one.token_ids) == len(one.logprobs) for one in answers)
    batch = rollouts.scored(answers, bench.prompts(), 3, bench.reward)
    steps, figures = bench.learner(SETTINGS).judge(batch.kept)
    # the weights are the same ones: the trainer finds the probabilities that the process told, up to rounding
    for rollout, step in zip(batch.kept, steps, strict=True):
        torch.testing.assert_close(step.old_logprobs, torch.tensor(rollout.logprobs), rtol=0, atol=1e-4)
    assert figures["effective_sample_share"] == pytest.approx(1.0, abs=1e-4)
    assert batch.figures()["staleness"] == 2.0


def test_the_texts_are_not_kept_in_the_process_s_own_records(process: harness.Running, bench: Bench) -> None:
    drawn(sampler(process, bench.folder), bench)
    kept = [one for name, one in process.installation.records().items() if name.startswith("rollout-")]
    assert kept and all(one.prompt == () and one.responses[0].text.read() == "" for one in kept)
    assert all(one.exposure is not None and not one.exposure.randomised for one in kept)


def test_a_policy_learns_from_the_answers_of_what_it_was(process: harness.Running, bench: Bench) -> None:
    before = statistics.fmean(one.score for one in bench.rollouts().kept)
    bench.train(SETTINGS, sampler=sampler(process, bench.folder))
    assert statistics.fmean(one.score for one in bench.rollouts().kept) > before + 0.3
    steps = bench.steps()
    assert [step["staleness"] for step in steps] == [0, 1, 2, 3]
    # the policy moves away from what it learns from
    assert steps[0]["effective_sample_share"] > 0.999 > steps[-1]["effective_sample_share"]


def test_tokens_are_weighted_by_the_capped_ratio_of_policy_and_sampler(process: harness.Running, bench: Bench) -> None:
    batch = rollouts.scored(drawn(sampler(process, bench.folder), bench), bench.prompts(), 3, bench.reward)
    with torch.no_grad():
        for weight in bench.policy.model.parameters():
            weight.mul_(1.3)
    free, _ = bench.learner(dataclasses.replace(SETTINGS, importance_cap=1e6)).judge(batch.kept)
    # half of the tokens are above it
    cap = torch.cat([step.weights for step in free if step.weights is not None]).median().item()
    settings = dataclasses.replace(SETTINGS, importance_cap=cap)
    steps, figures = bench.learner(settings).judge(batch.kept)
    weights = []
    for rollout, step in zip(batch.kept, steps, strict=True):
        assert step.weights is not None
        expected = (step.old_logprobs - torch.tensor(rollout.logprobs)).exp().clamp(max=cap)
        torch.testing.assert_close(step.weights, expected, rtol=1e-5, atol=1e-6)
        weights.append(expected)
    assert torch.cat(weights).max().item() == pytest.approx(cap)
    assert figures["effective_sample_share"] == pytest.approx(losses.effective_share(torch.cat(weights)), rel=1e-4)
    # ratio 1 in the first step: the loss of a token is -weight x advantage
    learned = bench.learner(dataclasses.replace(settings, minibatches=1)).learn(steps, seed=0)
    told = [-(step.weights * step.advantages) for step in steps if step.weights is not None]
    assert learned["policy_loss"] == pytest.approx(torch.cat(told).mean().item(), abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"max_staleness": 1}, "drawn by weights more than 1 iterations old"),
        ({"parent_id": "another"}, "drawn by a policy that is none of this run's"),
        ({"timeout_s": 1e-4}, "answered none of"),
    ],
)
def test_answers_that_are_too_old_of_others_or_missing_are_refused(
    changes: dict[str, object], reason: str, process: harness.Running, bench: Bench
) -> None:
    remote = dataclasses.replace(sampler(process, bench.folder), **changes)  # type: ignore[arg-type]
    if reason.startswith("answered"):
        with pytest.raises(errors.ServiceUnavailable, match=reason):
            drawn(remote, bench, iteration=2)
        return
    found = rollouts.scored(drawn(remote, bench, iteration=2), bench.prompts(), 3, bench.reward)
    assert found.kept == () and found.dropped == {reason: 3 * len(bench.prompts())}


def test_a_process_that_nobody_replaces_is_drawn_from_while_its_weights_are_not_too_old(
    process: harness.Running, bench: Bench
) -> None:
    save = functools.partial(loading.save_policy, bench.policy.model, bench.policy.tokenizer, bench.policy.profile)
    refresh = remote_rollouts.Refresh(2, snapshots.Snapshots(bench.folder), save)
    door = elsewhere.Door("sampler", process.address, process.installation.token, ready_s=1.0)
    remote = dataclasses.replace(sampler(process, bench.folder, max_staleness=2), refresh=refresh, door=door)
    assert {one.staleness for one in drawn(remote, bench, iteration=2)} == {2}
    late = drawn(remote, bench, iteration=4)
    assert {one.refused for one in late} == {"drawn by weights more than 2 iterations old"}
    assert [one.iteration for one in refresh.snapshots.all()] == [2, 4]
    # no answer of weights this old could be used any more
    drawn(remote, bench, iteration=6)
    assert [(bench.folder / f"snapshots/{number}/blobs").exists() for number in (2, 4, 6)] == [False, True, True]


def test_an_iteration_of_refused_answers_ends_the_run_with_the_reason(process: harness.Running, bench: Bench) -> None:
    remote = sampler(process, bench.folder, max_staleness=1)
    with pytest.raises(errors.WrongState, match="iteration 3 none can be used: 36 drawn by weights more than 1 iter"):
        bench.train(SETTINGS, sampler=remote)


def test_what_is_in_the_journal_is_asked_of_nobody(
    process: harness.Running, bench: Bench, trained: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    """A run is a function of its record and its journal: with both, it needs no process."""
    bench.train(SETTINGS, sampler=sampler(process, bench.folder))
    again = Bench(trained, tmp_path / "again")
    shutil.copytree(bench.folder / elsewhere.ROLLOUTS, again.folder / elsewhere.ROLLOUTS)
    door = elsewhere.Door("sampler", "127.0.0.1:1", process.installation.token, ready_s=0.1)
    nobody = dataclasses.replace(sampler(process, again.folder), door=door)
    again.train(SETTINGS, sampler=nobody)
    for one, same in zip(bench.policy.model.parameters(), again.policy.model.parameters(), strict=True):
        assert torch.equal(one, same)
    with pytest.raises(errors.ServiceUnavailable, match=r"No process at 127.0.0.1:1 was ready within 0.1 s"):
        drawn(nobody, again, iteration=4)


def test_a_journal_that_cannot_be_read_is_a_sentence(process: harness.Running, bench: Bench) -> None:
    remote = sampler(process, bench.folder)
    drawn(remote, bench)
    (bench.folder / elsewhere.ROLLOUTS / "1.json").write_text("[{")
    with pytest.raises(errors.ArtifactCorrupt, match="no record of what a run was told"):
        drawn(remote, bench)
