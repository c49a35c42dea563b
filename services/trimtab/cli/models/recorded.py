"""What a run has recorded in its folder and its figures, as `trimtab train show`, `report` and `diagnose` read it."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from trimtab.cli.machine import platform
from trimtab.core import models, releases, runs
from trimtab.trainer import recipes
from trimtab.trainer.judging import symptoms


def steps(folder: pathlib.Path) -> list[dict[str, Any]]:
    """What a run has told of its steps: {"phase", "step", "figures"} each; none where its folder is gone."""
    try:
        rows = (folder / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    told = []
    for row in rows:
        try:
            told.append(json.loads(row))
        except ValueError:  # the last one may be half written
            continue
    return told


def evidence(
    layout: platform.Layout, detail: runs.GetRunResponse, released: Sequence[releases.Release] = ()
) -> symptoms.Evidence:
    """What the rules look at: what the run told of its steps, its figures, and how the release of its policy ended."""
    phases: dict[str, list[dict[str, float]]] = {}
    for row in steps(layout.runs / detail.run.id):
        phases.setdefault(row["phase"], []).append(row["figures"])
    policies = {model.id for model in detail.models if model.kind is models.ModelKind.POLICY}
    ended = [one for one in released if one.candidate_id in policies and one.state in releases.FINAL_STATES]
    return symptoms.Evidence(
        settings=dataclasses.asdict(recipes.parse(detail.run.spec.kind, detail.run.spec.settings_json)),
        phases=phases,
        figures={figure.name: figure.value for figure in detail.run.figures},
        verdict=ended[-1].state.value.replace("_", " ") if ended else "",
    )


def alarms(layout: platform.Layout, detail: runs.GetRunResponse) -> list[str]:
    """A line for each sign that a run has learned nothing, for people who did not ask."""
    found = symptoms.diagnose(evidence(layout, detail))
    return [f"{finding.name}: {finding.seen}" for finding in found if finding.alarm]
