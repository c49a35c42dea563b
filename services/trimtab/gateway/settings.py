"""What the gateway can be told, beside what every process can."""

import pathlib

import pydantic

from trimtab.rpc import settings


class GatewaySettings(settings.ProcessSettings):
    """The public door: OpenAI-compatible HTTP and gRPC, API keys, routing by release."""

    http_listen: str = pydantic.Field(
        "127.0.0.1:8080", description="Address of the HTTP door; port 0 takes a free one."
    )
    http_address_file: pathlib.Path | None = pydantic.Field(
        None, description="File the bound HTTP address is written to once the door is open."
    )
    feedback_address: str = pydantic.Field(description="host:port of the feedback service.")
    policy_deadline_s: float = pydantic.Field(120.0, gt=0, description="Seconds a policy is given for an answer.")
    feedback_deadline_s: float = pydantic.Field(
        10.0, gt=0, description="Seconds the feedback service is given; more than the log's own deadline of 5."
    )
    max_body_bytes: int = pydantic.Field(1024 * 1024, gt=0, description="Largest HTTP body that is read.")
