"""`trimtab train report`: a run as one HTML page with everything in it. It loads nothing and runs no script."""

import asyncio
import collections
import dataclasses
import html
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trimtab.cli import plotting, show
from trimtab.cli.machine import artifacts, platform
from trimtab.cli.models import lineage, recorded, training
from trimtab.core import errors, files, models, releases, runs, text
from trimtab.trainer.data import datasets
from trimtab.trainer.judging import symptoms

# What is plotted first, with its title and unit; every other figure of the steps follows under its own name.
_PLOTS = {
    "loss_nats_per_token": ("Loss", "nats per token"),
    "loss_nats_per_example": ("Loss", "nats per example"),
    "score": ("Reward of the answers", "the reward model's units"),
    "score_deviation": ("Spread of the rewards", "standard deviation"),
    "loss": ("Loss", "nats per example"),
    "accuracy": ("Examples it gets right", "share"),
    "reward_margin": ("Margin of the chosen answers", "implicit reward"),
    "kl_nats": ("KL to the reference", "nats per answer"),
    "entropy_nats_per_token": ("Entropy", "nats per token"),
    "response_tokens": ("Length of the answers", "tokens"),
    "missing_eos_share": ("Answers that were cut off", "share"),
    "policy_loss": ("Loss of the policy", ""),
    "demonstration_loss_nats_per_token": ("Loss on demonstrations and edits", "nats per token"),
    "value_loss": ("Loss of the critic", ""),
    "explained_variance": ("Variance that the critic explains", "share"),
    "zero_advantage_share": ("Answers without an advantage", "share"),
    "effective_sample_share": ("Answers left after weighting", "share"),
    "staleness": ("Age of the answers", "versions"),
    "gradient_norm": ("Norm of the gradient", ""),
    "policy_gradient_norm": ("Norm of the policy's gradient", ""),
    "critic_gradient_norm": ("Norm of the critic's gradient", ""),
}
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5c6675; --paper: #fff; --grid: #dfe3e8;
  --line-1: #2563b8; --line-2: #c2571a; --line-3: #2e8b57; --line-4: #8a4fb0; --good: #1f7a46; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9aa4b2; --paper: #14181e; --grid: #333b46;
  --line-1: #6aa5f0; --line-2: #f0955c; --line-3: #6cc797; --line-4: #c594e6; --good: #6cc797; --bad: #f28b82; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } th, td { text-align: left; vertical-align: top; padding: .2rem 1rem .2rem 0;
  overflow-wrap: anywhere; } th { color: var(--soft); font-weight: normal; } td.number { text-align: right; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; width: 440px; max-width: 100%; }
figcaption { font-size: .9rem; } svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: var(--soft); }
.passed { color: var(--good); } .not { color: var(--bad); } .soft { color: var(--soft); } ul { padding-left: 1.2rem; }
blockquote { margin: .2rem 0 .6rem; padding-left: .8rem; border-left: 3px solid var(--grid); white-space: pre-wrap; }
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """A held-out prompt, what the run's parent says to it and what its policy does."""

    prompt: str
    before: str
    after: str


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """What a report says. steps: rows of `metrics.jsonl`; trees: the lineage of each model."""

    run: runs.Run
    models: Sequence[models.PublishedModel]
    inputs: Sequence[tuple[str, str, str]]
    settings: Sequence[tuple[str, str, str]]
    steps: Sequence[Mapping[str, Any]]
    samples: Sequence[Sample]
    trees: Sequence[show.Twig]
    findings: Sequence[symptoms.Finding] = ()


async def report(state: pathlib.Path, prefix: str, output: pathlib.Path | None, samples: int) -> None:
    """Writes the page of a run and says where it is."""
    layout = platform.Layout(state)
    screen = show.Screen()
    async with platform.doors(layout) as doors:
        detail = await training.find(doors, prefix)
    released = await lineage.releases_of(layout)
    said: list[Sample] = []
    prompts = _prompts(layout, detail)[:samples]
    if prompts:
        with screen.step(f"answering {len(prompts)} held-out prompts as before and after"):
            said = await asyncio.to_thread(_samples, layout, detail, prompts)
    page = _page(layout, detail, released or (), said)
    file = output or pathlib.Path(f"{detail.run.id}.html")
    try:
        files.replace(file, written(page))
    except OSError as problem:
        raise errors.InvalidField(
            "--output", f"{str(file)!r} cannot be written ({problem.strerror})", "name a file in a folder that is there"
        ) from problem
    screen.say(f"{file}: run {detail.run.id}, {len(page.steps):,} steps")


def _page(
    layout: platform.Layout, detail: runs.GetRunResponse, released: Sequence[releases.Release], said: Sequence[Sample]
) -> Page:
    store = artifacts.open_registry(layout)
    family = lineage.Family(store.list())
    return Page(
        run=detail.run,
        models=detail.models,
        inputs=training.inputs(detail.run.spec, store),
        settings=training.setting_rows(detail.run.spec),
        steps=recorded.steps(layout.runs / detail.run.id),
        samples=said,
        trees=[lineage.tree(family, model.id, released) for model in detail.models if model.id in family.members],
        findings=symptoms.diagnose(recorded.evidence(layout, detail, released)),
    )


_Prompt = tuple[text.Message, ...]


def _prompts(layout: platform.Layout, detail: runs.GetRunResponse) -> list[_Prompt]:
    """The different held-out prompts of a run that has made a policy; none of any other."""
    if not any(model.kind is models.ModelKind.POLICY for model in detail.models):
        return []
    held_out = datasets.read(artifacts.open_registry(layout).fetch(detail.run.spec.dataset_id)).of("held_out")
    asked = [
        tuple(text.Message(text.Role(turn["role"]), text.Text(turn["content"])) for turn in example.prompt)
        for example in held_out
    ]
    return list(dict.fromkeys(asked))


