"""`trimtab train reproduce`: shows whether a published run gives the same weights again."""

import dataclasses
import pathlib
import tempfile

from trimtab.cli import show
from trimtab.cli.machine import artifacts, platform
from trimtab.trainer.runs import jobs, reproducing


def reproduce(state: pathlib.Path, beginning: str, as_json: bool) -> int:
    """Runs it again in a scratch folder, prints what is equal; exit code 0 when every file is."""
    layout = platform.Layout(state)
    store = artifacts.open_registry(layout)
    published = reproducing.find(store, beginning)
    screen = show.Screen(as_json)
    with (
        tempfile.TemporaryDirectory(prefix="trimtab-reproduce-") as scratch,
        screen.step(f"running {published[0].method} run {published[0].run_id} again") as step,
    ):
        found = reproducing.reproduce(
            store, published, pathlib.Path(scratch), lambda progress: step.say(_how_far(progress))
        )
    _show(screen, found)
    if as_json:
        screen.json({**dataclasses.asdict(found), "equal": found.equal})
    return 0 if found.equal else 1


def _how_far(progress: jobs.Progress) -> str:
    return f"step {progress.step} of {progress.steps}"


def _show(screen: show.Screen, found: reproducing.Reproduction) -> None:
    screen.say("")
    screen.table(
        ("model", "file", "published", "made again", ""),
        [
            (
                f"{file.kind.replace('_', ' ')} {file.model_id[: show.SHORT]}",
                file.path,
                file.published[: show.SHORT],
                file.made[: show.SHORT],
                _verdict(file),
            )
            for file in found.files
        ],
    )
    screen.say("")
    screen.table(
        ("depends on", "then", "now", ""),
        [(name, then, now, "" if then == now else "changed") for name, then, now in found.versions],
    )
    screen.say("")
    changed = [name for name, then, now in found.versions if then != now]
    if found.equal:
        screen.say(f"[green]equal[/]  every file of run {found.run_id} was made again, byte by byte")
    elif changed:
        screen.say(f"[red]different[/]  other bytes are to be expected under another {', '.join(changed)}")
    else:
        screen.say("[red]different[/]  although nothing that it depends on has changed")


def _verdict(file: reproducing.Compared) -> str:
    if file.equal:
        return "equal"
    if not file.made:
        return "not made"
    return "different" + (f", by {file.difference:.1e} at most" if file.difference is not None else "")
