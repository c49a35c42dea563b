"""What the policy process can be told. Read by `policy.app`."""

from typing import Literal

import pydantic

from trimtab.rpc import settings


class PolicySettings(settings.ProcessSettings):
    """Answers prompts with one published policy."""

    model_id: str = pydantic.Field(min_length=1, description="Id of the published policy this process serves for life.")
    line: str = pydantic.Field("", description="The policy line it serves; empty serves whatever line is assigned.")
    threads: int = pydantic.Field(1, ge=1, description="Threads of torch.")
    dtype: Literal["float32", "bfloat16"] = pydantic.Field(
        "float32", description="Number format of the weights; in bfloat16 log-probs recompute only roughly."
    )
    max_batch: int = pydantic.Field(32, ge=1, description="Answers generated at the same time.")
    max_queue: int = pydantic.Field(256, ge=0, description="Answers that may wait; beyond that requests are refused.")
    context: int = pydantic.Field(
        0, ge=0, description="Tokens a prompt and its answer may take together; 0 leaves it to the model."
    )
    record_wait_s: float = pydantic.Field(
        2.0, ge=0, description="Seconds an answer waits for its record to be durable before it is given regardless."
    )
    record_spool: int = pydantic.Field(
        1000, ge=1, description="Records that may wait for the log; beyond that requests are refused."
    )
