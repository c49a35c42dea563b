"""Flags win over variables, variables over the file; what is wrong is one sentence."""

import pydantic
import pytest

from trimtab.rpc import settings


class Toy(settings.ProcessSettings):
    """Settings of a toy."""

    max_batch: int = pydantic.Field(8, ge=1, description="Sequences at most.")
    token: pydantic.SecretStr = pydantic.Field(pydantic.SecretStr("none"), description="A secret.")


@pytest.fixture
def flags(arguments):
    return [f"--{name.replace('_', '-')}={value}" for name, value in arguments.items()]


@pytest.fixture
def write_file(tmp_path, monkeypatch):
    """Writes the TOML file and points the process at it."""

    def write(content):
        path = tmp_path / "trimtab.toml"
        path.write_text(content)
        monkeypatch.setenv("TRIMTAB_CONFIG", str(path))

    return write


def test_flags_win_over_variables_over_the_programs_table_over_the_top(write_file, monkeypatch, flags):
    write_file('listen = "top:1"\ndrain_s = 1\n[toy]\ndrain_s = 2\nmax_batch = 2\n[other]\nx = 1')
    loaded = Toy.load(flags, "toy")
    assert (loaded.listen, loaded.drain_s, loaded.max_batch) == ("top:1", 2.0, 2)
    monkeypatch.setenv("TRIMTAB_MAX_BATCH", "3")
    assert Toy.load(flags, "toy").max_batch == 3
    assert Toy.load([*flags, "--max-batch", "4"], "toy").max_batch == 4


def test_a_required_setting_may_come_from_anywhere(write_file, arguments):
    write_file("\n".join(f'{name} = "{value}"' for name, value in arguments.items()))
    assert Toy.load([], "toy").log_url == arguments["log_url"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("lisen = 'x'", "`lisen` in"),
        ("max_batch = 2", "`max_batch` in"),
        ("[toy]\nbatch = 2", "`batch` in"),
        ("[toy", "cannot be read"),
        ("[toy]\nmax_batch = 'many'", "`max_batch` is 'many'"),
    ],
)
def test_a_mistake_in_the_file_is_named_and_ends_the_process(write_file, flags, capsys, content, sentence):
    write_file(content)
    with pytest.raises(SystemExit) as ended:
        Toy.load(flags, "toy")
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert sentence in shown.err
    assert shown.err.count("\n") == 1


def test_a_missing_setting_says_the_three_places_to_set_it(capsys):
    with pytest.raises(SystemExit) as ended:
        Toy.load([], "toy")
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert "`log_url` is missing" in shown
    assert "--log-url" in shown
    assert "TRIMTAB_LOG_URL" in shown
    assert "$TRIMTAB_CONFIG" in shown


def test_the_digest_tells_settings_apart_and_keeps_secrets_out(flags):
    plain = Toy.load(flags, "toy")
    assert plain.digest() == Toy.load(flags, "toy").digest()
    assert plain.digest() != Toy.load([*flags, "--max-batch=9"], "toy").digest()
    assert plain.digest() == Toy.load([*flags, "--token=other"], "toy").digest()
