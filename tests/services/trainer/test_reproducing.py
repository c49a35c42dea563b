"""A published run is run again from what the registry holds, and its weights are compared byte by byte."""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Iterator

import pytest
import typer.testing
from tests.integration.training import making
from tests.services.policy import harness
from tests.services.reward import conftest as rewards_of
from tests.services.trainer.conftest import LINE, TENANT, Installation
from tests.services.trainer.test_runs import ended, sft

from trimtab import registry
from trimtab.cli.commands import root
from trimtab.core import errors, models, runs
from trimtab.trainer import record
from trimtab.trainer.data import datasets
from trimtab.trainer.runs import reproducing

# Thresholds that nothing fails, so that each run's models serve the next.
SETTINGS = {
    runs.RunKind.SFT: {"epochs": 1, "batch": 8},
    runs.RunKind.REWARD: {"epochs": 1, "batch": 16},
    runs.RunKind.PPO: {"iterations": 2, "prompts": 3, "samples": 2, "max_tokens": 8, "evaluation_prompts": 4},
}


async def trained(installation: Installation, tmp_path: pathlib.Path) -> list[runs.Run]:
    """An SFT, a reward and a PPO run by a trainer, each published; then only the registry is left."""
    datasets.write(tmp_path / "votes", making.feedback(pairs=48, thumbs=48).examples, [])
    draft = registry.ManifestDraft(kind=models.ModelKind.DATASET, tenant=TENANT, line=LINE)
    votes = installation.registry.publish(tmp_path / "votes", draft).id
    done: list[runs.Run] = []
    async with installation.trainer() as trainer:

        async def run(kind: runs.RunKind, **inputs: str) -> tuple[models.PublishedModel, ...]:
            spec = dataclasses.replace(sft(installation, json.dumps(SETTINGS[kind])), kind=kind, **inputs)
            asked = await trainer.start_run(runs.StartRunRequest(spec, "ada"))
            answer = await ended(trainer, asked.id)
            assert answer.run.state is runs.RunState.SUCCEEDED, answer.run.problem
            done.append(answer.run)
            return answer.models

        (policy,) = await run(runs.RunKind.SFT)
        reward, judge = await run(runs.RunKind.REWARD, parent_id=policy.id, dataset_id=votes)
        inputs = {"reward_id": reward.id, "evaluation_reward_id": judge.id, "dataset_id": votes}
        await run(runs.RunKind.PPO, parent_id=policy.id, reference_id=policy.id, **inputs)
    shutil.rmtree(installation.folder / "trainer")
    shutil.rmtree(installation.folder / "cache")
    return done


