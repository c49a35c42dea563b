"""`trimtab deadletter`: records that a consumer refused for ever, and consumers that stand still."""

import sys
from typing import Annotated

import typer

from trimtab.cli.commands import options

app = typer.Typer(no_args_is_help=True, help="Records that were refused for ever: list, show, replay or drop them.")

_Source = Annotated[str, typer.Argument(metavar="SOURCE", help="Where it stood, as `list` says: feedback/3@5.")]
_Sources = Annotated[
    list[str] | None, typer.Argument(metavar="SOURCE...", help="Where they stood, as `list` says: feedback/3@5.")
]
_Topic = Annotated[str, typer.Option("--topic", help="Only those of this topic.")]
_Consumer = Annotated[str, typer.Option("--consumer", help="Only those that this consumer refused, e.g. ledger.")]
_Matching = Annotated[str, typer.Option("--matching", help="Only those whose reason has these words.")]
_All = Annotated[bool, typer.Option("--all", help="Every open one that the filters leave.")]


@app.command("list")
def deadletter_list(
    *,
    topic: _Topic = "",
    consumer: _Consumer = "",
    matching: _Matching = "",
    settled: Annotated[bool, typer.Option("--settled", help="Those that were replayed or dropped instead.")] = False,
    log: options.Log = "",
    state: options.State = options.STATE,
    json: options.Json = False,
) -> None:
    """What was refused, where it stood, by whom and why, oldest first; and which consumers are halted.

    A letter that was written twice is one line. Values are not shown: `trimtab deadletter show`.
    """
    from trimtab.cli.operators import deadletters

    deadletters.show_list(state, log, deadletters.Filter(topic, consumer, matching), settled, json)


@app.command("show")
def deadletter_show(
    source: _Source, log: options.Log = "", state: options.State = options.STATE, json: options.Json = False
) -> None:
    """One letter whole: headers, schema, sizes, and the value as JSON where it can be read, else its first bytes.

    Text that may not be kept, is sealed, or belongs to somebody who is to be forgotten is left out.
    """
    from trimtab.cli.operators import deadletters

    deadletters.show(state, log, source, json)


@app.command("replay")
def deadletter_replay(
    *,
    sources: _Sources = None,
    reason: options.Reason,
    every: _All = False,
    topic: _Topic = "",
    consumer: _Consumer = "",
    matching: _Matching = "",
    log: options.Log = "",
    state: options.State = options.STATE,
    json: options.Json = False,
) -> None:
    """Put records on their own topic again, for consumers that can read them by now; the reason is kept for the audit.

    A record is replayed once: again does nothing, unless it was refused again, which is a new letter. Whatever arrives
    twice has the effect of one. Exit code 1 when a letter stays open.
    """
    from trimtab.cli.operators import deadletters

    chosen = deadletters.Chosen(tuple(sources or ()), every, deadletters.Filter(topic, consumer, matching))
    sys.exit(deadletters.replay(state, log, chosen, reason, json))


@app.command("drop")
def deadletter_drop(
    *,
    sources: _Sources = None,
    reason: options.Reason,
    every: _All = False,
    topic: _Topic = "",
    consumer: _Consumer = "",
    matching: _Matching = "",
    log: options.Log = "",
    state: options.State = options.STATE,
    json: options.Json = False,
) -> None:
    """Mark letters as of no use; the reason goes on the audit trail. Their bytes stay until the topic's retention."""
    from trimtab.cli.operators import deadletters

    chosen = deadletters.Chosen(tuple(sources or ()), every, deadletters.Filter(topic, consumer, matching))
    sys.exit(deadletters.drop(state, log, chosen, reason, json))


@app.command("resume")
def deadletter_resume(
    consumer: Annotated[str, typer.Argument(metavar="CONSUMER", help="The halted consumer, as `trimtab status` says.")],
    reason: options.Reason,
    more: Annotated[
        int, typer.Option("--letters", min=0, help="So many more it may write before its limit counts again.")
    ] = 0,
    log: options.Log = "",
    state: options.State = options.STATE,
) -> None:
    """Let a halted consumer go on, because the records are bad and not the consumer; the reason is kept for the audit.

    A consumer that was corrected needs no word: started again, it goes on by itself. One that runs hears this within
    seconds.
    """
    from trimtab.cli.operators import deadletters

    deadletters.resume(state, log, consumer, more, reason)
