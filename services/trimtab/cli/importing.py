"""`trimtab feedback import`: human preferences from elsewhere, through the feedback service, into a reward model."""

import asyncio
import gzip
import hashlib
import json
import pathlib
from collections.abc import Sequence

from trimtab.cli import artifacts, platform, show
from trimtab.core import errors, feedback, ledger, models, runs, text

_BATCH = 50
_JOIN_LIMIT_S = 120.0
_TURN = {"\n\nHuman:": text.Role.USER, "\n\nAssistant:": text.Role.ASSISTANT}


async def import_file(state: pathlib.Path, file: pathlib.Path, format_: str, as_json: bool) -> None:
    """Reads, sends, waits for the join, trains, and prints the reward model's card."""
    if format_ != "hh-rlhf":
        raise errors.InvalidField("--format", f"{format_!r} is not known", "use hh-rlhf")
    screen = show.Screen()
    items, left_out = read_hh_rlhf(file)
    for reason, lines in left_out.items():
        screen.say(f"  left out {len(lines)} of {len(items) + len(lines)}: {reason} (lines {_listed(lines)})")
    layout = platform.Layout(state)
    async with platform.doors(layout) as doors:
        counted = await _send(doors, items, screen)
        await _joined(doors, screen)
        run, published = await _train(doors, layout, items, screen)
    if as_json:
        screen.json({"import": counted, "run": run.id, "figures": {f.name: f.value for f in run.figures}})
        return
    show_card(screen, run, published)


def read_hh_rlhf(file: pathlib.Path) -> tuple[list[feedback.ImportedPreference], dict[str, list[int]]]:
    """The pairs of a file in Anthropic's hh-rlhf format, and the lines that hold none, by reason.

    InvalidField names the first line that is not of the format at all.
    """
    content = file.read_bytes()
    if file.suffix == ".gz":
        content = gzip.decompress(content)
    items: list[feedback.ImportedPreference] = []
    left_out: dict[str, list[int]] = {}
    for number, line in enumerate(content.splitlines(), 1):
        try:
            pair = json.loads(line)
            items.append(_preference(pair["chosen"], pair["rejected"]))
        except _NotOneAnswer as problem:
            left_out.setdefault(str(problem), []).append(number)
        except (ValueError, KeyError, TypeError) as problem:
            raise errors.InvalidField(
                f"line {number}", f"is not a pair of dialogues ({problem})", "give {chosen, rejected} per line"
            ) from problem
    return items, left_out


class _NotOneAnswer(Exception):
    """The two dialogues differ in more than one answer, so the preference is about no answer of its own."""

    def __init__(self) -> None:
        super().__init__("the dialogues differ before the assistant's last turn")


def _listed(lines: Sequence[int]) -> str:
    return ", ".join(str(number) for number in lines[:5]) + (" …" if len(lines) > 5 else "")


def _preference(chosen: str, rejected: str) -> feedback.ImportedPreference:
    """Both dialogues share all but their last turn, the assistant's; that turn is what was compared."""
    turns, other = _turns(chosen), _turns(rejected)
    answers = turns[-1][0] is text.Role.ASSISTANT and other[-1][0] is text.Role.ASSISTANT
    if not answers or turns[:-1] != other[:-1]:
        raise _NotOneAnswer
    return feedback.ImportedPreference(
        prompt=tuple(text.Message(role, text.Text(body)) for role, body in turns[:-1]),
        preferred=text.Text(turns[-1][1]),
        rejected=text.Text(other[-1][1]),
        item=hashlib.sha256(f"{chosen}\x1f{rejected}".encode()).hexdigest()[:32],
    )


def _turns(dialogue: str) -> list[tuple[text.Role, str]]:
    turns: list[tuple[text.Role, str]] = []
    rest = dialogue
    if not rest.strip():
        raise ValueError("a dialogue is empty")
    while rest:
        marker = next((marker for marker in _TURN if rest.startswith(marker)), None)
        if marker is None:
            raise ValueError("a dialogue is turns that begin with Human: or Assistant:")
        rest = rest[len(marker) :]
        ends = [position for position in (rest.find(other) for other in _TURN) if position >= 0]
        end = min(ends, default=len(rest))
        turns.append((_TURN[marker], rest[:end].strip()))
        rest = rest[end:]
    return turns


