"""Runs that a person starts, watches, leaves, cancels and reports."""

import re
import signal
import subprocess
import time

import pytest
from tests import timing
from tests.integration.commands.conftest import Recorded
from tests.integration.loop import living

pytestmark = pytest.mark.slow
# More steps than any test waits for.
LONG = ("--set", "epochs=100000", "--set", "batch=1")


def policy(recorded: Recorded) -> str:
    return str(recorded.session.ids["policy"])


def test_ctrl_c_leaves_a_watched_run_at_130_and_it_goes_on_until_it_is_cancelled(recorded: Recorded) -> None:
    data = str(recorded.session.folder / "demonstrations.jsonl")
    words = ("train", "start", "sft", "--parent", policy(recorded), "--dataset", data, *LONG, "--label", "long")
    watching = subprocess.Popen(
        # as at a terminal, also where the tests run in the background and are deaf to it
        ("env", "--default-signal=INT", *living.COMMAND, *words, "--watch", "--state", str(recorded.session.state)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def going() -> str:
        """The run's id once it works."""
        every = recorded.told("train", "runs")
        return "".join(run["id"] for run in every if run["spec"]["label"] == "long" and run["state"] == "running")

    timing.until(lambda: bool(going()), "the run", 60)
    run = going()
    begun = time.monotonic()
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=timing.PATIENCE_S)
    assert time.monotonic() - begun < 10
    assert watching.returncode == 130
    assert "Traceback" not in out + err
    assert "✓" not in out
    assert recorded.told("train", "show", run)["run"]["state"] == "running"
    code, said, _ = recorded.trimtab("train", "cancel", run[:10], "--reason", "enough")
    assert (code, said.startswith(f"run {run}: ")) == (0, True)
    for watched, wanted in (("--watch",), 1), ((), 0):  # a script that waits for a run hears that it came to nothing
        code, shown, _ = recorded.trimtab("train", "show", run, *watched)
        assert code == wanted
        assert re.search(r"state +cancelled", shown)
    code, _, err = recorded.trimtab("train", "cancel", run, "--reason", "again")
    assert (code, "has ended already, as cancelled" in err) == (1, True)


def test_a_run_is_found_by_the_beginning_of_its_id(recorded: Recorded) -> None:
    run = recorded.session.ids["run"]
    for beginning in (run, run[:9], run.removeprefix("run-")[:9]):
        assert recorded.told("train", "show", beginning)["run"]["id"] == run
    code, _, err = recorded.trimtab("train", "show", "nope")
    assert (code, err) == (1, "trimtab: There is no run 'nope'.\n")


def test_a_program_gets_a_run_with_its_models_and_every_setting(recorded: Recorded) -> None:
    shown = recorded.told("train", "show", recorded.session.ids["run"])
    assert shown["run"]["state"] == "succeeded"
    assert [model["id"][:12] for model in shown["models"]] == [recorded.session.ids["made"]]
    assert (shown["settings"]["epochs"], shown["settings"]["batch"]) == (4, 32)


def test_a_report_has_plots_of_every_step_answers_and_lineage(recorded: Recorded) -> None:
    file = recorded.session.folder / "more.jsonl"
    # a hundred prompts, so that some are held out
    file.write_text("".join(f'{{"prompt": "Number {n}?", "response": "It is {n}."}}\n' for n in range(100)))
    words = ("train", "start", "sft", "--parent", policy(recorded), "--dataset", str(file), "--set", "epochs=1")
    run = recorded.told(*words, "--watch")["id"]
    page = recorded.session.folder / "page.html"
    code, said, err = recorded.trimtab("train", "report", run, "-o", str(page), "--samples", "2")
    assert (code, err) == (0, "")
    assert f"{page}: run {run}" in said
    written = page.read_text()
    steps = recorded.told("train", "show", run)["run"]["steps"]
    assert len(re.findall(r"<circle", written)) == 2 * steps  # loss and norm of the gradient
    assert written.count("<div class='soft'>before</div>") == written.count("<div class='soft'>after</div>") == 2
    assert f"weights from policy {policy(recorded)}" in written
    # by now there is a second run
    code, _, err = recorded.trimtab("train", "report", "run-")
    assert (code, "give more of it" in err) == (1, True)


def test_plain_text_makes_a_base_that_demonstrations_make_a_policy_of(recorded: Recorded) -> None:
    """The file goes through the registry and a training process; what comes out is published and is a parent."""
    file = recorded.session.folder / "texts.jsonl"
    file.write_text("".join(f'{{"text": "The house by the river is {n} years old."}}\n' for n in range(120)))
    words = ("train", "start", "pretrain", "--parent", policy(recorded), "--dataset", str(file), "--watch")
    settings = ("--set", "epochs=12", "--set", "lr=0.005", "--set", "batch=4", "--set", "block_tokens=64")
    run = recorded.told("train", "show", recorded.told(*words, *settings)["id"])
    figures = {figure["name"]: figure["value"] for figure in run["run"]["figures"]}
    assert run["run"]["state"] == "succeeded"
    assert 80 < figures["documents"] < 120
    # what no training saw is the same sentence with another number
    assert figures["held_out_bits_per_byte"] < 1.0
    [base] = run["models"]
    assert (base["kind"], base["passed"]) == ("base", True)
    assert base["parents"][0].startswith(policy(recorded)) and len(base["datasets"]) == 1
    data = str(recorded.session.folder / "demonstrations.jsonl")
    words = ("train", "start", "sft", "--parent", base["id"], "--dataset", data, "--set", "epochs=1", "--watch")
    tuned = recorded.told(*words)
    [made] = recorded.told("train", "show", tuned["id"])["models"]
    assert (made["kind"], made["parents"][0]) == ("policy", base["id"])


def test_a_page_that_cannot_be_written_is_a_sentence(recorded: Recorded) -> None:
    code, _, err = recorded.trimtab(
        "train", "report", recorded.session.ids["run"], "-o", str(recorded.session.folder / "none" / "page.html")
    )
    assert (code, "name a file in a folder that is there" in err) == (1, True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("sft", "--parent", "POLICY"), "spec.dataset_id` is empty"),
        (("sft", "--parent", "POLICY", "--dataset", "POLICY"), "names a policy; name a dataset"),
        (("sft", "--parent", "nope"), "There is no model 'nope'"),
        (("sft", "--parent", "POLICY", "--dataset", "DATA", "--set", "epochs"), "give NAME=VALUE"),
        (("sft", "--parent", "POLICY", "--dataset", "DATA", "--set", "epoch=3"), "is not a setting; use one of"),
        (("sft", "--parent", "POLICY", "--dataset", "DATA", "--line", "other"), "There is no line 'other'"),
        (("ppo", "--parent", "POLICY", "--dataset", "DATA"), "spec.reward_id` is empty"),
    ],
)
def test_a_run_that_cannot_start_is_a_sentence(recorded: Recorded, words: tuple[str, ...], sentence: str) -> None:
    given = {"POLICY": policy(recorded), "DATA": str(recorded.session.folder / "demonstrations.jsonl")}
    code, out, err = recorded.trimtab("train", "start", *(given.get(word, word) for word in words))
    assert (code, out) == (1, "")
    assert sentence in err
