"""The rollout process: builds its parts and hands them down. `main` is the console command `trimtab rollout`.

The loop is `controller`: it observes, asks `intake`, `steps` and `evidence` what follows, and writes that through
`desk` and `book` to topic `rollouts`; `scoring` works beside it. Operators ask through `servicer` -> `operations`.
Policies run where `local` puts them, on this machine, or `cluster`, on Kubernetes.
docs/concepts/release.md follows one release.
"""

import asyncio
import dataclasses
import os
import shlex
import socket
import sys
import threading
from collections.abc import Callable

from trimtab import registry
from trimtab.bus import fold, topics
from trimtab.core import clock, ids, lines, releases
from trimtab.rollout import (
    backend,
    controller,
    desk,
    intake,
    line,
    local,
    operations,
    processes,
    remote,
    scoring,
    servicer,
    settings,
    shelf,
)
from trimtab.rpc import process

# Of the lease's time, for one call to the cluster: a look that waits for a few of them keeps the lease.
_ONE_CALL = 0.2


def build(config: settings.RolloutSettings) -> process.Process:
    """The process, ready to run."""
    made = process.Process("rollout", config)
    configured = lines.load_lines(config.lines_file)
    log = made.open_log()
    others = remote.Remote(config.ledger_address, config.reward_address, made.secrets.internal_token)
    made.on_close(others.close)
    known = shelf.Shelf(registry.Registry(config.registry_url, config.cache))
    holder = f"{socket.gethostname()}/{os.getpid()}/{ids.uuid7().hex[-8:]}"
    where = _on_this_machine(config, made) if config.state else _on_kubernetes(config, holder)
    lease = desk.Lease(others, holder, config.lease_s, election=where.election)
    office = desk.Desk(log, lease, clock.utc_now, config.digest(), told=where.told)

    def reward_of(serving: line.Line) -> str:
        return intake.reward_for(serving, known.of_line(serving.tenant, serving.name)) if config.reward_address else ""

    loop = controller.Controller(
        office=office,
        configured=configured,
        shelf=known,
        processes=where.processes,
        evidence=others,
        describe=others.describe,
        look_every_s=config.look_every_s,
        scorer=scoring.Scorer(log, others, others) if config.reward_address else None,
        reward_of=reward_of,
    )
    acts = operations.Operations(office, configured, known.find, reward_of)
    models_read = made.add_readiness("models")
    first_look = made.add_readiness("first look")

    def follow(stop: threading.Event) -> None:
        fold.follow(log, topics.MODELS, known.apply, stop, models_read, process="rollout")

    async def reconcile(stop: asyncio.Event) -> None:
        await loop.run(stop, first_look)

    async def end_watches(stop: asyncio.Event) -> None:
        await stop.wait()
        office.end_watches()

    made.add_thread("models", follow)
    made.add_task("watches", end_watches, intake=True)
    made.add_task("controller", reconcile)
    made.add_service(servicer.RolloutServicer(acts).register, servicer.FULL_NAME)
    return made


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """Where policies run, and who else there is to be asked and told."""

    processes: backend.Backend
    election: desk.Election | None = None
    told: Callable[[releases.Release], None] | None = None


def _on_this_machine(config: settings.RolloutSettings, made: process.Process) -> _Place:
    if config.state is None:
        raise TypeError("the settings name a state folder or a namespace")
    machine = local.LocalBackend(config.state, _policy_command(config), _environment(config))
    made.on_close(machine.close)
    return _Place(machine)


def _on_kubernetes(config: settings.RolloutSettings, holder: str) -> _Place:
    from trimtab.rollout.cluster import api, election, events, pods, template  # where there is no cluster, no client

    if config.policy_template is None:
        raise TypeError("the settings name a template with a namespace")
    shape = template.load(config.policy_template, config.instance, config.namespace)
    cluster = api.connect(config.namespace, config.kubeconfig, timeout_s=config.lease_s * _ONE_CALL)
    return _Place(
        pods.ClusterBackend(cluster, shape),
        election.Election(cluster, f"{config.instance}-rollout", holder, config.lease_s),
        events.Events(cluster, shape, holder).tell,
    )


def _policy_command(config: settings.RolloutSettings) -> tuple[str, ...]:
    if config.policy_command:
        return tuple(shlex.split(config.policy_command))
    words = ("policy", "--model-id", backend.POLICY, "--line", backend.LINE, "--listen", processes.ADDRESS)
    return (sys.executable, "-m", "trimtab.cli.app", *words)


def _environment(config: settings.RolloutSettings) -> dict[str, str]:
    """What a policy shares with this process. Paths only: the secrets stay in their file."""
    return {
        "TRIMTAB_LOG_URL": config.log_url,
        **config.log_environment(),
        "TRIMTAB_REGISTRY_URL": config.registry_url,
        "TRIMTAB_CACHE": str(config.cache),
        "TRIMTAB_LINES_FILE": str(config.lines_file),
        "TRIMTAB_SECRETS_FILE": str(config.secrets_file),
        "TRIMTAB_LOG_LEVEL": config.log_level,
        "TRIMTAB_DRAIN_S": str(config.drain_s),
    }


def main(config: settings.RolloutSettings) -> None:
    """Runs the rollout controller until SIGTERM."""
    process.launch(config, "rollout", build)
