"""`trimtab feedback import`: human preferences from elsewhere, through the feedback service, into a reward model."""

import asyncio
import dataclasses
import functools
import gzip
import hashlib
import json
import pathlib
import time
import zlib
from collections.abc import Sequence
from typing import Any

from trimtab.cli import show
from trimtab.cli.machine import artifacts, operating, platform
from trimtab.core import errors, feedback, ids, ledger, models, runs, text

# Where such preferences come from, as the records name it.
HH_RLHF = "hh-rlhf"
_BATCH = 50
_JOIN_LIMIT_S = 120.0
_LOOK_EVERY_S = 0.5
# What did best on held-out preferences for a model of one layer with random weights; a third epoch overfits.
_SETTINGS = {"lr": 2e-3, "epochs": 2}
_TURN = {"\n\nHuman:": text.Role.USER, "\n\nAssistant:": text.Role.ASSISTANT}


@dataclasses.dataclass(frozen=True, slots=True)
class Counted:
    """What became of the file's lines: new + known + refused + left_out.

    known: counted at an earlier import, or twice in this file.
    """

    new: int
    known: int
    refused: int
    left_out: int


async def import_file(state: pathlib.Path, line: str, file: pathlib.Path, format_: str, as_json: bool) -> None:
    """Reads, sends, waits for the join, trains, and prints the reward model's card."""
    if format_ != HH_RLHF:
        raise errors.InvalidField("--format", f"{format_!r} is not known", "use hh-rlhf")
    screen = show.Screen(as_json)
    items, left_out = read_hh_rlhf(file)
    for reason, lines in left_out.items():
        screen.say(f"  left out {len(lines)} of {len(items) + len(lines)}: {reason} (lines {_listed(lines)})")
    if not items:
        raise errors.InvalidField("file", f"{str(file)!r} holds no preference", "give {chosen, rejected} per line")
    layout = platform.Layout(state)
    async with platform.doors(layout, line) as doors:
        before = await _counts(doors)
        accepted, known, refused = await _send(doors, items, f"{len(items):,} preferences of {file.name}", screen)
        new = await _joined(doors, before, accepted, screen)
        counted = Counted(new, accepted - new + known, refused, sum(len(lines) for lines in left_out.values()))
        if counted.known:
            screen.say(f"  {counted.known:,} of them were known already, and nothing is counted twice")
        run, published = await _train(doors, layout, items, f"on preferences of {file.name}", screen)
    show_card(screen, run, published)
    if as_json:
        screen.json(_document(counted, run, published))


def read_hh_rlhf(file: pathlib.Path) -> tuple[list[feedback.ImportedPreference], dict[str, list[int]]]:
    """The pairs of a file in Anthropic's hh-rlhf format, and the lines that hold none, by reason.

    InvalidField names the first line that is not of the format at all.
    """
    content = content_of(file)
    items: list[feedback.ImportedPreference] = []
    left_out: dict[str, list[int]] = {}
    for number, line in enumerate(content.splitlines(), 1):
        try:
            pair = json.loads(line)
            items.append(preference_of(pair["chosen"], pair["rejected"]))
        except NotOneAnswer as problem:
            left_out.setdefault(str(problem), []).append(number)
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            raise errors.InvalidField(
                f"line {number}", f"is not a pair of dialogues ({problem})", "give {chosen, rejected} per line"
            ) from problem
    return items, left_out


def content_of(file: pathlib.Path) -> bytes:
    """The file's bytes, unpacked where it is a .gz; InvalidField where it is none."""
    content = file.read_bytes()
    if file.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as problem:
        raise errors.InvalidField("file", f"{str(file)!r} is no gzip file ({problem})", "name a whole one") from problem


class NotOneAnswer(Exception):
    """The two dialogues differ in more than one answer, so the preference is about no answer of its own."""

    def __init__(self) -> None:
        super().__init__("the dialogues differ before the assistant's last turn")


def _listed(lines: Sequence[int]) -> str:
    return ", ".join(str(number) for number in lines[:5]) + (" …" if len(lines) > 5 else "")


def preference_of(chosen: str, rejected: str) -> feedback.ImportedPreference:
    """Both dialogues share all but their last turn, the assistant's; that turn is what was compared."""
    turns, other = _turns(chosen), _turns(rejected)
    answers = turns[-1][0] is text.Role.ASSISTANT and other[-1][0] is text.Role.ASSISTANT
    if not answers or turns[:-1] != other[:-1]:
        raise NotOneAnswer
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
    doors: platform.Doors, items: Sequence[feedback.ImportedPreference], what: str, screen: show.Screen
) -> tuple[int, int, int]:
    """How many the feedback service accepted, knew already, and refused."""
    tenant, line = doors.facts.tenant, doors.facts.line
    # of the content: bringing the same again is no other act
    act = str(ids.content_uuid("feedback.import", tenant, line, *(item.item for item in items)))
    accepted = known = 0
    refused: dict[str, int] = {}
    with screen.step(f"sending {len(items):,} preferences through the feedback service") as step:
        for start in range(0, len(items), _BATCH):
            request = feedback.ImportPreferencesRequest(
                tenant, line, HH_RLHF, tuple(items[start : start + _BATCH]), operating.operator(), what, act
            )
            ask = functools.partial(doors.feedback.import_preferences, request, timeout_s=60)
            answer = await platform.patiently(ask)
            accepted += answer.accepted
            known += answer.duplicates
            for item in answer.refused:
                refused[item.refusal.message] = refused.get(item.refusal.message, 0) + 1
            step.say(f"{accepted:,} accepted, {known:,} known already, {sum(refused.values()):,} refused")
    for reason, number in refused.items():
        screen.say(f"    refused {number}: {reason}")
    return accepted, known, sum(refused.values())


