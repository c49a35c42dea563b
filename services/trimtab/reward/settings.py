"""What the reward service can be told. Read by `reward.app`."""

import pydantic

from trimtab.rpc import settings


class RewardSettings(settings.ProcessSettings):
    """Scores answers under named reward-model versions."""

    max_loaded: int = pydantic.Field(3, ge=1, description="Reward models held in memory; the least used one goes.")
    max_items: int = pydantic.Field(512, ge=1, description="Answers one request may carry.")
    max_queued: int = pydantic.Field(4096, ge=1, description="Answers that may wait; beyond that requests are refused.")
    batch: int = pydantic.Field(64, ge=1, description="Answers in one forward pass.")
    threads: int = pydantic.Field(1, ge=1, description="Threads of torch.")
