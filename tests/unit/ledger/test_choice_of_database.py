"""What names a database, what does not, and what a PostgreSQL must be like."""

import pytest
from tests.postgres.server import Server
from tests.postgres.stores import Stores
from tests.unit.ledger import making

from trimtab.core import errors
from trimtab.ledger.store import database, dialects, tables
from trimtab.rpc import ports


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "sqlite://",
        "mysql://host/db",
        "postgresql:///db",
        "postgresql+psycopg://user@host:5432",
        "postgres:",
    ],
)
def test_what_names_no_database_is_refused_with_both_forms(url: str) -> None:
    with pytest.raises(errors.InvalidField, match=r"^`database` .*sqlite:/// .*postgresql://user@host:port/"):
        database.Database(url)


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    for url in ("user:s3cret@host/db", "user@host/db?password=s3cret"):
        with pytest.raises(errors.InvalidField) as refused:
            database.Database(f"postgresql://{url}")
        assert "s3cret" not in str(refused.value)


def test_tables_of_a_newer_version_are_refused_and_left_as_they_are(stores: Stores) -> None:
    answer = making.completion()
    with making.ledger(stores.url()) as ledger:
        ledger.take(answer, making.thumb(answer))
    stores.set_version("ledger", 99)
    said = r"has tables of version 99, and this ledger knows up to \d+: start the version .* give the ledger an empty"
    with pytest.raises(errors.WrongState, match=said):
        database.Database(stores.url())
    stores.set_version("ledger", tables.VERSION)
    with making.ledger(stores.url()) as ledger:
        assert len(ledger.newest()) == 1


def test_a_server_that_is_not_there_is_named() -> None:
    port = ports.free_port()
    with pytest.raises(errors.ServiceUnavailable, match=f"PostgreSQL at 127.0.0.1:{port}, database 'ledger', "):
        database.Database(f"postgresql://user@127.0.0.1:{port}/ledger")


def test_a_database_that_cannot_keep_every_text_is_refused(postgres: Server) -> None:
    url = postgres.create()
    narrow = url.replace("ledger_", "narrow_")
    name = narrow.rpartition("/")[2]
    postgres.ask(url, f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
    with pytest.raises(errors.InvalidField, match="`database` keeps text as SQL_ASCII; create it with ENCODING 'UTF8'"):
        database.Database(narrow)
    postgres.recycle(url)


@pytest.mark.parametrize("setting", ["off", "local"])
def test_what_is_committed_is_on_the_disk_whatever_the_server_is_set_to(postgres: Server, setting: str) -> None:
    url = postgres.create()
    name = url.rpartition("/")[2]
    postgres.ask(url, f"ALTER DATABASE {name} SET synchronous_commit = '{setting}'")
    store = database.Database(url)
    with store.write() as connection:
        shown = connection.exec_driver_sql("SHOW synchronous_commit").scalar_one()
    store.close()
    postgres.ask(url, f"ALTER DATABASE {name} RESET synchronous_commit")
    postgres.recycle(url)
    assert shown == ("on" if setting == "off" else setting)


def test_text_keeps_its_order_and_its_identity() -> None:
    kept = dialects.PostgresName()
    texts = [
        "",
        "\0",
        "\0\0",
        "\0\1",
        "\1",
        "\1\0",
        "\1\1",
        "\1\2",
        "\2",
        "\n",
        "A",
        "a",
        "a\0",
        "a\0b",
        "a\1",
        "ä",
        "😀",
    ]
    written = {text: kept.process_bind_param(text, None) for text in texts}
    assert all("\0" not in stored for stored in written.values())
    assert [kept.process_result_value(written[text], None) for text in texts] == texts
    order = sorted(texts, key=lambda text: text.encode())
    assert sorted(texts, key=lambda text: written[text].encode()) == order
