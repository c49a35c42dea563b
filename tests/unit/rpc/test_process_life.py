"""A process starts whole or not at all, ends in order, and no part of it dies unseen."""

import contextlib
import json
import pathlib
import resource
import signal
import subprocess
import sys
import time
import urllib.request

import apsw
import pytest
from tests.unit.rpc import toy

from trimtab.bus import connect, letters, settling


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_and_cleanly(launch, number):
    started = launch()
    started.address()
    started.running.send_signal(number)
    code, out, _ = started.end()
    assert (code, out) == (0, "")
    lines = started.ends.read_text().splitlines()
    assert lines[0] == "intake"
    assert sorted(lines[1:3]) == ["task", "thread"]
    assert lines[3:] == ["closed: last added", "closed: first added"]


def test_every_line_it_logs_is_json_and_names_the_service(launch):
    started = launch()
    address = started.address()
    started.running.terminate()
    _, _, err = started.end()
    lines = [json.loads(line) for line in err.splitlines()]
    assert {line["service"] for line in lines} == {"toy"}
    assert [line["event"] for line in lines] == ["starting", "listening", "serving", "draining", "stopped"]
    assert lines[2]["address"] == address
    assert len(lines[0]["digest"]) == 64


@pytest.mark.parametrize(("flag", "worker"), [("--fail-worker", "reader"), ("--fail-task", "lookout")])
def test_a_failed_worker_ends_the_process_and_is_named(launch, flag, worker):
    started = launch(flag)
    code, _, err = started.end()
    failures = [json.loads(line) for line in err.splitlines() if '"error"' in line]
    assert code == 1
    assert [(line["event"], line["worker"]) for line in failures] == [("worker failed", worker)]
    assert "is gone" in failures[0]["exception"][0]["exc_value"]
    assert started.ends.read_text().splitlines()[-1] == "closed: first added"


def test_a_log_that_appends_nothing_any_more_ends_the_process_with_the_reason(launch, arguments, tmp_path):
    arguments["log_url"] = f"sqlite:///{tmp_path}/log.sqlite"
    started = launch("--appends")
    started.address()
    with contextlib.closing(apsw.Connection(f"{tmp_path}/log.sqlite")) as connection:
        connection.set_busy_timeout(10_000)
        connection.execute("DELETE FROM sources")
    code, _, err = started.end()
    failures = [json.loads(line) for line in err.splitlines() if '"error"' in line]
    assert code == 1
    assert [(line["event"], line["worker"]) for line in failures] == [("worker failed", "event log")]
    assert failures[0]["exception"][0]["exc_type"] == "TypeError"
    assert started.ends.read_text().splitlines()[-1] == "closed: first added"


def test_a_consumer_that_halts_ends_no_process_and_goes_on_when_an_operator_says_so(launch, arguments, tmp_path):
    url = arguments["log_url"] = f"sqlite:///{tmp_path}/log.sqlite"
    started = launch("--halts")
    started.address()
    with contextlib.closing(connect.open_log(url)) as log, contextlib.closing(letters.Letters(log)) as known:
        deadline = time.monotonic() + 60
        while not known.halted:
            assert time.monotonic() < deadline
            known.refresh()
        assert started.running.poll() is None
        settling.Desk(log, known, settling.Act("acme", "ada", "why")).resume("toy", 0)
    time.sleep(3.0)
    started.running.terminate()
    code, _, err = started.end()
    said = [json.loads(line)["event"] for line in err.splitlines()]
    assert code == 0
    assert [event for event in said if "consumer" in event] == ["a consumer halts", "a consumer goes on"]
    assert "thread" in started.ends.read_text()


def test_a_halted_consumer_does_not_hold_a_process_that_is_told_to_end(launch, arguments, tmp_path):
    arguments["log_url"] = f"sqlite:///{tmp_path}/log.sqlite"
    started = launch("--halts")
    started.address()
    time.sleep(1.0)
    started.running.terminate()
    code, _, err = started.end()
    assert (code, "worker did not stop" in err) == (0, False)


def test_a_worker_that_will_not_stop_is_named_and_does_not_hold_the_process(launch):
    started = launch("--stubborn", "--drain-s=0.2")
    started.address()
    started.running.terminate()
    code, _, err = started.end()
    assert code == 1
    assert '"worker did not stop"' in err
    assert '"reader"' in err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--log-level=loud"], "`log_level` is 'loud'"),
        (["--metrics-port=-1"], "`metrics_port` is '-1'"),
        (["--lissen=x"], "unrecognized arguments: --lissen=x"),
        (["--secrets-file=/nowhere/s.toml"], "`secrets_file` '/nowhere/s.toml' cannot be read"),
        (["--listen=203.0.113.1:80"], "`listen` '203.0.113.1:80' cannot be bound"),
        (["--listen=nonsense"], "`listen` 'nonsense' cannot be bound"),
    ],
)
def test_what_keeps_it_from_starting_is_one_sentence_and_exit_code_2(launch, flags, sentence):
    code, out, err = launch(*flags, "--log-level=error" if "log" not in flags[0] else "--drain-s=1").end()
    assert (code, out) == (2, "")
    assert err.startswith(f"toy: {sentence}")
    assert err.count("\n") == 1


def test_a_port_in_use_is_one_sentence_and_exit_code_2(launch, tmp_path):
    address = launch().address()
    (tmp_path / "address").unlink()
    code, _, err = launch(f"--listen={address}", "--log-level=error").end()
    assert code == 2
    assert err.startswith(f"toy: `listen` '{address}' cannot be bound")
    assert err.count("\n") == 1


def test_help_takes_less_than_a_second_and_says_a_sentence_for_each_flag():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, toy.__file__, "--help"], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # seconds of processor time: other work shares this machine
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    for field in toy.ToySettings.model_fields.values():
        assert field.description is not None
        assert field.description.endswith(".")
        assert field.description.split()[0] in done.stdout


def test_metrics_are_served_with_the_calls_counted(launch, unused_tcp_port, secrets_file):
    started = launch(f"--metrics-port={unused_tcp_port}")
    address = started.address()
    script = pathlib.Path(toy.__file__).with_name("ask.py")
    subprocess.run([sys.executable, script, address, secrets_file], check=True)
    with urllib.request.urlopen(f"http://127.0.0.1:{unused_tcp_port}/metrics") as answer:
        text = answer.read().decode()
    method = f"/{toy.SERVICE}/Score"
    assert f'trimtab_rpc_calls_total{{code="OK",method="{method}"}} 1.0' in text
    assert f'trimtab_rpc_seconds_count{{method="{method}"}} 1.0' in text
    assert "trimtab_rpc_in_flight_calls 0.0" in text
    assert "trimtab_process_ready 1.0" in text
