"""Answers to "what is there, and where did it come from": tables for people, `--json` for programs."""

import dataclasses
import datetime
import math
import pathlib
from typing import Any

from trimtab.cli import show
from trimtab.cli.machine import artifacts, platform
from trimtab.core import examples, feedback, ledger
from trimtab.core import runs as core_runs


async def trace(state: pathlib.Path, identity: str, as_json: bool) -> None:
    """The chain from completion to release, one line a link."""
    async with platform.doors(platform.Layout(state)) as doors:
        chain = await doors.ledger.trace(ledger.TraceRequest(doors.facts.tenant, identity), timeout_s=10)
    screen = show.Screen(as_json)
    if as_json:
        screen.json(plain(chain))
        return
    screen.table(("link", "id", "what"), _links(chain))


def _links(chain: ledger.TraceResponse) -> list[tuple[str, str, str]]:
    rows = []
    for completion in chain.completions:
        answers = " | ".join(_quote(response.text.body) for response in completion.responses)
        exposure = completion.exposure
        arm = f", {exposure.arm.value} arm" if exposure and exposure.arm else ""
        policy = (
            f"policy {completion.policy_id[: show.SHORT]}{arm}" if completion.policy_id else completion.origin.value
        )
        rows.append(("completion", completion.id, f"{policy}: {answers}"))
    for traced in chain.feedback:
        copies = f", {traced.copies} more copies" if traced.copies else ""
        reason = f" ({traced.reason})" if traced.reason else ""
        read = f" by a model from {', '.join(traced.event.read_from)}" if traced.event.read_from else ""
        what = f"{_kind(traced.event.kind)}{read}: {traced.status.value}{reason}{copies}"
        rows.append(("feedback", traced.event.id, what))
    for example in chain.examples:
        what = "withdrawn" if example.withdrawn else type(example.kind).__name__.removesuffix("Example").lower()
        rows.append(("example", example.id, f"{what}, revision {example.revision}, fold {example.fold}"))
    for member in chain.datasets:
        reason = f": {member.reason}" if member.reason else ""
        rows.append(("data set", member.dataset_id[: show.SHORT], f"{member.disposition}{reason}"))
    for model in chain.models:
        if model.kind.value != "dataset":
            verdict = "gates passed" if model.passed else "refused at the gate"
            rows.append((model.kind.value.replace("_", " "), model.id[: show.SHORT], f"run {model.run_id}, {verdict}"))
    for release_id in chain.quarantined_by:
        rows.append(("quarantine", release_id, "an example of this chain trains nothing: the release ended worse"))
    for release in chain.releases:
        rows.append(("release", release.id, platform.describe_release(release)))
    return rows


def _kind(kind: feedback.Kind) -> str:
    match kind:
        case feedback.Thumb(up=up):
            return "thumb up" if up else "thumb down"
        case feedback.Comparison(tie=tie):
            return "tie" if tie else "comparison"
        case _:
            return type(kind).__name__.lower()


def _quote(body: object, limit: int = 72) -> str:
    text = body if isinstance(body, str) else "(sealed)"
    return f"“{text if len(text) <= limit else text[: limit - 1] + '…'}”"


async def models(state: pathlib.Path, as_json: bool) -> None:
    manifests = sorted(artifacts.open_registry(platform.Layout(state)).list(), key=lambda item: item.created_at)
    screen = show.Screen(as_json)
    if as_json:
        screen.json([plain(manifest) for manifest in manifests])
        return
    rows = [
        (
            item.id[: show.SHORT],
            item.kind.value.replace("_", " "),
            item.line,
            item.method,
            "yes" if item.passed else "no",
        )
        for item in manifests
    ]
    screen.table(("model", "kind", "line", "method", "gates passed"), rows)


async def model(state: pathlib.Path, prefix: str, as_json: bool) -> None:
    layout = platform.Layout(state)
    manifest = artifacts.open_registry(layout).manifest(artifacts.resolve(layout, prefix))
    screen = show.Screen(as_json)
    if as_json:
        screen.json(plain(manifest))
        return
    screen.say(f"{manifest.kind.value} {manifest.id}\n")
    rows = [
        ("line", manifest.line),
        ("method", manifest.method),
        ("run", manifest.run_id),
        ("parents", ", ".join(parent[: show.SHORT] for parent in manifest.parents)),
        ("data sets", ", ".join(dataset[: show.SHORT] for dataset in manifest.datasets)),
        ("size", f"{sum(file.size for file in manifest.files) / 1e6:.1f} MB in {len(manifest.files)} files"),
    ]
    screen.table(("", ""), [(name, value) for name, value in rows if value])
    if manifest.gates:
        screen.say("")
        screen.table(
            ("gate", "figure", "threshold", "passed", "in words"),
            [
                (gate.name, f"{gate.value:.4g}", f"{gate.threshold:.4g}", "yes" if gate.passed else "no", gate.detail)
                for gate in manifest.gates
            ],
        )


async def runs(state: pathlib.Path, as_json: bool) -> None:
    async with platform.doors(platform.Layout(state)) as doors:
        listed = await doors.trainer.list_runs(core_runs.ListRunsRequest(doors.facts.tenant), timeout_s=10)
    screen = show.Screen(as_json)
    if as_json:
        screen.json([plain(run) for run in listed])
        return
    screen.table(
        ("run", "kind", "line", "state", "asked by", "how far"),
        [
            (run.id, run.spec.kind.value, run.spec.line, run.state.value, run.asked_by, run.problem or _far(run))
            for run in listed
        ],
    )


def _far(run: core_runs.Run) -> str:
    return platform.describe_run(run)


def plain(value: Any) -> Any:
    """A core value as JSON says it: dataclasses as objects, bytes as hex, times as ISO 8601."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        names_its_type = isinstance(value, feedback.Kind | examples.Kind)
        return {"type": type(value).__name__} | fields if names_its_type else fields
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON knows no infinity
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
