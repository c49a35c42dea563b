"""The session in the docs is what the commands say."""

import re

import pytest
from tests.integration.commands.conftest import Recorded
from tools import record_cli

pytestmark = pytest.mark.slow


def test_the_documented_session_is_what_the_commands_say(recorded: Recorded) -> None:
    documented = record_cli.comparable(record_cli.PAGE.read_text())
    assert record_cli.comparable(recorded.page) == documented, "run `python tools/record_cli.py` and look what changed"


def test_nothing_of_the_recording_machine_is_in_the_page(recorded: Recorded) -> None:
    for own in (str(recorded.session.folder), recorded.session.key, f":{recorded.session.port}"):
        assert own not in recorded.page
    for name, value in recorded.session.ids.items():
        assert value, name
        assert value not in recorded.page


def test_every_command_of_the_session_succeeds(recorded: Recorded) -> None:
    assert not re.search(r"^trimtab: |Traceback|Usage:|command not found", recorded.page, re.M)


def test_an_id_is_replaced_by_the_same_one_wherever_and_however_short_it_stands() -> None:
    scrub = record_cli.Scrub({"/tmp/x": "/home/you/sky"})
    model, run, event = "ab" * 32, f"run-{'cd' * 16}", "01234567-89ab-cdef-0123-456789abcdef"
    said = scrub(f"policy {model[:12]} in /tmp/x of {run} at 2026-11-21 10:00:01 UTC on {event}\n  … going: 3 s\n")
    again = scrub(f"{model} {event} {run}")
    [policy] = re.findall(r"policy (\w{12}) in /home/you/sky of run-[0-9a-f]{32} at 2026-01-05 09:30:00 UTC on", said)
    assert said.count("\n") == 1
    assert again.split()[0].startswith(policy)
    assert [len(word) for word in again.split()] == [64, 36, 36]
    assert again.split()[1] in said
    assert again.split()[2] in said
    assert policy != model[:12]
    assert scrub(again) == again


def test_an_id_that_a_table_folds_is_replaced_in_both_halves() -> None:
    scrub = record_cli.Scrub({})
    real = "chatcmpl-AQEAAaH94c1feUi1IvBYrLWhZyle5RdxCCkxMF-BCzhucllTxXXi9uUGYTQRPzG7kQQxqUzJ8g"
    shown = scrub(f"the id {real}").removeprefix("the id ")
    assert scrub(f"x  {real[:54]}  y\n   {real[54:]}  z") == f"x  {shown[:54]}  y\n   {shown[54:]}  z"


def test_comparing_leaves_out_the_digits_of_fractions_alone() -> None:
    assert record_cli.comparable("loss  0.512\n3  prompts") == record_cli.comparable("loss 0.49\n3 prompts")
    assert record_cli.comparable("3 prompts") != record_cli.comparable("4 prompts")