async def _send(
    doors: platform.Doors, items: Sequence[feedback.ImportedPreference], screen: show.Screen
) -> dict[str, int]:
    counted = {"accepted": 0, "duplicates": 0, "refused": 0}
    reasons: dict[str, int] = {}
    with screen.step(f"sending {len(items):,} preferences through the feedback service") as step:
        for start in range(0, len(items), _BATCH):
            request = feedback.ImportPreferencesRequest(
                doors.facts.tenant, doors.facts.line, "hh-rlhf", tuple(items[start : start + _BATCH])
            )
            answer = await doors.feedback.import_preferences(request, timeout_s=60)
            counted["accepted"] += answer.accepted
            counted["duplicates"] += answer.duplicates
            counted["refused"] += len(answer.refused)
            for refused in answer.refused:
                reasons[refused.refusal.message] = reasons.get(refused.refusal.message, 0) + 1
            step.say(", ".join(f"{number:,} {name}" for name, number in counted.items()))
    for reason, number in reasons.items():
        screen.say(f"    refused {number}: {reason}")
    return counted


async def _joined(doors: platform.Doors, screen: show.Screen) -> None:
    with screen.step("joining them in the ledger") as step:
        async with asyncio.timeout(_JOIN_LIMIT_S):
            while True:
                counts = await doors.ledger.counts(
                    ledger.CountsRequest(doors.facts.tenant, doors.facts.line), timeout_s=10
                )
                step.say(f"{counts.joined:,} joined, {counts.rejected:,} rejected")
                if counts.joined and not counts.waiting and counts.examples >= counts.joined:
                    return
                await asyncio.sleep(0.5)


async def _train(
    doors: platform.Doors,
    layout: platform.Layout,
    items: Sequence[feedback.ImportedPreference],
    screen: show.Screen,
) -> tuple[runs.Run, tuple[models.PublishedModel, ...]]:
    """A small reward model from random weights, so that what it learns it learns from these preferences."""
    tenant, line = doors.facts.tenant, doors.facts.line
    with screen.step("training a reward model on them") as step:
        texts = [message.content.read() for item in items for message in item.prompt]
        texts += [item.preferred.read() for item in items] + [item.rejected.read() for item in items]
        base = await asyncio.to_thread(artifacts.publish_reward_base, layout, texts, tenant, line)
        spec = runs.RunSpec(tenant, line, runs.RunKind.REWARD, parent_id=base, label="imported preferences")
        run = await doors.trainer.start_run(runs.StartRunRequest(spec, "trimtab feedback import"), timeout_s=60)
        run = await platform.finished(doors, run, step.say)
    detail = await doors.trainer.get_run(runs.GetRunRequest(tenant, run.id), timeout_s=10)
    return run, detail.models


def show_card(screen: show.Screen, run: runs.Run, published: Sequence[models.PublishedModel]) -> None:
    """The reward model's gates and figures, the bag-of-words line beside them."""
    for model in published:
        if model.kind is not models.ModelKind.REWARD:
            continue
        verdict = "its gates passed" if model.passed else "refused at its gates: it will not train a policy"
        screen.say(f"\n[bold]Reward model {model.id[:12]}[/]: {verdict}")
        screen.table(
            ("gate", "figure", "threshold", "passed", "in words"),
            [
                (g.name, f"{g.value:.4f}", f"{g.threshold:.4f}", "yes" if g.passed else "no", g.detail)
                for g in model.gates
            ],
        )
    screen.say("")
    screen.table(
        ("figure", "value"), numbers=("value",), rows=[(figure.name, f"{figure.value:.4f}") for figure in run.figures]
    )
