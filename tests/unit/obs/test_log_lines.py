"""A log line is one JSON object, whoever wrote it, and shows no secret and nobody's words."""

import json
import logging as standard

import pytest

from trimtab.obs import logging


@pytest.fixture
def lines(capsys):
    handlers, level = list(standard.getLogger().handlers), standard.getLogger().level
    logging.configure("toy", "info")
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    standard.getLogger().handlers[:] = handlers
    standard.getLogger().setLevel(level)


def test_a_line_says_service_level_time_logger_and_fields(lines):
    logging.get("trimtab.toy").info("published", model="m1", files=3)
    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "published",
        "service": "toy",
        "level": "info",
        "logger": "trimtab.toy",
        "model": "m1",
        "files": 3,
    }


def test_a_process_whose_screen_is_for_people_logs_to_the_end_of_a_file(lines, tmp_path):
    file = tmp_path / "trimtab.log"
    file.write_text("{}\n")
    logging.configure("trimtab", "info", file)
    logging.get("trimtab.toy").warning("ended", process="policy")
    assert lines() == []
    earlier, line = (json.loads(text) for text in file.read_text().splitlines())
    assert (earlier, line["event"], line["service"], line["process"]) == ({}, "ended", "trimtab", "policy")


def test_lines_of_libraries_have_the_same_form(lines):
    standard.getLogger("uvicorn.error").warning("started %s", "now")
    (line,) = lines()
    assert (line["event"], line["service"], line["level"], line["logger"]) == (
        "started now",
        "toy",
        "warning",
        "uvicorn.error",
    )


def test_lines_below_the_level_are_not_written(lines):
    logging.get("trimtab.toy").debug("detail")
    assert lines() == []


def test_a_multi_line_text_stays_one_line(lines):
    logging.get("trimtab.toy").info("said", text="one\ntwo")
    assert [line["text"] for line in lines()] == ["one\ntwo"]


def test_secrets_are_masked_at_any_depth(lines):
    logging.get("trimtab.toy").info(
        "call with Bearer abcdefghijklmnop",
        authorization="Bearer abcdefghijklmnop",
        request={"api_key": "tt-0123456789abcdef", "headers": ["Bearer abcdefghijklmnop"], "tokens": 12},
        note="my key is tt-0123456789abcdef, keep it",
    )
    (line,) = lines()
    assert "abcdefghijklmnop" not in json.dumps(line)
    assert "0123456789abcdef" not in json.dumps(line)
    assert line["request"]["tokens"] == 12


def test_a_traceback_names_places_and_not_what_variables_held(lines):
    def fail(words: str) -> None:
        raise ValueError("it broke")

    with pytest.raises(ValueError, match="it broke") as caught:
        fail("what a person wrote")
    logging.get("trimtab.toy").error("failed", exc_info=caught.value)
    (line,) = lines()
    assert line["exception"][0]["exc_value"] == "it broke"
    assert "what a person wrote" not in json.dumps(line)
