"""What the ledger can be told. Read by `ledger.app`."""

import pydantic

from trimtab.rpc import settings


class LedgerSettings(settings.ProcessSettings, settings.DatabaseSettings):
    """Joins feedback with the answers it is about; knows where things came from."""

    database: str = pydantic.Field(
        description="The ledger's database, e.g. sqlite:////var/lib/trimtab/ledger.db or "
        "postgresql://user@host:5432/ledger, its password apart; "
        "rebuilt from the log when lost."
    )
    unjoinable_after_s: float = pydantic.Field(
        3600.0,
        gt=0,
        description="Seconds after which feedback that still waits for its answer is counted and shown as unjoinable.",
    )
    lease_s: float = pydantic.Field(
        10.0, ge=1, description="Seconds of silence after which another ledger on the same PostgreSQL takes over."
    )


def database_password() -> str | None:
    """As `trimtab ledger` will be told it by the environment or the TOML file, for commands. InvalidField."""
    return settings.surrounding(settings.DatabaseSettings, LedgerSettings, "ledger").password()
