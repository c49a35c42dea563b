"""`trimtab feedback`: what people think of answers, in and traced."""

import pathlib
from typing import Annotated

import typer

from trimtab.cli.commands import completing, options, send

app = typer.Typer(no_args_is_help=True, help="Bring feedback in; ask what became of it.")
app.add_typer(send.app, name="send")


@app.command("import")
def feedback_import(
    file: Annotated[pathlib.Path, typer.Argument(help="The file; .gz is read as it is.", exists=True, dir_okay=False)],
    format_: Annotated[str, typer.Option("--format", help="hh-rlhf: JSON lines of {chosen, rejected} dialogues.")],
    state: options.State = options.STATE,
    line: options.Line = "",
    json: options.Json = False,
) -> None:
    """Replay human preferences through the feedback service and train a reward model on them.

    Prints the reward model's held-out accuracy and NLL beside a bag-of-words line on the same split. Importing the
    same file again counts nothing twice.
    """
    from trimtab.cli.feedback import importing

    options.run(importing.import_file(state, line, file, format_, json))


@app.command("judge")
def feedback_judge(
    completion: Annotated[
        list[str] | None, typer.Argument(metavar="COMPLETION...", help="Completions with several choices.")
    ] = None,
    *,
    file: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--file",
            help='JSONL of {"completion": ID}, {"first": "ID:0", "second": "ID:1"}, {"prompt": TEXT, "answers": '
            '[TEXT, TEXT]}, or {"chosen", "rejected"} dialogues; .gz is read as it is.',
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    url: Annotated[str, typer.Option("--url", help="OpenAI-compatible endpoint, e.g. http://127.0.0.1:8000/v1.")] = "",
    model: Annotated[str, typer.Option("--model", help="The model that the endpoint is to ask.")] = "",
    api_key: Annotated[
        str, typer.Option("--api-key", envvar="TRIMTAB_JUDGE_API_KEY", help="Of the endpoint.", show_default=False)
    ] = "",
    reward: Annotated[
        str,
        typer.Option(
            "--reward",
            help="Ask a reward model of this platform instead: the beginning of its id.",
            autocompletion=completing.rewards,
        ),
    ] = "",
    criterion: Annotated[str, typer.Option("--criterion", help="What is judged, e.g. helpful.")] = "",
    guideline: Annotated[
        str, typer.Option("--guideline", help="What makes an answer better: ends the sentence “The better answer …”.")
    ] = "",
    limit: Annotated[int, typer.Option("--limit", min=100, help="Characters of each text that the judge sees.")] = 6000,
    at_once: Annotated[int, typer.Option("--at-once", min=1, help="Pairs judged at the same time.")] = 8,
    critiques: Annotated[
        bool, typer.Option("--critiques", help="Read what people wrote about the answers instead: thumbs.")
    ] = False,
    state: options.State = options.STATE,
    json: options.Json = False,
) -> None:
    """Let a model compare answers (RLAIF), and send its verdicts as feedback of a rater of kind `model`.

    Each pair is asked in both orders at temperature 0: only a verdict that stays when the answers change places is
    sent, and an unreadable reply is none. What people wrote about an answer is shown beside it. Texts that the platform
    does not know come in with the verdict. With --critiques the model reads what people wrote about each answer, and
    sends a thumb that names what it read. Asking again counts nothing twice. Prints how often the judge is consistent,
    and how often it agrees with people who judged the same.
    """
    from trimtab.cli.feedback.rlaif import judging

    asked = judging.Asked(
        completion or (), file, url, model, api_key, reward, criterion, guideline, limit, at_once, critiques
    )
    options.run(judging.judge(state, asked, json))


@app.command("trace")
def feedback_trace(
    identity: Annotated[str, typer.Argument(metavar="ID", help="A completion, feedback or example id.")],
    state: options.State = options.STATE,
    json: options.Json = False,
) -> None:
    """Show the chain an id belongs to: completion, feedback, example, data set, run, model, release."""
    from trimtab.cli.models import inspecting

    options.run(inspecting.trace(state, identity, json))
