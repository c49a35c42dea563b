"""`trimtab train diagnose`: what a run's figures say went wrong, by the rules of `trainer.judging.symptoms`."""

import dataclasses
import pathlib

from trimtab.cli import show
from trimtab.cli.machine import platform
from trimtab.cli.models import lineage, recorded, training
from trimtab.trainer.judging import symptoms


async def diagnose(state: pathlib.Path, prefix: str, as_json: bool) -> None:
    """Prints the findings of a run, alarms first."""
    layout = platform.Layout(state)
    async with platform.doors(layout) as doors:
        detail = await training.find(doors, prefix)
    evidence = recorded.evidence(layout, detail, await lineage.releases_of(layout) or ())
    findings = symptoms.diagnose(evidence)
    screen = show.Screen(as_json)
    if as_json:
        screen.json({"run_id": detail.run.id, "findings": [dataclasses.asdict(finding) for finding in findings]})
        return
    steps = sum(len(rows) for rows in evidence.phases.values())
    screen.say(f"run {detail.run.id}, {detail.run.spec.kind.value}: {detail.run.state.value}, {steps:,} steps told\n")
    for finding in findings:
        colour = "red" if finding.alarm else "yellow"
        screen.say(f"[{colour}]{show.literal(finding.name)}[/]")
        for name, words in (("seen", finding.seen), ("why", finding.why), ("try", finding.advice)):
            screen.say(f"  {name:4}  {show.literal(words)}")
        screen.say("")
    if not findings:
        screen.say("Nothing in its figures says that something went wrong.")
        if not steps:
            screen.say("It has told of no step: its folder is gone, or it has not begun.")
