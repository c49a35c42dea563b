"""A real ledger process on a real log, a real registry and real gRPC."""

import dataclasses
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.postgres.stores import Stores
from tests.services.gateway.conftest import eventually

import trimtab_client
from trimtab import registry
from trimtab.bus import connect, port
from trimtab.ledger import app, settings
from trimtab.rpc import health, secrets
from trimtab.wire import calls
from trimtabapi.ledger.v1 import ledger_service_pb2_grpc

TENANT = "acme"


@dataclasses.dataclass
class Service:
    log: port.EventLog
    registry: registry.Registry
    calls: calls.LedgerCalls
    stub: ledger_service_pb2_grpc.LedgerServiceStub


@pytest.fixture
def settings_of(tmp_path: pathlib.Path, stores: Stores) -> dict[str, Any]:
    return settings_at(tmp_path, stores.url())


def settings_at(tmp_path: pathlib.Path, database: str) -> dict[str, Any]:
    secrets.create(tmp_path / "secrets.toml", TENANT)
    return {
        "log_url": f"sqlite://{tmp_path / 'log.db'}",
        "registry_url": f"file://{tmp_path / 'registry'}",
        "cache": tmp_path / "cache",
        "lines_file": tmp_path / "lines.toml",
        "secrets_file": tmp_path / "secrets.toml",
        "database": database,
        "lease_s": 1.0,
        "drain_s": 1.0,
    }


@pytest.fixture
async def service(settings_of: dict[str, Any]) -> AsyncIterator[Service]:
    made = app.build(settings.LedgerSettings(**settings_of))
    log = connect.open_log(settings_of["log_url"])
    artifacts = registry.Registry(settings_of["registry_url"], settings_of["cache"])
    async with made.serving() as address, trimtab_client.connect(address, made.secrets.internal_token) as channel:
        await eventually(lambda: health.is_serving(address, timeout_s=5.0))
        stub = ledger_service_pb2_grpc.LedgerServiceStub(channel)
        yield Service(log, artifacts, calls.LedgerCalls(channel), stub)
    log.close()
