"""`trimtab feedback send`: one command a kind of feedback; what may be said beside is the same for all."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from trimtab.cli.commands import options

if TYPE_CHECKING:
    import trimtab_client
    from trimtab.cli.feedback.giving import Giver

app = typer.Typer(no_args_is_help=True, help="Say what people think of an answer.")
Answer = Annotated[str, typer.Argument(metavar="ANSWER", help="The id of a completion; ID:1 is its second choice.")]
RaterKind = Literal["user", "annotator", "model"]


def _option(name: str, of: Any, default: Any, told: str, metavar: str | None = None) -> inspect.Parameter:
    annotation = Annotated[of, typer.Option(f"--{name.replace('_', '-')}", help=told, metavar=metavar)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


# What may be said beside feedback of any kind, by the names that `trimtab_client` knows.
_DETAILS = (
    _option("id", str, "", "Idempotency key: the same id with the same feedback counts once. A new one if left out."),
    _option("rater", str, "", "Who says it; the session itself if left out."),
    _option("rater_kind", RaterKind, "user", "What the rater is."),
    _option("network", str, "", "The IP address it was said from; a keyed hash of its network is kept."),
    _option("surface", str, "", "Where it was said, e.g. chat."),
    _option("criterion", str, "", "What was judged, e.g. helpful."),
)
_SUPERSEDES = _option(
    "supersedes", list[str], (), "Earlier feedback on the answer that this replaces; repeatable.", "ID"
)
_PLACE = (
    inspect.Parameter("state", inspect.Parameter.KEYWORD_ONLY, default=options.STATE, annotation=options.State),
    inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=options.Json),
)
_Say = Callable[..., "trimtab_client.Receipt"]


def _kind(name: str, *more: inspect.Parameter) -> Callable[[_Say], _Say]:
    """Makes a command of `say(giver, own parameters, **details)`: its own parameters, `more`, then the shared ones.

    A parameter called `line` is the client's, and not handed to `say`.
    """

    def register(say: _Say) -> _Say:
        _, *own = inspect.signature(say).parameters.values()

        def command(**given: Any) -> None:
            from trimtab.cli.feedback import giving

            state, json, line = given.pop("state"), given.pop("json"), given.pop("line", "")
            giving.send(state, line, json, lambda giver: say(giver, **given))

        said = [one for one in own if one.kind is not inspect.Parameter.VAR_KEYWORD]
        parameters = [*said, *more, *_DETAILS, *_PLACE]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        command.__doc__ = say.__doc__
        app.command(name)(command)
        return say

    return register


@_kind("thumb", _SUPERSEDES)
def thumb(giver: "Giver", answer: Answer, verdict: Literal["up", "down"], **details: Any) -> "trimtab_client.Receipt":
    """Good or bad."""
    return giver.give.thumb(giver.target(answer), up=verdict == "up", **details)


@_kind("rating", _SUPERSEDES)
def rating(
    giver: "Giver",
    answer: Answer,
    stars: Annotated[int, typer.Argument(help="1 to the scale.")],
    *,
    scale: Annotated[int, typer.Option("--scale", help="The best there is to give, 2 to 100.")] = 5,
    **details: Any,
) -> "trimtab_client.Receipt":
    """Stars."""
    return giver.give.rate(giver.target(answer), stars=stars, scale=scale, **details)


@_kind("comparison", _SUPERSEDES)
def comparison(
    giver: "Giver",
    better: Annotated[str, typer.Argument(help="The better answer.")],
    worse: Annotated[str, typer.Argument(help="The worse one: to the same question, in the same session.")],
    *,
    strength: Annotated[
        float | None, typer.Option("--strength", help="How much better, above 0 and at most 1.")
    ] = None,
    tie: Annotated[bool, typer.Option("--tie", help="Neither is better.")] = False,
    **details: Any,
) -> "trimtab_client.Receipt":
    """Which of two answers is better, or that neither is. An answer is ID, or ID:1 for its second choice."""
    return giver.give.compare(giver.target(better), giver.target(worse), strength=strength, tie=tie, **details)


@_kind("ranking", _SUPERSEDES)
def ranking(
    giver: "Giver",
    answers: Annotated[list[str], typer.Argument(metavar="ANSWER...", help="Best first; A=B are as good.")],
    **details: Any,
) -> "trimtab_client.Receipt":
    """Several answers to one question from best to worst, e.g. `ranking ID:2 ID:0=ID:1`."""
    return giver.give.rank(giver.places(answers), **details)


@_kind("edit", _SUPERSEDES)
def edit(
    giver: "Giver",
    answer: Answer,
    corrected: Annotated[str, typer.Argument(help="What it should have been; - reads standard input.")],
    **details: Any,
) -> "trimtab_client.Receipt":
    """The answer's text as it should have been."""
    return giver.give.edit(giver.target(answer), giver.words(corrected), **details)


@_kind("demonstration", _SUPERSEDES)
def demonstration(
    giver: "Giver",
    question: Annotated[str, typer.Argument(help="What a user asks.")],
    response: Annotated[str, typer.Argument(help="What to answer; - reads standard input.")],
    *,
    line: Annotated[str, typer.Option("--line", help="The line that should; the platform's own if left out.")] = "",
    **details: Any,
) -> "trimtab_client.Receipt":
    """What the line should answer to a question, which may be one it was never asked."""
    return giver.give.demonstrate(question, giver.words(response), **details)


@_kind("critique", _SUPERSEDES)
def critique(
    giver: "Giver",
    answer: Answer,
    comment: Annotated[str, typer.Argument(help="In words; - reads standard input.")],
    *,
    span: Annotated[
        str, typer.Option("--span", metavar="START:END", help="The characters meant, END not among them.")
    ] = "",
    **details: Any,
) -> "trimtab_client.Receipt":
    """What is good or bad about an answer, in words."""
    return giver.give.critique(giver.target(answer), giver.words(comment), span=giver.span(span), **details)


@_kind("signal", _SUPERSEDES)
def signal(
    giver: "Giver", answer: Answer, what: Literal["copy", "regenerate", "accept", "abandon"], **details: Any
) -> "trimtab_client.Receipt":
    """What the user did with an answer."""
    return giver.give.signal(giver.target(answer), what, **details)


@_kind("retraction")
def retraction(
    giver: "Giver",
    feedback: Annotated[str, typer.Argument(help="The id of the feedback to take back.")],
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why, in the rater's words.")] = "",
    **details: Any,
) -> "trimtab_client.Receipt":
    """Take earlier feedback back."""
    return giver.give.retract(giver.receipt_of(feedback), reason=reason, **details)
