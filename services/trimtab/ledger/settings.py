"""What the ledger can be told. Read by `ledger.app`."""

import pydantic

from trimtab.rpc import settings


class LedgerSettings(settings.ProcessSettings):
    """Joins feedback with the answers it is about; knows where things came from."""

    database: str = pydantic.Field(
        description="The ledger's database, e.g. sqlite:////var/lib/trimtab/ledger.db; rebuilt from the log when lost."
    )
