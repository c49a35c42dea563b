"""How a cluster is shown who we are: what makes no sense is a sentence at the start, and no password goes anywhere."""

import pathlib

import pytest
from tests.broker import certificates

from trimtab.bus.security import Security
from trimtab.core import errors
from trimtab.rpc import settings

SASL = ("--kafka-security-protocol=SASL_SSL", "--kafka-sasl-mechanism=SCRAM-SHA-512", "--kafka-username=trimtab")


@pytest.fixture
def flags(arguments: dict[str, str]) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in arguments.items()]


@pytest.fixture
def password_file(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "password"
    path.write_text("correct horse\n")
    path.chmod(0o600)
    return path


def load(*flags: str) -> settings.ProcessSettings:
    return settings.ProcessSettings.load(list(flags), "toy")


def test_without_any_setting_a_cluster_is_asked_for_nothing(flags: list[str]) -> None:
    assert load(*flags).log_security() == Security()


def test_a_password_is_read_from_its_file(flags: list[str], password_file: pathlib.Path) -> None:
    made = load(*flags, *SASL, f"--kafka-password-file={password_file}").log_security()
    assert made == Security("SASL_SSL", "SCRAM-SHA-512", "trimtab", "correct horse")
    assert "correct horse" not in repr(made)


def test_a_password_stays_where_it_was_given(flags: list[str], password_file: pathlib.Path) -> None:
    loaded = load(*flags, *SASL, "--kafka-password=correct horse")
    assert loaded.log_security().password == "correct horse"
    assert "correct horse" not in repr(loaded.model_dump(mode="json")) + repr(loaded.log_environment())
    assert loaded.digest() == load(*flags, *SASL, "--kafka-password=another").digest()
    told = load(*flags, *SASL, f"--kafka-password-file={password_file}").log_environment()
    assert told == {
        "TRIMTAB_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "TRIMTAB_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "TRIMTAB_KAFKA_USERNAME": "trimtab",
        "TRIMTAB_KAFKA_PASSWORD_FILE": str(password_file),
    }


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (("--kafka-security-protocol=SASL",), "`kafka_security_protocol` is 'SASL'"),
        (("--kafka-security-protocol=SASL_SSL",), "`kafka_sasl_mechanism` is missing and SASL_SSL asks for it"),
        (SASL, "`kafka_password` is missing and SASL_SSL asks for it"),
        ((*SASL[1:],), "`kafka_sasl_mechanism` is set and would not be used, since `kafka_security_protocol` is PLAIN"),
        (("--kafka-ca-file=ca.pem",), "`kafka_ca_file` is set and would not be used"),
        (
            ("--kafka-security-protocol=SSL", "--kafka-ca-file=absent.pem"),
            "`kafka_ca_file` 'absent.pem' cannot be",
        ),
        (("--kafka-security-protocol=SSL", "--kafka-key-file=k.pem"), "`kafka_key_file` has no certificate beside it"),
        ((*SASL, "--kafka-password-file=absent"), "`kafka_password_file` 'absent' cannot be read"),
        ((*SASL, "--kafka-password=x", "--kafka-password-file=absent"), "`kafka_password` is given twice"),
    ],
)
def test_what_makes_no_sense_ends_the_process_with_a_sentence(
    wrong: tuple[str, ...], sentence: str, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        load(*flags, *wrong)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert (said.count("\n"), said[-2]) == (1, ".")


def test_a_password_that_everybody_can_read_is_refused(
    flags: list[str], password_file: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    password_file.chmod(0o644)
    with pytest.raises(SystemExit):
        load(*flags, *SASL, f"--kafka-password-file={password_file}")
    assert f"run `chmod 600 {password_file}`" in capsys.readouterr().err


def test_a_certificate_and_a_key_that_do_not_belong_together_are_refused(tmp_path: pathlib.Path) -> None:
    authority = certificates.Authority(tmp_path / "authority")
    one, other = authority.sign("one"), authority.sign("other")
    Security("SSL", ca_file=authority.certificate, cert_file=one.certificate, key_file=one.key).check()
    with pytest.raises(errors.InvalidField, match=r"`kafka_cert_file` with `kafka_key_file` .* cannot be used"):
        Security("SSL", ca_file=authority.certificate, cert_file=one.certificate, key_file=other.key).check()


def test_commands_are_told_by_the_environment_over_the_top_of_the_file(
    tmp_path: pathlib.Path, password_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "trimtab.toml"
    file.write_text(
        'listen = "top:1"\nkafka_security_protocol = "SASL_SSL"\nkafka_sasl_mechanism = "PLAIN"\n'
        f'kafka_username = "from the file"\nkafka_password_file = "{password_file}"\n[policy]\nthreads = 1\n'
    )
    monkeypatch.setenv("TRIMTAB_CONFIG", str(file))
    assert settings.log_security().username == "from the file"
    monkeypatch.setenv("TRIMTAB_KAFKA_USERNAME", "from the environment")
    assert settings.log_security() == Security("SASL_SSL", "PLAIN", "from the environment", "correct horse")
    monkeypatch.setenv("TRIMTAB_KAFKA_SECURITY_PROTOCOL", "TLS")
    with pytest.raises(errors.InvalidField, match="`TRIMTAB_KAFKA_SECURITY_PROTOCOL` is wrong"):
        settings.log_security()
