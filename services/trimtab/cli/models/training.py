"""`trimtab train show | start | cancel`: one run, from what it was asked for to the models it made."""

import dataclasses
import datetime
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from trimtab import registry
from trimtab.cli import show
from trimtab.cli.machine import artifacts, operating, platform
from trimtab.cli.models import inspecting, lineage, recorded
from trimtab.core import errors, models, runs
from trimtab.trainer import recipes

_INPUTS = {
    "parent_id": "weights from",
    "reference_id": "anchor",
    "reward_id": "reward model",
    "evaluation_reward_id": "judge",
    "dataset_id": "data set",
}


async def find(doors: platform.Doors, prefix: str) -> runs.GetRunResponse:
    """The run whose id begins so (with or without its "run-"), and its models; NotFound or InvalidField."""
    listed = await doors.trainer.list_runs(runs.ListRunsRequest(doors.facts.tenant), timeout_s=10)
    found = [run.id for run in listed if run.id.startswith((prefix, f"run-{prefix}"))]
    if not found:
        raise errors.NotFound("run", prefix)
    if len(found) > 1:
        raise errors.InvalidField("run", f"{prefix!r} begins {len(found)} ids", "give more of it")
    return await doors.trainer.get_run(runs.GetRunRequest(doors.facts.tenant, found[0]), timeout_s=10)


async def shown(state: pathlib.Path, prefix: str, watch: bool, as_json: bool) -> int:
    """Prints a run; when it goes on and is watched, once it has ended. The exit code, as of `start`."""
    layout = platform.Layout(state)
    screen = show.Screen(as_json)
    async with platform.doors(layout) as doors:
        detail = await find(doors, prefix)
        if watch and detail.run.ended_at is None:
            await _follow(doors, detail.run, screen)
            detail = await find(doors, detail.run.id)
    if as_json:
        screen.json(inspecting.plain(detail) | {"settings": settings(detail.run.spec)})
    else:
        card(screen, detail, layout)
    return _exit_code(detail.run, watch)


def _exit_code(run: runs.Run, watched: bool) -> int:
    return int(watched and run.state is not runs.RunState.SUCCEEDED)


async def _follow(doors: platform.Doors, run: runs.Run, screen: show.Screen) -> None:
    with screen.step(f"run {run.id}, {run.spec.kind.value}") as step:
        try:
            await platform.finished(doors, run, step.say)
        except errors.WrongState as ended:  # the card says so too
            step.say(str(ended))


def card(screen: show.Screen, detail: runs.GetRunResponse, layout: platform.Layout) -> None:
    """Everything about a run, for people."""
    run, store = detail.run, artifacts.open_registry(layout)
    screen.say(f"run {run.id}\n")
    screen.table(("", ""), [(name, value) for name, value in facts(run) if value])
    for alarm in recorded.alarms(layout, detail):
        screen.say(f"[red]alarm[/] {show.literal(alarm)} `trimtab train diagnose {run.id[: show.SHORT]}`")
    screen.table(("\ninput", "\nid", "\nwhat"), inputs(run.spec, store))
    screen.say("")
    screen.table(("setting", "value", ""), setting_rows(run.spec))
    if run.figures:
        screen.say("")
        screen.table(
            ("figure", "value"),
            [(figure.name, f"{figure.value:.5g}") for figure in run.figures],
            numbers=("value",),
        )
    for model in detail.models:
        verdict = "gates passed" if model.passed else "[red]refused at its gates[/]"
        screen.say(f"\n{lineage.kind(model.kind)} {model.id[: show.SHORT]}: {verdict if model.gates else 'not judged'}")
        show_gates(screen, model.gates)


def show_gates(screen: show.Screen, gates: Sequence[models.GateFigure]) -> None:
    """Each gate in words."""
    for gate in gates:
        passed = "[green]passed[/]" if gate.passed else "[red]not passed[/]"
        screen.say(f"  {passed}  {show.literal(gate.in_words())}, threshold {gate.threshold:.3g}")


def facts(run: runs.Run) -> list[tuple[str, str]]:
    """What people want to know first; values may be empty."""
    return [
        ("kind", run.spec.kind.value),
        ("label", run.spec.label),
        ("line", run.spec.line),
        ("state", run.state.value),
        ("problem", run.problem),
        ("how far", platform.describe_run(run) if run.ended_at is None else f"{run.step} of {run.steps} steps"),
        ("asked by", run.asked_by),
        ("asked for", _time(run.created_at)),
        ("started", _time(run.started_at)),
        ("ended", _time(run.ended_at)),
        ("took", _duration(run)),
        ("seed", str(run.spec.seed)),
    ]


