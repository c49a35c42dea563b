"""What every process can be told: flags, then TRIMTAB_* variables, then the TOML file that $TRIMTAB_CONFIG names.

Each service subclasses `ProcessSettings` in its settings.py. In the TOML file, settings at the top are those of all
processes; a table named like the program (`[policy]`) holds what only that process is told.
"""

import hashlib
import json
import os
import pathlib
import sys
import tomllib
from typing import Any, Literal, NoReturn, Self, TypeVar

import pydantic
import pydantic_settings

from trimtab.bus import security as securities
from trimtab.core import errors

CONFIG_VARIABLE = "TRIMTAB_CONFIG"
_PREFIX = "TRIMTAB_"
_TOLD = pydantic_settings.SettingsConfigDict(
    env_prefix=_PREFIX,
    cli_kebab_case=True,
    cli_exit_on_error=False,
    cli_avoid_json=True,
    cli_implicit_flags=True,
    cli_hide_none_type=True,
    extra="forbid",
    frozen=True,
)
_Surrounding = TypeVar("_Surrounding", bound=pydantic_settings.BaseSettings)


class KafkaSettings(pydantic_settings.BaseSettings):
    """How the brokers of the event log are shown who we are, where it is on Kafka."""

    model_config = _TOLD

    kafka_security_protocol: securities.Protocol = pydantic.Field(
        "PLAINTEXT", description="How Kafka's brokers of the event log are reached."
    )
    kafka_sasl_mechanism: securities.Mechanism | None = pydantic.Field(
        None, description="How the user shows who it is, where the protocol is one with SASL."
    )
    kafka_username: str | None = pydantic.Field(None, description="The user, where the protocol is one with SASL.")
    kafka_password: pydantic.SecretStr | None = pydantic.Field(
        None, description="Its password; as a flag every user of the machine can read it, so rather name a file."
    )
    kafka_password_file: pathlib.Path | None = pydantic.Field(
        None, description="File with the password, readable by its owner only."
    )
    kafka_ca_file: pathlib.Path | None = pydantic.Field(
        None, description="PEM file: who signs the brokers' certificates; by default whom this machine trusts."
    )
    kafka_cert_file: pathlib.Path | None = pydantic.Field(
        None, description="PEM file with the certificate that brokers ask for, if they do."
    )
    kafka_key_file: pathlib.Path | None = pydantic.Field(
        None, description="PEM file with its key, without a passphrase; by default it stands in the certificate's file."
    )

    def log_security(self) -> securities.Security:
        """InvalidField for what is missing, contradicts itself or cannot be read."""
        made = securities.Security(
            protocol=self.kafka_security_protocol,
            mechanism=self.kafka_sasl_mechanism,
            username=self.kafka_username,
            password=_password("kafka_password", self.kafka_password, self.kafka_password_file),
            ca_file=self.kafka_ca_file,
            cert_file=self.kafka_cert_file,
            key_file=self.kafka_key_file,
        )
        made.check()
        return made

    def log_environment(self) -> dict[str, str]:
        """The same for a process that this one has started; a password only as the file that holds it."""
        told = {name: getattr(self, name) for name in KafkaSettings.model_fields if name != "kafka_password"}
        return {_PREFIX + name.upper(): str(value) for name, value in told.items() if value is not None}


class DatabaseSettings(pydantic_settings.BaseSettings):
    """How a database that asks for it is shown who we are."""

    model_config = _TOLD

    database_password: pydantic.SecretStr | None = pydantic.Field(
        None, description="The database's password; as a flag every user of the machine can read it, so rather a file."
    )
    database_password_file: pathlib.Path | None = pydantic.Field(
        None, description="File with the password, readable by its owner only; else PGPASSWORD and PGPASSFILE hold."
    )

    def password(self) -> str | None:
        """InvalidField when it is given twice, or cannot be read."""
        return _password("database_password", self.database_password, self.database_password_file)


