"""Logs: one JSON object per line on standard error, with service, level, time and event.

Every process configures once (`rpc.process`; `trimtab up`, whose screen is for people, with a file); everything else
calls `get`. Lines of libraries that use the standard `logging` module pass through the same formatter. What may not be
read is masked here, whoever logs it.
"""

import logging
import pathlib
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog

MASK = "***"
# Field names whose values are never written. Exact names: `tokens` is a count and stays.
SECRET_FIELDS = frozenset(
    {"authorization", "token", "internal_token", "api_key", "hash_key", "secret", "password", "signing_key"}
)
_SECRET_VALUES = re.compile(r"(Bearer\s+|\btt-)[A-Za-z0-9_\-.=]{8,}")
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(service: str, level: str, file: pathlib.Path | None = None) -> None:
    """Sends all logs of this process as JSON to standard error, or to the end of a file. `level`: one of LEVELS."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named(service),
        # without locals: they hold secrets and people's words
        structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = _StandardError() if file is None else logging.FileHandler(file)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                mask_secrets,
                structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])
    # each request is a line of its server's log already; what is wrong with Kafka `bus.kafka` says in words, where its
    # client has lines for every connection and every try
    for library, least in (("httpx", logging.WARNING), ("kafka", logging.CRITICAL)):
        logging.getLogger(library).setLevel(max(LEVELS[level], least))


def get(name: str) -> structlog.typing.FilteringBoundLogger:
    """The logger of a module; `name` becomes the field `logger`."""
    return cast(structlog.typing.FilteringBoundLogger, structlog.get_logger(name))


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to whatever standard error is at the moment of writing: tests and supervisors replace it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def _named(service: str) -> structlog.typing.Processor:
    def add_service(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        return event

    return add_service


def mask_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replaces secret fields, and bearer tokens and API keys inside any text, at any depth."""
    return cast(MutableMapping[str, Any], _masked("", event))


def _masked(name: str, value: Any) -> Any:
    if name in SECRET_FIELDS:
        return MASK
    if isinstance(value, str):
        return _SECRET_VALUES.sub(lambda match: match.group(1) + MASK, value)
    if isinstance(value, dict):
        return {key: _masked(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked("", item) for item in value]
    return value
