"""Images without a registry and without Docker: archives that `RealNode.load` takes, kept in the user's cache by
content.

`Image` runs a Dockerfile with Debian's buildah, as root. A Dockerfile that begins from a published image says so by
`ARG BASE` and `FROM ${BASE}`; here BASE is a Debian of the same release with Python 3.11, made by debootstrap.
"""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from tests import cache
from tests.kubernetes import processes
from tests.kubernetes.tools import binaries, packages

_BASE = "localhost/trimtab-base:1"
_RELEASE = "bookworm"
_IN_BASE = ("ca-certificates", "python3", "python3-pip", "python3-venv", "python-is-python3")
_NOT_CONTENT = "__pycache__"
_TRUSTED = "/etc/ssl/certs/ca-certificates.crt"
# Where uv reads what holds for everybody on a machine.
_UV_SETTINGS = "/etc/uv/uv.toml"
# How long, and how many beside a new one: all services' take 3 GB.
_KEPT_S, _KEPT = 24 * 3600.0, 2


def of_a_program(name: str, program: pathlib.Path) -> pathlib.Path:
    """An image called so, of one static program and nothing else."""
    layer = _tar({"app": program.read_bytes()})
    return _kept(name, [layer], lambda archive: archive.write_bytes(_archive(name, layer, ["/app"])))


@dataclasses.dataclass(frozen=True)
class Image:
    """One that a Dockerfile makes.

    sources: files and folders in root that it may copy. arguments: of the build, besides BASE. without: a distribution
    that uv leaves out, with all that it alone asks for.
    """

    name: str
    dockerfile: pathlib.Path
    root: pathlib.Path
    sources: Sequence[str]
    arguments: Mapping[str, str] = dataclasses.field(default_factory=dict)
    without: str = ""

    def archive(self) -> pathlib.Path:
        """Built anew when any of that has changed."""
        packages.for_images()
        return _kept(self.name, self._decides(), self._build)

    def is_built(self) -> bool:
        return _place(self.name, self._decides()).exists()

    def _decides(self) -> list[bytes]:
        with tempfile.TemporaryDirectory(prefix="trimtab-image-") as made:
            context = self._context(pathlib.Path(made))
            files = [path for path in sorted(context.rglob("*")) if path.is_file()]
            content = [part for path in files for part in (bytes(path.relative_to(context)), path.read_bytes())]
        settings = [self._uv_settings().encode()] if self.without else []
        return [*content, json.dumps(dict(self.arguments), sort_keys=True).encode(), _base_key(), *settings]

    def _context(self, made: pathlib.Path) -> pathlib.Path:
        context = made / "context"
        context.mkdir()
        for source in self.sources:
            _copy(self.root / source, context / source)
        shutil.copy(self.dockerfile, context / "Dockerfile")
        return context

    def _uv_settings(self) -> str:
        return f"override-dependencies = [\"{self.without} ; python_version < '3'\"]\n"

    def _build(self, archive: pathlib.Path) -> None:
        with tempfile.TemporaryDirectory(prefix="trimtab-image-") as made:
            # a volume of the build and no part of it: the Dockerfile is the one that everybody uses
            volumes = {}
            if self.without:
                told = pathlib.Path(made) / "uv.toml"
                told.write_text(self._uv_settings())
                volumes[_UV_SETTINGS] = told
            _build(self.name, self._context(pathlib.Path(made)), self.arguments, volumes, archive)


def base() -> pathlib.Path:
    """The archive of a Debian with Python, which stands in for `python:3.11-slim`."""
    packages.for_images()
    return _kept(_BASE, [_base_key()], _bootstrap)


def _base_key() -> bytes:
    return json.dumps([_RELEASE, *_IN_BASE]).encode()


