"""What the rollout controller can be told. Read by `rollout.app`."""

import pathlib

import pydantic

from trimtab.rpc import settings


class RolloutSettings(settings.ProcessSettings):
    """Decides which policy is live: verifies, canaries, judges by users' feedback, promotes and rolls back."""

    ledger_address: str = pydantic.Field(description="Address of the ledger, host:port: evidence and the lease.")
    reward_address: str = pydantic.Field(
        "",
        description="Address of the reward service, host:port; without one releases have no guardrail on the reward.",
    )
    state: pathlib.Path = pydantic.Field(
        description="State folder of the supervisor on this machine; policies are started through its table."
    )
    policy_command: str = pydantic.Field(
        "", description="How a policy is started, with {policy_id}, {line} and {address}; empty means `trimtab policy`."
    )
    look_every_s: float = pydantic.Field(1.0, gt=0, description="Seconds between looks at every line.")
    lease_s: float = pydantic.Field(10.0, gt=0, description="Seconds the right to act lasts unless renewed.")