def _unjoined(counts: ledger.CountsResponse) -> int:
    return counts.waiting + counts.unjoinable


async def _counts(doors: platform.Doors) -> ledger.CountsResponse:
    return await doors.ledger.counts(ledger.CountsRequest(doors.facts.tenant, doors.facts.line), timeout_s=10)


async def _joined(doors: platform.Doors, before: ledger.CountsResponse, accepted: int, screen: show.Screen) -> int:
    """Waits until the ledger has read all that was accepted; how many of them it had not counted before.

    The feedback service remembers so many ids and forgets them when it restarts: what it accepts again, the ledger
    finds to be copies.
    """
    deadline = time.monotonic() + _JOIN_LIMIT_S
    with screen.step("joining them in the ledger") as step:
        while True:
            now = await _counts(doors)
            new, copies = now.feedback - before.feedback, now.duplicates - before.duplicates
            step.say(f"{new:,} new, {copies:,} counted before, of {accepted:,}")
            if new + copies >= accepted and _unjoined(now) <= _unjoined(before):
                return min(new, accepted)
            if time.monotonic() > deadline:
                raise errors.DeadlineExceeded(
                    f"The ledger has joined {new + copies:,} of {accepted:,} preferences within {_JOIN_LIMIT_S:.0f} s; "
                    "look into its log and import the file again: nothing counts twice."
                )
            await asyncio.sleep(_LOOK_EVERY_S)


async def _train(
    doors: platform.Doors,
    layout: platform.Layout,
    items: Sequence[feedback.ImportedPreference],
    why: str,
    screen: show.Screen,
) -> tuple[runs.Run, tuple[models.PublishedModel, ...]]:
    """A small reward model from random weights, so that what it learns it learns from these preferences."""
    tenant, line = doors.facts.tenant, doors.facts.line
    with screen.step("making a model with random weights and a tokenizer of these texts"):
        texts = [message.content.read() for item in items for message in item.prompt]
        texts += [item.preferred.read() for item in items] + [item.rejected.read() for item in items]
        base = await asyncio.to_thread(artifacts.publish_reward_base, layout, texts, tenant, line)
    with screen.step("training a reward model and its judge") as step:
        spec = runs.RunSpec(
            tenant,
            line,
            runs.RunKind.REWARD,
            parent_id=base,
            settings_json=json.dumps(_SETTINGS),
            label="imported preferences",
        )
        request = runs.StartRunRequest(spec, operating.operator(), operating.new_request(), why)
        run = await platform.patiently(lambda: doors.trainer.start_run(request, timeout_s=60))
        run = await platform.finished(doors, run, step.say)
    detail = await doors.trainer.get_run(runs.GetRunRequest(tenant, run.id), timeout_s=10)
    return run, detail.models


def show_card(screen: show.Screen, run: runs.Run, published: Sequence[models.PublishedModel]) -> None:
    """The reward model's gates in words, and its line beside that of bags of words on the same held-out examples."""
    reward = _deciding(published)
    if reward is not None:
        verdict = "its gates passed" if reward.passed else "refused at its gates: it will not train a policy"
        screen.say(f"\n[bold]Reward model {reward.id[: show.SHORT]}[/]: {verdict}")
        for gate in reward.gates:
            passed = "[green]passed[/]" if gate.passed else "[red]not passed[/]"
            screen.say(f"  {passed}  {show.literal(gate.in_words())}, threshold {gate.threshold:.3g}")
    for kind, lines in _held_out(run).items():
        screen.say("")
        screen.table(
            (f"held-out {kind}", "accuracy", "NLL (nats)", "examples judged"),
            numbers=("accuracy", "NLL (nats)", "examples judged"),
            rows=[
                (name, f"{line['accuracy']:.3f}", f"{line['nll_nats']:.4f}", f"{line['examples']:,}")
                for name, line in lines.items()
            ],
        )


def _held_out(run: runs.Run) -> dict[str, dict[str, dict[str, Any]]]:
    """The lines on held-out examples by kind of feedback, the imported one last."""
    told = {figure.name: figure.value for figure in run.figures}
    return {
        f"{kind}s": {
            name: {
                "accuracy": told[f"{prefix}_accuracy"],
                "nll_nats": told[f"{prefix}_nll"],
                "examples": round(told[f"{kind}s_judged"]),
            }
            for name, prefix in (("reward model", kind), ("bag of words", f"{kind}_bag_of_words"))
        }
        for kind in ("thumb", "pair")
        if f"{kind}s_judged" in told
    }


def _document(counted: Counted, run: runs.Run, published: Sequence[models.PublishedModel]) -> dict[str, Any]:
    reward = _deciding(published)
    return {
        "import": dataclasses.asdict(counted),
        "run": run.id,
        "reward_model": reward and {"id": reward.id, "passed": reward.passed},
        "gates": [dataclasses.asdict(gate) for gate in reward.gates] if reward else [],
        "held_out": _held_out(run),
        "figures": {figure.name: figure.value for figure in run.figures},
    }


def _deciding(published: Sequence[models.PublishedModel]) -> models.PublishedModel | None:
    """The model that decides; the other one of the run judges policies."""
    return next((model for model in published if model.kind is models.ModelKind.REWARD), None)
