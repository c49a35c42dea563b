"""`trimtab eval`: policies and reward models on sets of one's own. Registered by `cli.commands.root`."""

import pathlib
from typing import Annotated

import typer

from trimtab.cli.commands import completing, options


def evaluate(
    policy: Annotated[
        str,
        typer.Argument(
            help="A policy that is served: stable, candidate, line@policy, or the beginning of an id.",
            autocompletion=completing.served,
        ),
    ] = "",
    *,
    against: Annotated[
        str, typer.Option("--against", help="Another one, to compare it with on the same prompts.")
    ] = "",
    prompts: Annotated[
        pathlib.Path | None,
        typer.Option("--prompts", help="JSONL of prompts for the policy.", exists=True, dir_okay=False),
    ] = None,
    preferences: Annotated[
        pathlib.Path | None,
        typer.Option("--preferences", help="JSONL of preferences for the reward model.", exists=True, dir_okay=False),
    ] = None,
    reward: Annotated[
        str,
        typer.Option(
            "--reward",
            help="Reward model: the beginning of its id; the line's latest that passed if left out.",
            autocompletion=completing.rewards,
        ),
    ] = "",
    seed: Annotated[int, typer.Option("--seed", help="Of the first prompt's answer; each next one has the next.")] = 0,
    output: Annotated[
        pathlib.Path | None, typer.Option("--output", "-o", help="JSON file for results, every answer and every score.")
    ] = None,
    state: options.State = options.STATE,
    json: options.Json = False,
) -> None:
    """Measure a policy on your prompts, and a reward model on your preferences.

    Prompts, one JSON object a line:
    {"prompt": "Where is the lamp?"}
    {"messages": [{"role": "user", "content": "Where is the lamp?"}]}

    The policy answers each once, and the reward model scores the answers:
    mean reward and length with 95 % intervals; how many answers ended, were
    truncated or refused; the paired difference --against another policy.

    Preferences, one JSON object a line (a prompt is text or turns):
    {"prompt": "Where is the lamp?", "chosen": "Upstairs.", "rejected": "No."}

    Accuracy and NLL of the reward model with 95 % intervals, beside bags of
    words fitted to what it was trained on.

    Nothing that is asked here is kept, is evidence, or trains anything.
    """
    from trimtab.cli.evaluation import evaluating

    policies = [name for name in (policy, against) if name]
    asked = evaluating.Asked(policies, prompts, preferences, reward, seed, output)
    options.run(evaluating.evaluate(state, asked, json))
