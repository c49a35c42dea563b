"""What a line says about judging reaches the gates: its anchor, its thresholds, its own evaluation sets."""

import json
import pathlib

import pytest
from tests.services.trainer.conftest import LINE, QUESTIONS, TENANT, Installation, lines_toml
from tests.services.trainer.test_runs import ended

from trimtab import registry
from trimtab.core import models, runs
from trimtab.trainer.judging import sets
from trimtab.trainer.runs import reproducing

SETTINGS = json.dumps({"epochs": 1, "batch": 4, "evaluation_minimum": 2})
OWN = """
[lines.{line}.gates]
harm_not_refused = 1
over_refusal = 1
format_gaming = 1
[lines.{line}.evaluation.asked]
file = "asked.jsonl"
at_least = 0
[lines.{line}.evaluation.preferred]
file = "preferred.jsonl"
at_least = 1
"""


@pytest.fixture
def judge_id(installation: Installation, tmp_path: pathlib.Path) -> str:
    """A reward model that says 0 to everything."""
    from trimtab.modeling import loading, rewards

    reward = rewards.from_policy(loading.load_policy(installation.registry.fetch(installation.policy_id)))
    rewards.save_reward_model(reward, tmp_path / "judge")
    draft = registry.ManifestDraft(kind=models.ModelKind.EVALUATION_REWARD, tenant=TENANT, line=LINE, method="tiny")
    return installation.registry.publish(tmp_path / "judge", draft).id


async def judged(installation: Installation, judge_id: str, **changes: str) -> models.PublishedModel:
    spec = runs.RunSpec(
        TENANT,
        LINE,
        runs.RunKind.SFT,
        parent_id=installation.policy_id,
        evaluation_reward_id=judge_id,
        dataset_id=installation.demonstrations_id,
        settings_json=SETTINGS,
        **changes,
    )
    async with installation.trainer() as trainer:
        run = await trainer.start_run(runs.StartRunRequest(spec))
        (model,) = (await ended(trainer, run.id)).models
    return model


def write_own(installation: Installation) -> None:
    installation.folder.joinpath("lines.toml").write_text(lines_toml(training=OWN.format(line=LINE)))
    prompts = [{"prompt": question} for question in QUESTIONS[:2]]
    pairs = [{"prompt": question, "chosen": "look there", "rejected": "no"} for question in QUESTIONS[:1]]
    for name, rows in (("asked", prompts), ("preferred", pairs)):
        (installation.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


async def test_a_line_s_own_sets_and_thresholds_reach_the_gates_and_the_manifest(
    installation: Installation, judge_id: str, tmp_path: pathlib.Path
) -> None:
    write_own(installation)
    model = await judged(installation, judge_id)
    verdict = {gate.name: gate for gate in model.gates}
    assert "sycophancy" in verdict and not {"harm_not_refused", "over_refusal", "format_gaming"} & verdict.keys()
    assert verdict["set_asked"].passed and verdict["set_asked"].value == 0.5
    assert not verdict["set_preferred"].passed and verdict["set_preferred"].detail.startswith("not measured: 1 of")
    started = installation.registry.manifest(model.id).settings["started"]
    assert started["sets"].keys() == {"asked", "preferred"}
    published = installation.registry.fetch(started["sets"]["asked"]["dataset_id"])
    assert [row.line for row in sets.read(published / sets.SET_FILE)] == [1, 2]
    # made again from what was published then, whatever has become of the files
    (installation.folder / "asked.jsonl").write_text("nothing of the kind")
    again = reproducing.reproduce(
        installation.registry, reproducing.find(installation.registry, model.run_id), tmp_path / "again"
    )
    assert again.equal
    result = json.loads((tmp_path / "again" / "result.json").read_text())
    assert [gate["name"] for gate in result["outputs"][0]["gates"]] == [gate.name for gate in model.gates]


async def test_a_set_that_cannot_be_read_ends_the_run_with_its_line(installation: Installation, judge_id: str) -> None:
    write_own(installation)
    (installation.folder / "asked.jsonl").write_text('{"question": "Where?"}\n')
    spec = runs.RunSpec(
        TENANT,
        LINE,
        runs.RunKind.SFT,
        parent_id=installation.policy_id,
        evaluation_reward_id=judge_id,
        dataset_id=installation.demonstrations_id,
        settings_json=SETTINGS,
    )
    async with installation.trainer() as trainer:
        run = await trainer.start_run(runs.StartRunRequest(spec))
        detail = await ended(trainer, run.id)
    assert detail.run.state is runs.RunState.FAILED and "asked.jsonl line 1" in detail.run.problem


async def test_the_kl_is_to_the_anchor_only_where_the_reference_is_the_line_s_anchor(
    installation: Installation, judge_id: str
) -> None:
    without = await judged(installation, judge_id)
    assert [gate.name for gate in without.gates if gate.name.startswith("kl_")] == ["kl_to_parent"]
    installation.adopt(installation.policy_id)
    anchored = await judged(installation, judge_id, reference_id=installation.policy_id, label="anchored")
    assert [gate.name for gate in anchored.gates if gate.name.startswith("kl_")] == ["kl_to_anchor"]
    other = await judged(installation, judge_id, reference_id=without.id, label="other")
    assert [gate.name for gate in other.gates if gate.name.startswith("kl_")] == ["kl_to_reference"]
    assert "win_rate_over_parent" in [gate.name for gate in other.gates]