def _samples(layout: platform.Layout, detail: runs.GetRunResponse, prompts: Sequence[_Prompt]) -> list[Sample]:
    """Answers of the run's parent and of its policy."""
    from trimtab.modeling import loading

    store = artifacts.open_registry(layout)
    policy = next(model.id for model in detail.models if model.kind is models.ModelKind.POLICY)
    before, after = (
        _answers(loading.load_policy(store.fetch(model_id)), prompts)
        for model_id in (detail.run.spec.parent_id, policy)
    )
    return [
        Sample("\n".join(f"{turn.role.value}: {turn.content.read()}" for turn in prompt), before[prompt], after[prompt])
        for prompt in prompts
        if prompt in before and prompt in after
    ]


def _answers(policy: Any, prompts: Sequence[_Prompt]) -> dict[_Prompt, str]:
    """One answer to each prompt that leaves room for one, drawn as the policy is served."""
    from trimtab.trainer.judging import answering

    asked = answering.fitting((policy,), prompts)
    answers = answering.as_served(policy, asked, policy.profile.max_tokens, "report")
    return {prompt: answer.text for prompt, answer in zip(asked, answers, strict=True)}


def written(page: Page) -> str:
    """The page as HTML."""
    run = page.run
    title = f"{run.spec.kind.value} run {run.id}"
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>",
        _table([(name, value) for name, value in training.facts(run) if value]),
        _section("Gates", *(_gates(model) for model in page.models)),
        _section("Diagnosis", *(_finding(one) for one in page.findings)),
        _section("Over the steps", *_plots(page.steps)),
        _section("Answers to held-out prompts", *(_sample(one) for one in page.samples)),
        _section("Figures", _table([(one.name, f"{one.value:.5g}") for one in run.figures])),
        _section("Inputs", _table(page.inputs)),
        _section("Settings", _table(page.settings)),
        _section("Lineage", *(f"<ul>{_tree(tree)}</ul>" for tree in page.trees)),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _section(name: str, *parts: str) -> str:
    inside = "\n".join(part for part in parts if part)
    return f"<h2>{name}</h2>\n{inside}" if inside else ""


def _table(rows: Iterable[Sequence[str]]) -> str:
    lines = []
    for name, *values in rows:
        cells = "".join(f"<td>{html.escape(value)}</td>" for value in values)
        lines.append(f"<tr><th>{html.escape(name)}</th>{cells}</tr>")
    return "\n".join(["<table>", *lines, "</table>"]) if lines else ""


def _gates(model: models.PublishedModel) -> str:
    name = f"{lineage.kind(model.kind)} {model.id[: show.SHORT]}"
    if not model.gates:
        return f"<p>{html.escape(name)}: not judged</p>"
    rows = [
        f"<tr><th>{html.escape(gate.name.replace('_', ' '))}</th><td class='number'>{gate.value:.4g}</td>"
        f"<td class='number'>{gate.threshold:.4g}</td>"
        f"<td class='{'passed' if gate.passed else 'not'}'>{'passed' if gate.passed else 'not passed'}</td>"
        f"<td>{html.escape(gate.detail)}</td></tr>"
        for gate in model.gates
    ]
    verdict = "passed" if model.passed else "refused"
    head = "<tr><th>gate</th><th>figure</th><th>threshold</th><th></th><th></th></tr>"
    return "\n".join([f"<p>{html.escape(name)}: {verdict}</p>", "<table>", head, *rows, "</table>"])


def _finding(finding: symptoms.Finding) -> str:
    head = f"<p class='{'not' if finding.alarm else ''}'>{html.escape(finding.name)}</p>"
    return f"{head}\n{_table([('seen', finding.seen), ('why', finding.why), ('try', finding.advice)])}"


def _plots(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A chart for each figure that the steps told, one line for each phase."""
    told: dict[str, dict[str, list[tuple[float, float]]]] = collections.defaultdict(dict)
    for row in rows:
        for name, value in row["figures"].items():
            told[name].setdefault(row["phase"], []).append((float(row["step"]), float(value)))
    charts = []
    for name in [*(name for name in _PLOTS if name in told), *(name for name in told if name not in _PLOTS)]:
        title, unit = _PLOTS.get(name, (name.replace("_", " "), ""))
        lines = [plotting.Series(phase, points) for phase, points in told[name].items()]
        if chart := plotting.line_chart(title, lines, unit):
            charts.append(f"<figure>{chart}<figcaption>{_caption(title, unit, lines)}</figcaption></figure>")
    return ['<div class="plots">', *charts, "</div>"] if charts else []


def _caption(title: str, unit: str, lines: Sequence[plotting.Series]) -> str:
    said = html.escape(title) + (f" <span class='soft'>{html.escape(unit)}</span>" if unit else "")
    if len(lines) == 1:
        return said
    legend = [
        f"<span style='color:var(--line-{number % plotting.COLOURS + 1})'>{html.escape(line.name)}</span>"
        for number, line in enumerate(lines)
    ]
    return f"{said}: {', '.join(legend)}"


def _sample(sample: Sample) -> str:
    said = [("asked", sample.prompt), ("before", sample.before), ("after", sample.after)]
    return "\n".join(
        f"<div class='soft'>{name}</div><blockquote>{html.escape(body)}</blockquote>" for name, body in said
    )


def _tree(twig: show.Twig) -> str:
    inside = "".join(_tree(other) for other in twig.twigs)
    return f"<li>{html.escape(twig.words)}{f'<ul>{inside}</ul>' if inside else ''}</li>"
