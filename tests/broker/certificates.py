"""Certificates for the tests' servers and their clients, made by `openssl` when they are needed."""

import dataclasses
import pathlib
import subprocess

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclasses.dataclass(frozen=True, slots=True)
class Signed:
    """PEM files. both: key and certificate in one, as a broker wants them."""

    key: pathlib.Path
    certificate: pathlib.Path
    both: pathlib.Path


class Authority:
    """Signs certificates, in a folder of its own."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        self.certificate, self._key = folder / "ca.pem", folder / "ca.key"
        subject = f"/CN={folder.name}"
        output = ("-keyout", self._key, "-out", self.certificate)
        _openssl("req", "-x509", *_KEY, "-days", "2", "-subj", subject, *output)

    def sign(self, name: str, days: int = 2, *, hosts: str = "IP:127.0.0.1", group: str = "") -> Signed:
        """days: how long it holds; less than none: it has expired. hosts: of a server, as openssl names them. group:
        that a client belongs to."""
        made = Signed(*(self._folder / f"{name}.{kind}" for kind in ("key", "crt", "pem")))
        asked, more = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        more.write_text(f"subjectAltName={hosts}\n")
        subject = f"/O={group}/CN={name}" if group else f"/CN={name}"
        _openssl("req", *_KEY, "-subj", subject, "-keyout", made.key, "-out", asked)
        by = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial")
        _openssl("x509", "-req", "-in", asked, *by, "-days", str(days), "-extfile", more, "-out", made.certificate)
        made.both.write_text(made.key.read_text() + made.certificate.read_text())
        return made


def _openssl(*arguments: str | pathlib.Path) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"openssl {arguments[0]} failed: {done.stderr}")
