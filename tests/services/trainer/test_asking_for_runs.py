"""A run that cannot start is refused with the field and the remedy, and nothing is queued."""

import contextlib
import dataclasses
import pathlib
import subprocess
import sys

import pytest
from tests.services.trainer.conftest import AT, LINE, TENANT, Installation, lines_toml, until

from trimtab import registry
from trimtab.bus import topics
from trimtab.core import audit, errors, models, releases, runs, text
from trimtab.trainer import app, settings
from trimtab.wire import calls, schemas


def sft(installation: Installation, **changes: object) -> runs.RunSpec:
    spec = runs.RunSpec(
        tenant=TENANT,
        line=LINE,
        kind=runs.RunKind.SFT,
        parent_id=installation.policy_id,
        dataset_id=installation.demonstrations_id,
    )
    return dataclasses.replace(spec, **changes)  # type: ignore[arg-type]


async def start(trainer: calls.TrainerCalls, spec: runs.RunSpec) -> runs.Run:
    return await trainer.start_run(runs.StartRunRequest(spec, actor="ada"))


async def test_requests_that_cannot_become_runs_are_refused_and_change_nothing(installation: Installation) -> None:
    policy, data = installation.policy_id, installation.demonstrations_id
    refused: list[tuple[dict[str, object], type[errors.TrimtabError], str]] = [
        ({"line": "elsewhere"}, errors.NotFound, "elsewhere"),
        ({"tenant": "rival"}, errors.NotFound, LINE),
        ({"kind": runs.RunKind.DPO, "reference_id": data}, errors.InvalidField, "reference_id"),
        ({"parent_id": ""}, errors.InvalidField, "parent_id"),
        ({"parent_id": "f" * 64}, errors.NotFound, "ffff"),
        ({"parent_id": data}, errors.InvalidField, "parent_id"),
        ({"dataset_id": ""}, errors.InvalidField, "dataset_id"),
        ({"dataset_id": policy}, errors.InvalidField, "dataset_id"),
        ({"kind": runs.RunKind.PPO}, errors.InvalidField, "reward_id"),
        ({"settings_json": '{"epoch": 1}'}, errors.InvalidField, "epoch"),
        ({"settings_json": "[1]"}, errors.InvalidField, "settings_json"),
        ({"settings_json": "{"}, errors.InvalidField, "settings_json"),
    ]
    async with installation.trainer() as trainer:
        for changes, kind, word in refused:
            with pytest.raises(kind, match=word):
                await start(trainer, sft(installation, **changes))
        with pytest.raises(errors.NotFound):
            await trainer.get_run(runs.GetRunRequest(TENANT, "run-none"))
        assert await trainer.list_runs(runs.ListRunsRequest(TENANT)) == ()
    assert not installation.records(topics.AUDIT)


async def test_an_artifact_of_another_tenant_does_not_exist(
    installation: Installation, tiny_policy: pathlib.Path
) -> None:
    draft = registry.ManifestDraft(kind=models.ModelKind.POLICY, tenant="rival", line=LINE, method="tiny")
    foreign = installation.registry.publish(tiny_policy, draft).id
    async with installation.trainer() as trainer:
        with pytest.raises(errors.NotFound):
            await start(trainer, sft(installation, parent_id=foreign))


async def test_a_queued_run_has_its_settings_resolved_and_its_asker_on_record(installation: Installation) -> None:
    training = f"[lines.{LINE}.training.sft]\nepochs = 3\nbatch = 4\nlr = 0.5\n"
    (installation.folder / "lines.toml").write_text(lines_toml(training=training))
    async with installation.trainer() as trainer:
        run = await start(trainer, sft(installation, settings_json='{"epochs": 900, "warmup_steps": 7}'))
        assert run.spec.settings_json == '{"batch": 4, "epochs": 900, "lr": 0.5, "warmup_steps": 7}'
        assert run.asked_by == "ada"
        assert [one.id for one in await trainer.list_runs(runs.ListRunsRequest(TENANT, LINE))] == [run.id]
        assert await trainer.list_runs(runs.ListRunsRequest("rival")) == ()
        with pytest.raises(errors.NotFound):
            await trainer.get_run(runs.GetRunRequest("rival", run.id))
        await trainer.cancel_run(runs.CancelRunRequest(TENANT, run.id, "ada", "a test"))
        states = [one.state async for one in trainer.watch_run(runs.GetRunRequest(TENANT, run.id), timeout_s=60)]
        assert states[-1] is runs.RunState.CANCELLED
        with pytest.raises(errors.WrongState):
            await trainer.cancel_run(runs.CancelRunRequest(TENANT, run.id, "ada", "again"))
    acts = [schemas.decode(one.value, one.headers, audit.AuditRecord) for one in installation.records(topics.AUDIT)]
    assert [(act.act, act.actor) for act in acts][:2] == [("run.start", "ada"), ("run.cancel", "ada")]


def test_a_line_with_settings_no_run_could_take_stops_the_start(installation: Installation) -> None:
    for wrong in (
        'method = "reward"\n',
        'method = "pretrain"\n',
        "[lines.support.training.sft]\nepoch = 3\n",
        "[lines.support.training.pppo]\nepochs = 3\n",
    ):
        (installation.folder / "lines.toml").write_text(lines_toml(training=wrong))
        with pytest.raises(errors.InvalidField):
            app.build(settings.TrainerSettings.model_validate(installation.flags()))