def _kept(name: str, decides: Sequence[bytes], make: Callable[[pathlib.Path], object]) -> pathlib.Path:
    """The archive that all of this decides; made where it is not there yet."""
    archive = _place(name, decides)
    archive.parent.mkdir(exist_ok=True)
    with cache.alone(binaries.kept() / f"image-{_short(name)}.lock"):
        if archive.exists():
            os.utime(archive)
        else:
            _forget(archive.parent.glob(f"{_short(name)}-*.tar"))
            begun = time.monotonic()
            unfinished = archive.with_suffix(".unfinished")
            unfinished.unlink(missing_ok=True)
            make(unfinished)
            unfinished.rename(archive)
            binaries.say(f"made image {name} in {time.monotonic() - begun:.0f} s")
    return archive


def _place(name: str, decides: Sequence[bytes]) -> pathlib.Path:
    key = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in [name.encode(), *decides])).hexdigest()[:12]
    return binaries.kept() / "images" / f"{_short(name)}-{key}.tar"


def _short(name: str) -> str:
    return name.rpartition("/")[2].replace(":", "-")


def _forget(archives: Iterable[pathlib.Path]) -> None:
    """Those that nobody has asked for lately: one of a service changes with every change of its code."""
    asked_for = {archive: archive.stat().st_mtime for archive in archives}
    for place, archive in enumerate(sorted(asked_for, key=asked_for.__getitem__, reverse=True)):
        if place >= _KEPT or time.time() - asked_for[archive] > _KEPT_S:
            archive.unlink()


def _bootstrap(archive: pathlib.Path) -> None:
    binaries.say("making a Debian for images (about a minute)")
    with tempfile.TemporaryDirectory(prefix="trimtab-debian-") as made:
        root, layer = pathlib.Path(made) / "root", pathlib.Path(made) / "layer.tar"
        words = ["--variant=minbase", f"--include={','.join(_IN_BASE)}", _RELEASE, str(root)]
        processes.run("debootstrap", *words)
        empty = ["var/cache/apt/archives", "var/lib/apt/lists", "proc", "sys", "dev"]
        left_out = [f"--exclude=./{folder}/*" for folder in empty]
        processes.run("tar", "--numeric-owner", *left_out, "-C", root, "-cf", layer, ".")
        archive.write_bytes(_archive(_BASE, layer.read_bytes(), []))


def _build(
    name: str,
    context: pathlib.Path,
    arguments: Mapping[str, str],
    volumes: Mapping[str, pathlib.Path],
    archive: pathlib.Path,
) -> None:
    binaries.say(f"building image {name}")
    with tempfile.TemporaryDirectory(prefix="trimtab-storage-") as storage:
        at = ["--root", f"{storage}/root", "--runroot", f"{storage}/run", "--storage-driver", "vfs"]
        processes.run("buildah", *at, "pull", "--quiet", f"docker-archive:{base()}")
        # whoever vouches for registries on this machine does so for a build on it
        mounted = {_TRUSTED: pathlib.Path(_TRUSTED), **volumes}
        given = [f"--volume={source}:{target}:ro" for target, source in mounted.items()]
        given += [*(f"--build-arg={key}={value}" for key, value in {"BASE": _BASE, **arguments}.items())]
        words = ["--quiet", "--isolation", "chroot", "--pull-never", "--layers=false", *given, "--tag", name]
        processes.run("buildah", *at, "bud", *words, context)
        processes.run("buildah", *at, "push", "--quiet", name, f"docker-archive:{archive}:{name}")


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(_NOT_CONTENT))
    else:
        shutil.copy(source, target)


def _archive(name: str, layer: bytes, entrypoint: Sequence[str]) -> bytes:
    """As `docker save` writes one: one layer, its configuration, and a list of both."""
    of_layer = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    described = {
        "Entrypoint": list(entrypoint),
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    }
    root = {"type": "layers", "diff_ids": [of_layer]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": described, "rootfs": root}).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    listed = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    return _tar({config_name: config, "layer.tar": layer, "manifest.json": listed})


def _tar(files: Mapping[str, bytes]) -> bytes:
    """The same bytes for the same files."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()
