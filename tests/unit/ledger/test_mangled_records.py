"""Whatever a record's bytes are, the ledger and the trainer take it or refuse it: none of it stops them."""

import collections
import dataclasses
import pathlib
import random

import pytest
from tests.unit.ledger import making, test_replayed_records
from tests.wire import records as written

from trimtab.bus import port
from trimtab.core import errors
from trimtab.trainer.data import consumer as trainer_consumer
from trimtab.trainer.data import store as trainer_store
from trimtab.wire import schemas

MANGLED = 300


def mangled(value: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, taken out or put in."""
    found = bytearray(value)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at = chance.randrange(len(found))
        change = chance.random()
        if change < 0.6:
            found[at] = chance.randrange(256)
        elif change < 0.8 and len(found) > 8:
            del found[at : at + chance.randrange(1, 5)]
        else:
            found[at:at] = chance.randbytes(chance.randrange(1, 5))
    return bytes(found)


@pytest.mark.parametrize("seed", [1])
def test_the_ledger_takes_or_refuses_whatever_comes(seed: int, ledger: making.Ledger) -> None:
    chance, seen = random.Random(seed), collections.Counter[str]()
    for _ in range(MANGLED):
        value, topic = chance.choice(list(test_replayed_records.RECORDS.values()))
        record = ledger.sources.record(value, topic)
        try:
            ledger.feed([dataclasses.replace(record, value=mangled(record.value, chance))])
            seen["taken"] += 1
        except errors.MalformedRecord:
            seen["refused"] += 1
    assert min(seen["taken"], seen["refused"]) > MANGLED // 20, seen


@pytest.mark.parametrize("seed", [1])
def test_the_trainer_takes_or_refuses_whatever_comes(seed: int, tmp_path: pathlib.Path) -> None:
    chance, seen = random.Random(seed), collections.Counter[str]()
    database = trainer_store.Store(tmp_path / "trainer.db")
    handler = trainer_consumer.Examples(database)
    value, headers = schemas.encode(written.RECORDS["examples"])
    for offset in range(MANGLED):
        record = port.Record("examples", 3, offset, making.NOW, b"k", mangled(value, chance), headers)
        try:
            with handler.transaction() as effect:
                effect.apply(record)
            seen["taken"] += 1
        except errors.MalformedRecord:
            seen["refused"] += 1
    assert min(seen["taken"], seen["refused"]) > MANGLED // 20, seen
    database.close()
