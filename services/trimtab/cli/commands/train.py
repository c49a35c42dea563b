"""`trimtab train`: training runs."""

import pathlib
import sys
from typing import Annotated

import typer

from trimtab.cli.commands import completing, options
from trimtab.core import runs
from trimtab.trainer import recipes

app = typer.Typer(no_args_is_help=True, help="Training runs.")
Watch = Annotated[bool, typer.Option("--watch", help="Follow it to its end; exit code 1 unless it succeeds.")]


def _input(name: str, what: str) -> typer.models.OptionInfo:
    told = f"{what}: an id, or the beginning of one."
    return typer.Option(f"--{name}", help=told, autocompletion=completing.models)  # type: ignore[no-any-return]


def _methods() -> str:
    return "; ".join(f"{kind.value}: {method.what}" for kind, method in recipes.METHODS.items()) + "."


@app.command("runs")
def train_runs(state: options.State = options.STATE, json: options.Json = False) -> None:
    """Every training run, oldest first."""
    from trimtab.cli.models import inspecting

    options.run(inspecting.runs(state, json))


@app.command("reproduce")
def train_reproduce(
    run: options.Run,
    state: options.State = options.STATE,
    json: options.Json = False,
) -> None:
    """Run a published run again, from the registry alone, and compare every file it makes.

    Exit code 0 when all are equal, byte by byte. Needs no running platform.
    """
    from trimtab.cli.models import reproducing

    sys.exit(reproducing.reproduce(state, run, json))


@app.command("show")
def train_show(
    run: options.Run, watch: Watch = False, state: options.State = options.STATE, json: options.Json = False
) -> None:
    """A run: what it was asked for, its inputs, settings and figures, its models and their gates in words."""
    from trimtab.cli.models import training

    sys.exit(options.run(training.shown(state, run, watch, json)))


@app.command("report")
def train_report(
    run: options.Run,
    output: Annotated[
        pathlib.Path | None, typer.Option("--output", "-o", help="The page's file; default: RUN.html here.")
    ] = None,
    samples: Annotated[
        int,
        typer.Option("--samples", min=0, help="Held-out prompts that the policy answers as it was and as it became."),
    ] = 4,
    state: options.State = options.STATE,
) -> None:
    """Write a run as one HTML page that needs nothing else: plots over the steps, gates, answers, lineage."""
    from trimtab.cli.models import reporting

    options.run(reporting.report(state, run, output, samples))


@app.command("diagnose")
def train_diagnose(run: options.Run, state: options.State = options.STATE, json: options.Json = False) -> None:
    """What a run's figures say went wrong: what was seen, why that means it, which setting to try."""
    from trimtab.cli.models import diagnosing

    options.run(diagnosing.diagnose(state, run, json))


@app.command("sampler")
def train_sampler(run: options.Run, state: options.State = options.STATE) -> None:
    """Serve a run that was started with `sampler`: its policy, and its newer weights as it writes them down.

    Needs a run that has started; ends with it.
    """
    from trimtab.cli.machine import sampling

    sampling.serve(state, run)


@app.command("start")
def train_start(
    kind: Annotated[runs.RunKind, typer.Argument(help=_methods(), show_choices=False, metavar="METHOD")],
    *,
    parent: Annotated[str, _input("parent", "What the weights start from")],
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            help="Data set: an id, the beginning of one, or a JSONL file of {messages}, {prompt, response}, "
            "{prompt, chosen, rejected} or {text}. A reward run without one cuts one of all feedback.",
        ),
    ] = "",
    reward: Annotated[
        str, _input("reward", "Reward model that ppo, a2c, rloo or grpo learns from, or a reward run is compared with")
    ] = "",
    judge: Annotated[str, _input("judge", "Evaluation reward model that the gates ask")] = "",
    reference: Annotated[
        str, _input("reference", "Policy that KL is measured to; the parent unless given, where a method needs one")
    ] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same weights.")] = 0,
    label: Annotated[str, typer.Option("--label", help="What the run is called in reports.")] = "",
    line: Annotated[str, typer.Option("--line", help="Policy line; the platform's own when left out.")] = "",
    watch: Watch = False,
    state: options.State = options.STATE,
    json: options.Json = False,
) -> None:
    """Ask for a training run. It waits for its turn; its models are published when it succeeds."""
    from trimtab.cli.models import training

    inputs = {
        "parent_id": parent,
        "dataset_id": dataset,
        "reward_id": reward,
        "evaluation_reward_id": judge,
        "reference_id": reference,
    }
    asked = training.Asked(kind, line, inputs, settings or (), seed, label)
    sys.exit(options.run(training.start(state, asked, watch, json)))


@app.command("cancel")
def train_cancel(run: options.Run, reason: options.Reason, state: options.State = options.STATE) -> None:
    """End a run that waits or works. Nothing of it is published."""
    from trimtab.cli.models import training

    options.run(training.cancel(state, run, reason))
