"""What goes to a screen that is no terminal, and the lines that tell how far things are."""

import dataclasses
import datetime
import enum
import json

import pytest

from trimtab.cli import show
from trimtab.cli.machine import platform
from trimtab.cli.models import inspecting
from trimtab.core import completions, examples, feedback, releases, runs, text

NOON = datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC)


class Colour(enum.StrEnum):
    BLUE = "blue"


@dataclasses.dataclass(frozen=True)
class Thing:
    name: str
    parts: tuple["Thing", ...] = ()
    digest: bytes = b""
    told: dict[str, float] = dataclasses.field(default_factory=dict)


def run(state: runs.RunState, step: int = 0, steps: int = 0, **figures: float) -> runs.Run:
    return runs.Run(
        id="run-1",
        spec=runs.RunSpec("demo", "support", runs.RunKind.PPO),
        state=state,
        created_at=NOON,
        step=step,
        steps=steps,
        figures=tuple(runs.RunFigure(name, value) for name, value in figures.items()),
    )


def release(state: releases.ReleaseState, reason: str = "", evidence: releases.Evidence | None = None):
    return releases.Release(
        id="release-1",
        context=text.Context("demo", "support"),
        revision=1,
        candidate_id="c" * 64,
        stable_id="s" * 64,
        anchor_id="s" * 64,
        state=state,
        salt=b"",
        created_at=NOON,
        evidence=evidence,
        history=(releases.Transition(state, NOON, reason, "rollout"),) if reason else (),
    )


def test_a_step_leaves_its_name_its_seconds_and_its_last_words(capsys: pytest.CaptureFixture[str]) -> None:
    screen = show.Screen()
    with screen.step("training a policy") as step:
        step.say("step 1 of 2")
        step.say("step 2 of 2")
    assert capsys.readouterr().out == "  ✓ training a policy 0 s  step 2 of 2\n"
    assert list(screen.times) == ["training a policy"]
    assert 0 <= screen.times["training a policy"] < 5


def test_a_step_done_twice_takes_the_sum(capsys: pytest.CaptureFixture[str]) -> None:
    screen = show.Screen()
    for _ in range(2):
        with screen.step("waiting"):
            pass
    assert capsys.readouterr().out == "  ✓ waiting 0 s\n" * 2
    assert len(screen.times) == 1


def test_a_step_that_fails_is_not_ticked_off(capsys: pytest.CaptureFixture[str]) -> None:
    screen = show.Screen()
    with pytest.raises(LookupError), screen.step("reading"):
        raise LookupError
    assert "✓" not in capsys.readouterr().out
    assert screen.times == {}


def test_a_table_has_its_header_its_rows_and_no_colours(capsys: pytest.CaptureFixture[str]) -> None:
    show.Screen().table(("model", "size"), [("abc", "12"), ("de", "7")], title="[bold]Models[/]", numbers=("size",))
    said = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert said == ["Models", "model  size", "abc      12", "de        7"]


def test_a_table_without_column_names_has_no_header(capsys: pytest.CaptureFixture[str]) -> None:
    show.Screen().table(("", ""), [("state", "/tmp/x"), ("model", "main")])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [["state", "/tmp/x"], ["model", "main"]]


def test_a_long_cell_is_folded_and_nothing_of_it_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    long = "".join(f"{number:04d}" for number in range(100))
    show.Screen().table(("id", "what"), [("x", long)])
    said = capsys.readouterr().out
    assert "".join(said.replace("id", "").replace("what", "").replace("x", "").split()) == long


@pytest.mark.parametrize("words", ["press [menu] now", "[/INST] so", "[bold]", "a [/] b", r"\[x]", "[link=x]y"])
def test_brackets_in_what_others_wrote_are_shown_as_they_are(capsys: pytest.CaptureFixture[str], words: str) -> None:
    screen = show.Screen()
    screen.table(("id", "what"), [("1", words)])
    with screen.step(f"reading {words}") as step:
        step.say(words)
    said = capsys.readouterr().out
    assert f"1   {words}" in said
    assert f"reading {words} 0 s  {words}\n" in said