async def test_two_trainers_never_share_a_state_folder(installation: Installation) -> None:
    async with installation.trainer():
        with pytest.raises(errors.InvalidField, match="state"):
            app.build(settings.TrainerSettings.model_validate(installation.flags()))


@pytest.mark.parametrize("module", ["trimtab.trainer.app", "trimtab.reward.app"])
def test_the_door_opens_without_torch(module: str) -> None:
    program = f"import sys, {module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


async def test_no_policy_is_trained_against_a_reward_model_in_quarantine_until_it_is_released(
    installation: Installation, tiny_policy: pathlib.Path
) -> None:
    draft = registry.ManifestDraft(kind=models.ModelKind.REWARD, tenant=TENANT, line=LINE, method="reward")
    reward = installation.registry.publish(tiny_policy, draft).id
    ppo = sft(installation, kind=runs.RunKind.PPO, reward_id=reward)
    held = releases.Quarantine(AT, reward_ids=(reward,))
    told = ended_worse(held)
    installation.put(topics.ROLLOUTS, [(b"worse", told)])
    async with installation.trainer() as trainer:
        with pytest.raises(errors.InvalidField, match=r"`spec.reward_id`.*trimtab quarantine release worse"):
            await start(trainer, ppo)
        assert await trainer.list_runs(runs.ListRunsRequest(TENANT)) == ()
        freed = dataclasses.replace(told, quarantine=dataclasses.replace(held, released_at=AT))
        installation.put(topics.ROLLOUTS, [(b"worse", freed)])

        async def accepted() -> runs.Run | None:
            with contextlib.suppress(errors.InvalidField):
                return await start(trainer, ppo)
            return None

        run = await until(accepted)
        await trainer.cancel_run(runs.CancelRunRequest(TENANT, run.id, "ada", "a test"))


async def test_a_reward_model_is_a_parent_of_reward_models_alone_and_of_none_in_quarantine(
    installation: Installation, tiny_policy: pathlib.Path
) -> None:
    draft = registry.ManifestDraft(kind=models.ModelKind.REWARD, tenant=TENANT, line=LINE, method="reward")
    reward = installation.registry.publish(tiny_policy, draft).id
    installation.put(topics.ROLLOUTS, [(b"worse", ended_worse(releases.Quarantine(AT, reward_ids=(reward,))))])
    async with installation.trainer() as trainer:
        with pytest.raises(errors.InvalidField, match=r"spec.parent_id.*names a reward"):
            await start(trainer, sft(installation, parent_id=reward))
        with pytest.raises(errors.InvalidField, match=r"`spec.parent_id`.*in quarantine"):
            await start(trainer, sft(installation, kind=runs.RunKind.REWARD, parent_id=reward))
        # the incumbent is compared with and not learned from
        run = await start(trainer, sft(installation, kind=runs.RunKind.REWARD, reward_id=reward))
        assert run.spec.reward_id == reward
        await trainer.cancel_run(runs.CancelRunRequest(TENANT, run.id, "ada", "a test"))


async def test_a_run_that_waited_while_its_reward_model_went_into_quarantine_fails_and_says_so(
    installation: Installation, tiny_policy: pathlib.Path
) -> None:
    draft = registry.ManifestDraft(kind=models.ModelKind.REWARD, tenant=TENANT, line=LINE, method="reward")
    reward = installation.registry.publish(tiny_policy, draft).id
    async with installation.trainer() as trainer:
        before = await start(trainer, sft(installation, settings_json='{"epochs": 900}'))
        request = runs.StartRunRequest(ppo := sft(installation, kind=runs.RunKind.PPO, reward_id=reward), "ada", "one")
        waits = await trainer.start_run(request)
        installation.put(topics.ROLLOUTS, [(b"worse", ended_worse(releases.Quarantine(AT, reward_ids=(reward,))))])

        async def refused() -> bool:
            with contextlib.suppress(errors.InvalidField):
                other = await start(trainer, ppo)
                await trainer.cancel_run(runs.CancelRunRequest(TENANT, other.id))
                return False
            return True

        await until(refused)
        # the same request again is answered with what it did, although it would be refused now
        assert (await trainer.start_run(request)).id == waits.id
        await trainer.cancel_run(runs.CancelRunRequest(TENANT, before.id, "ada", "out of the way"))
        states = [one async for one in trainer.watch_run(runs.GetRunRequest(TENANT, waits.id), timeout_s=60)]
    assert states[-1].state is runs.RunState.FAILED
    assert "in quarantine" in states[-1].problem


def ended_worse(held: releases.Quarantine) -> releases.Release:
    return releases.Release(
        id="worse",
        context=text.Context(TENANT, LINE),
        revision=1,
        candidate_id="candidate",
        stable_id="",
        anchor_id="",
        state=releases.ReleaseState.ROLLED_BACK,
        salt=b"salt",
        created_at=AT,
        quarantine=held,
    )
