"""What the trainer can be told. Read by `trainer.app`."""

import pathlib
import sys

import pydantic

from trimtab.rpc import settings


class TrainerSettings(settings.ProcessSettings):
    """Cuts data sets from feedback, runs training, publishes what it made."""

    state: pathlib.Path = pydantic.Field(description="Folder for the trainer's database and run folders.")
    ledger_address: str = pydantic.Field(description="Address of the ledger, host:port: the lease to publish with.")
    python: str = pydantic.Field(sys.executable, description="Python interpreter that training jobs run in.")
    job_processes: int = pydantic.Field(
        1, ge=1, description="Processes that train one model together (torchrun, FSDP2)."
    )
    jobs_elsewhere: bool = pydantic.Field(
        False, description="Jobs wait for a host on another machine: python -m trimtab.trainer.host STATE/runs."
    )
    per_rater: int = pydantic.Field(200, ge=1, description="Examples of one rater that a data set uses at most.")
    lease_s: float = pydantic.Field(60.0, gt=0, description="Seconds a lease to publish lasts unless renewed.")
