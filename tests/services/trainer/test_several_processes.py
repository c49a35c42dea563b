"""A trainer whose jobs are several processes: `--job-processes`."""

import dataclasses
import json
import pathlib

import pytest
from tests.services.trainer.conftest import LINE, Installation, lines_toml
from tests.services.trainer.test_runs import ended, sft

from trimtab.core import errors, runs
from trimtab.trainer import record
from trimtab.trainer.runs import reproducing


@pytest.mark.slow
async def test_their_number_is_published_and_the_run_is_made_again_with_as_many(
    installation: Installation, tmp_path: pathlib.Path
) -> None:
    two = dataclasses.replace(installation, job_processes=2)
    async with two.trainer() as trainer:
        asked = await trainer.start_run(runs.StartRunRequest(sft(two, '{"epochs": 1, "batch": 8}'), "ada"))
        answer = await ended(trainer, asked.id)
    assert answer.run.state is runs.RunState.SUCCEEDED, answer.run.problem
    (published,) = reproducing.find(two.registry, asked.id)
    assert published.versions[record.PROCESSES] == "2"
    found = reproducing.reproduce(two.registry, [published], tmp_path / "again")
    assert found.equal and (record.PROCESSES, "2", "2") in found.versions


async def test_a_run_that_they_cannot_take_is_refused_before_it_is_queued(installation: Installation) -> None:
    two = dataclasses.replace(installation, job_processes=2)
    async with two.trainer() as trainer:
        for spec, field in (
            (dataclasses.replace(sft(two, "{}"), kind=runs.RunKind.GRPO), "spec.kind"),
            (sft(two, json.dumps({"optimizer": "muon"})), "spec.settings_json.optimizer"),
        ):
            with pytest.raises(errors.InvalidField) as refused:
                await trainer.start_run(runs.StartRunRequest(spec, "ada"))
            assert refused.value.field == field and "--job-processes" in str(refused.value)


async def test_a_line_whose_cycles_they_cannot_take_is_refused_at_the_start(installation: Installation) -> None:
    two = dataclasses.replace(installation, job_processes=2)
    (two.folder / "lines.toml").write_text(lines_toml(trigger=24))
    with pytest.raises(errors.InvalidField, match=f"lines.{LINE}.trigger.kind` is ppo"):
        async with two.trainer():
            raise AssertionError
    (two.folder / "lines.toml").write_text(lines_toml(trigger=24).replace("examples", 'method = "dpo"\nexamples'))
    async with two.trainer():
        pass