class ProcessSettings(KafkaSettings):
    """Settings that all processes share."""

    listen: str = pydantic.Field("127.0.0.1:0", description="Address of the gRPC server; port 0 takes a free one.")
    address_file: pathlib.Path | None = pydantic.Field(
        None, description="File the bound address is written to once the server listens."
    )
    metrics_port: int = pydantic.Field(0, ge=0, le=65535, description="Port of /metrics; 0 turns it off.")
    log_url: str = pydantic.Field(
        description="The event log, sqlite:///var/lib/trimtab/log.db or kafka://host:9092,host:9092/prefix-of-topics."
    )
    registry_url: str = pydantic.Field(
        description="The artifact registry, any fsspec URL, e.g. file:///var/lib/models."
    )
    cache: pathlib.Path = pydantic.Field(description="Folder for verified local copies of artifacts.")
    lines_file: pathlib.Path = pydantic.Field(description="TOML file that configures the policy lines.")
    secrets_file: pathlib.Path = pydantic.Field(description="TOML file with the secrets, readable by its owner only.")
    reflection: bool = pydantic.Field(False, description="Whether the server tells its services to tools like grpcurl.")
    log_level: Literal["debug", "info", "warning", "error"] = pydantic.Field(
        "info", description="The least severe log lines that are written."
    )
    drain_s: float = pydantic.Field(
        10.0, ge=0, description="Seconds that calls in flight are given to end after SIGTERM."
    )

    @classmethod
    def load(cls, argv: list[str] | None, program: str) -> Self:
        """The settings of this process; ends it with exit code 2 and one sentence when they are wrong."""
        try:
            flags = pydantic_settings.CliSettingsSource[Any](
                cls, cli_prog_name=f"trimtab {program}", cli_parse_args=sys.argv[1:] if argv is None else argv
            )
            table = _table(cls, os.environ.get(CONFIG_VARIABLE, ""), program)
            made = cls(**(table | pydantic_settings.EnvSettingsSource(cls)() | flags()))
            made.log_security()
            return made
        except pydantic.ValidationError as problem:
            refuse(program, _sentence(problem))
        except pydantic_settings.SettingsError as problem:
            what = str(problem).removeprefix("error parsing CLI: ")
            refuse(program, f"{what}; `trimtab {program} --help` lists the flags.")
        except errors.InvalidField as problem:
            refuse(program, str(problem))

    def digest(self) -> str:
        """sha256, hex, of the resolved settings; secrets are masked, so their values do not enter it."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def log_security() -> securities.Security:
    """How commands that open the log show a cluster who they are: TRIMTAB_KAFKA_* variables, then the top of the file.

    InvalidField for what is wrong.
    """
    return surrounding(KafkaSettings, ProcessSettings).log_security()


def surrounding(wanted: type[_Surrounding], process: type[ProcessSettings], program: str = "") -> _Surrounding:
    """Some settings of a process as a command finds them: TRIMTAB_* variables, then the TOML file. InvalidField."""
    table = _table(process, os.environ.get(CONFIG_VARIABLE, ""), program)
    table = {name: value for name, value in table.items() if name in wanted.model_fields}
    try:
        return wanted(**(table | pydantic_settings.EnvSettingsSource(wanted)()))
    except pydantic.ValidationError as problem:
        field = str(problem.errors()[0]["loc"][0])
        raise errors.InvalidField(
            _PREFIX + field.upper(), f"is wrong ({problem.errors()[0]['msg']})", "correct it"
        ) from problem


def _password(field: str, given: pydantic.SecretStr | None, path: pathlib.Path | None) -> str | None:
    """A password that is given itself or by a file that its owner alone can read; InvalidField names what is wrong."""
    if path is None:
        return None if given is None else given.get_secret_value()
    if given is not None:
        raise errors.InvalidField(field, "is given twice", f"leave it or `{field}_file` out")
    try:
        mode, password = path.stat().st_mode, path.read_text().rstrip("\n")
    except (OSError, UnicodeDecodeError) as problem:
        raise errors.InvalidField(
            f"{field}_file", f"{str(path)!r} cannot be read ({problem})", "name the file with the password"
        ) from problem
    if mode & 0o007:
        raise errors.InvalidField(f"{field}_file", f"{str(path)!r} is open to every user", f"run `chmod 600 {path}`")
    return password


def refuse(program: str, sentence: str) -> NoReturn:
    """Ends the process: one line on standard error, exit code 2."""
    sys.stderr.write(f"{program}: {' '.join(sentence.split())}\n")
    sys.exit(2)


def _table(cls: type[ProcessSettings], path: str, program: str) -> dict[str, Any]:
    """What the TOML file says for this program: the top of the file, then the program's own table."""
    if not path:
        return {}
    try:
        document = tomllib.loads(pathlib.Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise errors.InvalidField(
            CONFIG_VARIABLE, f"names {path!r}, which cannot be read ({problem})", "fix it"
        ) from None
    shared = {key: value for key, value in document.items() if not isinstance(value, dict)}
    own: dict[str, Any] = document.get(program, {})
    for key, known in [(key, ProcessSettings) for key in shared] + [(key, cls) for key in own]:
        if key not in known.model_fields:
            place = "at its top" if known is ProcessSettings else f"in [{program}]"
            choices = ", ".join(known.model_fields)
            raise errors.InvalidField(key, f"in {path!r} is not a setting {place}", f"use one of {choices}")
    return shared | own


def _sentence(problem: pydantic.ValidationError) -> str:
    """The first thing that is wrong, and where to set it."""
    first = problem.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    flag = "--" + field.replace("_", "-")
    what = "is missing" if first["type"] == "missing" else f"is {first['input']!r}: {first['msg']}"
    return (
        f"`{field}` {what}; set it by {flag}, {_PREFIX}{field.upper()} or the TOML file that ${CONFIG_VARIABLE} names."
    )
