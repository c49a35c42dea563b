"""`trimtab topics`: the topics of an event log on Kafka, compared and made. Registered by `cli.commands.root`."""

import sys
from typing import Annotated

import typer

from trimtab.cli.commands import options

_HELP = """The topics of an event log on Kafka.

A cluster that asks who you are is told by TRIMTAB_KAFKA_* variables or the file that $TRIMTAB_CONFIG names.
"""
app = typer.Typer(no_args_is_help=True, help=_HELP)
_Replicas = Annotated[
    int,
    typer.Option(
        "--replicas",
        min=0,
        help="Copies of each partition; of three or more, one may be away while records are taken. 0: as the cluster "
        "does by itself.",
    ),
]


@app.command()
def diff(
    log: options.Log = "", replicas: _Replicas = 0, state: options.State = options.STATE, json: options.Json = False
) -> None:
    """What the cluster has otherwise than this version wants it: missing topics, partitions, replicas, settings.

    Exit code 0 only if there is no difference.
    """
    from trimtab.cli.operators import provisioning

    sys.exit(provisioning.show_differences(state, log, replicas, json))


@app.command()
def apply(
    log: options.Log = "", replicas: _Replicas = 0, state: options.State = options.STATE, json: options.Json = False
) -> None:
    """Create the topics that are missing, alter what may be altered, and say what was done. Twice changes nothing.

    The number of partitions is never changed: where it differs, the exit code is 1.
    """
    from trimtab.cli.operators import provisioning

    sys.exit(provisioning.apply(state, log, replicas, json))
