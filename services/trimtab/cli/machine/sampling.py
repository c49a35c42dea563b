"""`trimtab train sampler`: the process that draws a run's answers, replaced as the run's weights move on.

One process serves one policy for life: first the one that the run starts from, then each that the run writes down on
its way (`trainer.links.snapshots`), all at the address that the run's setting `sampler` names.
"""

import os
import pathlib
import subprocess
import sys
import threading

from trimtab.cli import show
from trimtab.cli.machine import platform
from trimtab.core import errors
from trimtab.trainer import recipes, record
from trimtab.trainer.links import snapshots

_LOOK_EVERY_S = 0.2


def serve(state: pathlib.Path, beginning: str) -> None:
    """Until the run ends, or Ctrl-C. NotFound while no run whose id begins so has started."""
    layout = platform.Layout(state)
    found = sorted(path for path in layout.runs.glob(f"{beginning}*") if (path / record.STARTED).exists())
    if not found:
        raise errors.NotFound("started run", beginning)
    if len(found) > 1:
        raise errors.InvalidField("run", f"{beginning!r} begins {len(found)} ids", "give more of it")
    screen = show.Screen()
    follow(found[0], layout.environment(), threading.Event(), screen)
    screen.say(f"run {found[0].name} has ended")


def follow(folder: pathlib.Path, environment: dict[str, str], stop: threading.Event, screen: show.Screen) -> None:
    """Serves what a run's sampler should be, until it ends or `stop` is set. environment: what processes are told.

    InvalidField where the run names no sampler, WrongState when a process ends by itself.
    """
    started = record.read(folder)
    settings = recipes.parse(started.kind, started.settings_json)
    if not isinstance(settings, recipes.OnPolicySettings) or not settings.sampler:
        raise errors.InvalidField("run", "draws its answers in process", "start one with the setting `sampler`")
    first = snapshots.Snapshot(0, environment["TRIMTAB_REGISTRY_URL"], started.parent_id)
    serving, child = None, None
    try:
        while not any((folder / name).exists() for name in (record.RESULT, record.PROBLEM)):
            newest = [first, *snapshots.Snapshots(folder).all()][-1]
            if newest != serving:
                _end(child)
                screen.say(f"{settings.sampler} serves the weights of iteration {newest.iteration}, {newest.model_id}")
                serving, child = newest, _start(newest, settings.sampler, environment)
            elif child is not None and (code := child.poll()) is not None:
                raise errors.WrongState(f"The policy process at {settings.sampler} ended with code {code}; see above.")
            if stop.wait(_LOOK_EVERY_S):
                return
    finally:
        _end(child)


def _start(one: snapshots.Snapshot, address: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    words = ("policy", "--model-id", one.model_id, "--registry-url", one.registry_url, "--listen", address)
    return subprocess.Popen([sys.executable, "-m", "trimtab.cli.app", *words], env=os.environ | environment)


def _end(child: subprocess.Popen[bytes] | None) -> None:
    """What it has begun to answer it answers to the end."""
    if child is not None:
        child.terminate()
        child.wait()
