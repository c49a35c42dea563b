"""What the policy process can be told. Read by `policy.app`."""

from typing import Literal, Self

import pydantic

from trimtab.rpc import settings


class PolicySettings(settings.ProcessSettings):
    """Answers prompts with one published policy."""

    model_id: str = pydantic.Field(min_length=1, description="Id of the published policy this process serves for life.")
    line: str = pydantic.Field("", description="The policy line it serves; empty serves whatever line is assigned.")
    engine: Literal["local", "openai", "tgi"] = pydantic.Field(
        "local",
        description="What generates: this process, or beside it, on the same verified folder, a vLLM (openai) or a "
        "text-generation-inference (tgi).",
    )
    engine_url: str = pydantic.Field(
        "", description="Where that server listens on this machine, as http://127.0.0.1:8000."
    )
    engine_command: str = pydantic.Field(
        "",
        description="In place of `engine_url`: how this process starts a server of its own, as `vllm serve {folder} "
        "--served-model-name={model_id} --host=127.0.0.1 --port={port}`.",
    )
    threads: int = pydantic.Field(1, ge=1, description="Threads of torch, of engine local.")
    dtype: Literal["float32", "bfloat16"] = pydantic.Field(
        "float32",
        description="Number format of the weights, of engine local; in bfloat16 log-probs recompute only roughly.",
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

    @pydantic.model_validator(mode="after")
    def _names_its_engine(self) -> Self:
        if self.engine_command and not all(name in self.engine_command for name in ("{folder}", "{port}")):
            raise ValueError("`engine_command` has no {folder} or no {port}: say where the server gets them")
        if (self.engine != "local") != (bool(self.engine_url) != bool(self.engine_command)):
            raise ValueError(
                "give `engine_url` or `engine_command` with `engine` openai or tgi, and neither with local"
            )
        return self
