"""How we show a Kafka cluster who we are: TLS, SASL. Made by `rpc.settings`, used by `bus.kafka`.

Errors name the settings as people set them: `kafka_ca_file` is the flag and the TRIMTAB_ variable of that name.
"""

import dataclasses
import pathlib
import ssl
from typing import Literal

from trimtab.core import errors

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


@dataclasses.dataclass(frozen=True, slots=True)
class Security:
    """protocol, mechanism: as Kafka names them.

    ca_file: PEM, who signs the brokers' certificates; None: whom this machine trusts. cert_file, key_file: PEM, our own
    certificate for brokers that ask for one; without key_file the key stands in cert_file.
    """

    protocol: Protocol = "PLAINTEXT"
    mechanism: Mechanism | None = None
    username: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    ca_file: pathlib.Path | None = None
    cert_file: pathlib.Path | None = None
    key_file: pathlib.Path | None = None

    @property
    def tls(self) -> bool:
        return self.protocol in ("SSL", "SASL_SSL")

    @property
    def sasl(self) -> bool:
        return self.protocol in ("SASL_PLAINTEXT", "SASL_SSL")

    def check(self) -> None:
        """InvalidField for what is missing, would not be used, or cannot be read."""
        names = {
            "kafka_sasl_mechanism": self.mechanism,
            "kafka_username": self.username,
            "kafka_password": self.password,
        }
        for name, value in names.items():
            if self.sasl and not value:
                raise errors.InvalidField(name, f"is missing and {self.protocol} asks for it", "set it")
            if not self.sasl and value:
                raise self._unused(name, "SASL_SSL")
        files = {"kafka_ca_file": self.ca_file, "kafka_cert_file": self.cert_file, "kafka_key_file": self.key_file}
        for name, path in files.items():
            if path is not None and not self.tls:
                raise self._unused(name, "SASL_SSL" if self.sasl else "SSL")
        if self.key_file is not None and self.cert_file is None:
            raise errors.InvalidField("kafka_key_file", "has no certificate beside it", "set `kafka_cert_file` too")
        if self.tls:
            self.context()

    def context(self) -> ssl.SSLContext:
        """What a TLS connection needs, read from the files anew; InvalidField names the one that cannot be used."""
        made = ssl.create_default_context()
        try:
            if self.ca_file is not None:
                made = ssl.create_default_context(cafile=str(self.ca_file))
        except OSError as problem:
            raise _unreadable("kafka_ca_file", self.ca_file, problem) from problem
        try:
            if self.cert_file is not None:
                # the empty password keeps OpenSSL from asking for one at the terminal
                made.load_cert_chain(self.cert_file, self.key_file, password="")
        except OSError as problem:
            which = "kafka_cert_file" if self.key_file is None else "kafka_cert_file` with `kafka_key_file"
            raise _unreadable(which, self.cert_file, problem) from problem
        return made

    def _unused(self, name: str, protocol: str) -> errors.InvalidField:
        return errors.InvalidField(
            name,
            f"is set and would not be used, since `kafka_security_protocol` is {self.protocol}",
            f"set that to {protocol}, or leave `{name}` out",
        )


def _unreadable(name: str, path: pathlib.Path | None, problem: OSError) -> errors.InvalidField:
    return errors.InvalidField(
        name, f"{str(path)!r} cannot be used ({problem})", "name PEM files, keys without a passphrase"
    )


# Of a cluster that asks nothing of anybody.
OPEN = Security()