@pytest.fixture
def scratch(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    folder = tmp_path / "scratch"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
async def test_each_kind_of_run_gives_its_weights_again_from_the_registry_alone(
    installation: Installation, tmp_path: pathlib.Path, scratch: pathlib.Path
) -> None:
    sft_run, *others = await trained(installation, tmp_path)
    for run in others:
        told = []
        found = reproducing.reproduce(
            installation.registry, reproducing.find(installation.registry, run.id), scratch / run.id, told.append
        )
        assert found.equal and found.run_id == run.id
        assert {file.model_id for file in found.files} == set(run.model_ids)
        assert [file.path for file in found.files].count("model.safetensors") == len(run.model_ids)
        assert all(then == now for _, then, now in found.versions)
        assert {name for name, _, _ in found.versions} >= {"torch", "transformers", "cpu", "instructions"}
        assert told
    asked = typer.testing.CliRunner().invoke(
        root.app, ["train", "reproduce", sft_run.id[:12], "--state", str(installation.folder)]
    )
    assert asked.exit_code == 0, asked.output
    assert f"every file of run {sft_run.id} was made again, byte by byte" in asked.output


@pytest.mark.slow
async def test_a_run_that_other_processes_answered_and_scored_is_made_again_without_them(
    installation: Installation, tmp_path: pathlib.Path, scratch: pathlib.Path
) -> None:
    """Its journal is published. It also shows that a job has the token of the trainer's `--secrets-file`."""
    datasets.write(tmp_path / "votes", making.feedback(pairs=24, thumbs=24).examples, [])
    draft = registry.ManifestDraft(kind=models.ModelKind.DATASET, tenant=TENANT, line=LINE)
    votes = installation.registry.publish(tmp_path / "votes", draft).id
    rewarding = rewards_of.Installation(installation.folder)
    reward_id = rewarding.publish(rewards_of.build_reward(tmp_path / "reward", 3))
    asked_of = harness.Installation(installation.folder, installation.policy_id)
    with harness.started(asked_of) as policy:
        async with rewarding.build().serving() as scorer, installation.trainer() as trainer:
            settings = {"iterations": 2, "prompts": 3, "samples": 2, "max_tokens": 8}
            spec = dataclasses.replace(
                sft(installation, json.dumps({**settings, "sampler": policy.address, "scorer": scorer})),
                kind=runs.RunKind.RLOO,
                reward_id=reward_id,
                dataset_id=votes,
            )
            asked = await trainer.start_run(runs.StartRunRequest(spec, "ada"))
            run = (await ended(trainer, asked.id)).run
    assert run.state is runs.RunState.SUCCEEDED, run.problem
    assert record.SECRETS_FILE not in os.environ
    shutil.rmtree(installation.folder / "trainer")
    published = reproducing.find(installation.registry, run.id)
    assert [one.kind for one in published] == [models.ModelKind.POLICY]
    journal = installation.registry.manifest(published[0].settings["journal"])
    assert [file.path for file in journal.files] == [
        f"{of}/{number}.json" for of in ("rollouts", "scores") for number in (1, 2)
    ]
    assert journal.id not in {model.id for model in installation.published()}
    found = reproducing.reproduce(installation.registry, published, scratch / "again")
    assert found.equal and "model.safetensors" in {file.path for file in found.files}


def published_again(installation: Installation, **changes: object) -> registry.Manifest:
    """The line's policy as if a run had made it of its demonstrations, which it did not."""
    spec = {**dataclasses.asdict(sft(installation, '{"epochs": 1, "batch": 8}')), **changes}
    gates = {"win_rate": 0.5, "kl_to_anchor": 40.0, "length_ratio": 2.0, "repetition": 0.2}
    draft = registry.ManifestDraft(
        kind=models.ModelKind.POLICY,
        tenant=TENANT,
        line=LINE,
        method="sft",
        run_id="run-1",
        settings={"started": {"spec": spec, "gates": gates}},
        versions={"torch": "1.0"},
    )
    return installation.registry.publish(installation.registry.fetch(installation.policy_id), draft)


def test_other_weights_are_told_apart_file_by_file(installation: Installation) -> None:
    published_again(installation)
    state = installation.folder
    asked = typer.testing.CliRunner().invoke(root.app, ["train", "reproduce", "run-1", "--state", str(state)])
    assert asked.exit_code == 1, asked.output
    lines = {line.split()[2]: line for line in asked.output.splitlines() if line.startswith("policy ")}
    assert "different, by" in lines["model.safetensors"]
    assert lines["tokenizer.json"].rstrip().endswith("equal")
    assert "other bytes are to be expected under another" in asked.output and "torch" in asked.output


def test_a_run_that_cannot_be_found_or_lacks_its_record_is_named(installation: Installation) -> None:
    store = installation.registry
    with pytest.raises(errors.NotFound, match="no published run 'run-9'"):
        reproducing.find(store, "run-9")
    folder = store.fetch(installation.policy_id)
    for number in (1, 2):
        draft = registry.ManifestDraft(kind=models.ModelKind.POLICY, tenant=TENANT, line=LINE, run_id=f"run-{number}")
        store.publish(folder, draft)
    with pytest.raises(errors.InvalidField, match="begins 2 ids"):
        reproducing.find(store, "run-")
    with pytest.raises(errors.InvalidField, match="without the record"):
        reproducing.reproduce(store, reproducing.find(store, "run-1"), installation.folder / "scratch")