def test_json_is_on_standard_output_alone(capsys: pytest.CaptureFixture[str]) -> None:
    screen = show.Screen(as_json=True)
    screen.say("by the way")
    with screen.step("working"):
        pass
    value = {"words": "[/INST] ünï", "long": "x" * 500, "none": None, "list": [1, 2.5, True]}
    screen.json(value)
    captured = capsys.readouterr()
    assert json.loads(captured.out) == value
    assert "by the way" in captured.err
    assert "working" in captured.err


def test_plain_says_dataclasses_bytes_and_containers_as_json_does() -> None:
    thing = Thing("a", (Thing("b"), Thing("c")), bytes.fromhex("00ff"), {"loss": 0.5})
    said = inspecting.plain({"things": [thing], "colour": Colour.BLUE, "none": None})
    nothing = {"parts": [], "digest": "", "told": {}}
    assert json.loads(json.dumps(said)) == {
        "things": [
            {
                "name": "a",
                "parts": [{"name": "b"} | nothing, {"name": "c"} | nothing],
                "digest": "00ff",
                "told": {"loss": 0.5},
            }
        ],
        "colour": "blue",
        "none": None,
    }


def test_plain_says_times_as_iso_8601() -> None:
    assert inspecting.plain({"at": NOON}) == {"at": "2026-05-01T12:00:00+00:00"}


@pytest.mark.parametrize(
    "kind",
    [
        feedback.Thumb(text.ResponseRef("chatcmpl-a"), up=True),
        feedback.Comparison(text.ResponseRef("chatcmpl-a"), text.ResponseRef("chatcmpl-a", 1)),
        feedback.Retraction(),
        examples.ThumbExample(text.Text("yes"), up=False),
        examples.PairExample(text.Text("yes"), text.Text("no")),
    ],
)
def test_plain_names_the_kind_of_feedback_and_of_examples(kind: feedback.Kind | examples.Kind) -> None:
    said = inspecting.plain(kind)
    assert said.pop("type") == type(kind).__name__
    assert said.keys() == {field.name for field in dataclasses.fields(kind)}


def test_a_run_says_how_far_it_is_and_its_figures_of_the_moment() -> None:
    assert platform.describe_run(run(runs.RunState.QUEUED)) == "waits for its turn"
    assert platform.describe_run(run(runs.RunState.RUNNING)) == "loading"
    going = run(runs.RunState.RUNNING, 3, 20, score=0.51234, kl_nats=2.0, not_told=9.0)
    assert platform.describe_run(going) == "step 3 of 20, score 0.512, KL 2"


@pytest.mark.parametrize("state", [runs.RunState.SUCCEEDED, runs.RunState.FAILED, runs.RunState.CANCELLED])
def test_a_run_that_ended_says_its_figures_or_how_it_ended(state: runs.RunState) -> None:
    assert platform.describe_run(run(state, 20, 20)) == state.value
    assert platform.describe_run(run(state, 20, 20, pair_accuracy=0.75)) == "held-out accuracy on pairs 0.75"


@pytest.mark.parametrize("state", releases.ReleaseState)
def test_a_release_says_its_state_and_the_last_reason(state: releases.ReleaseState) -> None:
    spelled = state.value.replace("_", " ")
    assert platform.describe_release(release(state)) == spelled
    assert platform.describe_release(release(state, "Because.")) == f"{spelled}: Because."


def test_a_release_that_is_judged_says_what_the_votes_say() -> None:
    arms = (
        releases.ArmEvidence(completions.Arm.STABLE, sessions=60, voted=50, approval=0.4),
        releases.ArmEvidence(completions.Arm.CANDIDATE, sessions=60, voted=48, approval=0.625),
    )
    judged = release(
        releases.ReleaseState.EVIDENCE, "On to it.", releases.Evidence(arms, difference=0.2, lower=-0.05, upper=0.5)
    )
    assert platform.describe_release(judged) == (
        "evidence: approval stable 0.40 of 50, candidate 0.62 of 48; difference -0.05 to +0.50"
    )