def _time(at: datetime.datetime | None) -> str:
    return f"{show.moment(at)} UTC" if at else ""


def _duration(run: runs.Run) -> str:
    if run.started_at is None or run.ended_at is None:
        return ""
    seconds = round((run.ended_at - run.started_at).total_seconds())
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min {seconds % 60} s"


def inputs(spec: runs.RunSpec, store: registry.Registry) -> list[tuple[str, str, str]]:
    """(role, id, what it is) of everything a run starts from."""
    rows = []
    for field, role in _INPUTS.items():
        model_id = getattr(spec, field)
        if model_id:
            rows.append((role, model_id[: show.SHORT], lineage.describe(store.manifest(model_id))))
    return rows


def settings(spec: runs.RunSpec) -> dict[str, Any]:
    """Every setting of a run, those it was not given at their defaults."""
    return dataclasses.asdict(recipes.parse(spec.kind, spec.settings_json))


def setting_rows(spec: runs.RunSpec) -> list[tuple[str, str, str]]:
    """(name, value, what the default is where the run was given another)."""
    defaults = dataclasses.asdict(recipes.parse(spec.kind, "{}"))
    return [
        (name, str(value), "" if value == defaults[name] else f"default {defaults[name]}")
        for name, value in settings(spec).items()
    ]


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """What `train start` was given. inputs: by field of the specification the
    beginning of an id, or the name of a file of demonstrations or preferences."""

    kind: runs.RunKind
    line: str
    inputs: Mapping[str, str]
    given: Sequence[str]
    seed: int
    label: str


async def start(state: pathlib.Path, asked: Asked, watch: bool, as_json: bool) -> int:
    """Queues a run; when it is watched, follows it to its end and prints it.

    The exit code: 1 when a watched run has not succeeded.
    """
    layout = platform.Layout(state)
    screen = show.Screen(as_json)
    async with platform.doors(layout) as doors:
        line = asked.line or doors.facts.line
        ids = {field: _named(layout, given, doors.facts.tenant, line) for field, given in asked.inputs.items() if given}
        spec = runs.RunSpec(
            doors.facts.tenant,
            line,
            asked.kind,
            settings_json=json.dumps(_settings(asked.given)),
            seed=asked.seed,
            label=asked.label,
            **ids,
        )
        request = runs.StartRunRequest(spec, operating.operator(), operating.new_request())
        run = await platform.patiently(lambda: doors.trainer.start_run(request, timeout_s=60))
        if watch:
            await _follow(doors, run, screen)
            detail = await find(doors, run.id)
            run = detail.run
    if as_json:
        screen.json(inspecting.plain(run))
    elif watch:
        card(screen, detail, layout)
    else:
        screen.say(f"run {run.id}: {platform.describe_run(run)}; `trimtab train show {run.id[: show.SHORT]} --watch`")
    return _exit_code(run, watch)


def _named(layout: platform.Layout, given: str, tenant: str, line: str) -> str:
    """The id that begins so, or that of the data set in the file of this name."""
    file = pathlib.Path(given)
    return artifacts.publish_dataset(layout, file, tenant, line) if file.is_file() else artifacts.resolve(layout, given)


def _settings(given: Sequence[str]) -> dict[str, Any]:
    """Settings of NAME=VALUE; numbers, true and false are what they look like."""
    found: dict[str, Any] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise errors.InvalidField("--set", f"{item!r} sets nothing", "give NAME=VALUE, e.g. --set epochs=3")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


async def cancel(state: pathlib.Path, prefix: str, reason: str) -> None:
    """Asks a run to end; what it made so far is dropped."""
    async with platform.doors(platform.Layout(state)) as doors:
        run = (await find(doors, prefix)).run
        if run.ended_at is not None:
            raise errors.WrongState(f"Run {run.id} has ended already, as {run.state.value}.")
        request = runs.CancelRunRequest(
            doors.facts.tenant, run.id, operating.operator(), reason, operating.new_request()
        )
        run = await platform.patiently(lambda: doors.trainer.cancel_run(request, timeout_s=30))
    show.Screen().say(f"run {run.id}: {'cancelled' if run.ended_at else 'told to end'}")
