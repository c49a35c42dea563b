"""Programs of a Kubernetes, built from Go modules: once per set of pins, into a cache of the user's.

Versions are those of `go.mod` and `go.sum` in the folders beside this file. etcd and Kubernetes replace modules of
theirs by folders, so `go install` refuses them; a module of ours that requires them does not. Go has to be there. A
cold build of everything took 45 minutes on two busy cores, and 5 GB of Go's own caches.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping

from tests import cache

_HERE = pathlib.Path(__file__).parent
_BUILDS = {"CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-mod=readonly -buildvcs=false -trimpath"}


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """Programs that are built together. folder: with their `go.mod`, beside this file. programs: their packages."""

    folder: str
    programs: Mapping[str, str]


CONTROL_PLANE = Piece(
    "kubernetes",
    {
        "etcd": "go.etcd.io/etcd/server/v3",
        "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
        "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
        "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
        "kubectl": "k8s.io/kubernetes/cmd/kubectl",
        "kwok": "sigs.k8s.io/kwok/cmd/kwok",
        "helm": "helm.sh/helm/v4/cmd/helm",
    },
)
KUBELET = Piece(
    "kubernetes",
    {"kubelet": "k8s.io/kubernetes/cmd/kubelet", "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy"},
)
CONTAINERD = Piece(
    "containerd",
    {
        "containerd": "github.com/containerd/containerd/v2/cmd/containerd",
        "containerd-shim-runc-v2": "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        "ctr": "github.com/containerd/containerd/v2/cmd/ctr",
    },
)
COREDNS = Piece("coredns", {"coredns": "."})
PAUSE = Piece("pause", {"pause": "."})
NODE = (KUBELET, CONTAINERD, COREDNS, PAUSE)
ALL = (CONTROL_PLANE, *NODE)


def folder(piece: Piece) -> pathlib.Path:
    """With the piece's programs; built where they are not there yet. RuntimeError says what is missing for that."""
    made = kept() / _key(piece) / "bin"
    if not made.exists():
        with cache.alone(kept() / "build.lock"):
            if not made.exists():
                _build(piece, made)
    return made


def program(piece: Piece, name: str) -> str:
    assert name in piece.programs
    return str(folder(piece) / name)


def are_built(*pieces: Piece) -> bool:
    return shutil.which("go") is not None and all((kept() / _key(piece) / "bin").exists() for piece in pieces)


def kept() -> pathlib.Path:
    """Where all that is built for a Kubernetes stays."""
    return cache.folder("kubernetes")


def say(what: str) -> None:
    """A line on how far a long preparation is."""
    sys.stderr.write(f"kubernetes: {what}\n")
    sys.stderr.flush()


def _key(piece: Piece) -> str:
    """Of all that decides what a build gives."""
    pins = [one.read_bytes() for one in sorted((_HERE / piece.folder).iterdir()) if one.is_file()]
    decides = [*pins, repr(piece).encode(), repr(_BUILDS).encode(), _go_version().encode()]
    return hashlib.sha256(b"\0".join(hashlib.sha256(one).digest() for one in decides)).hexdigest()[:12]


@functools.cache
def _go_version() -> str:
    if shutil.which("go") is None:
        raise RuntimeError("A Kubernetes for tests is built from Go modules: install Go 1.26 or newer.")
    asked = ["go", "env", "GOVERSION", "GOOS", "GOARCH"]
    return subprocess.run(asked, capture_output=True, text=True, check=True, env=os.environ | _BUILDS).stdout


def _build(piece: Piece, made: pathlib.Path) -> None:
    made.parent.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir=made.parent) as unfinished:
        for name, package in piece.programs.items():
            say(f"building {name}")
            target = pathlib.Path(unfinished) / "bin" / name
            _go("build", "-ldflags", _linked(piece), "-o", str(target), package, where=_HERE / piece.folder)
        (pathlib.Path(unfinished) / "bin").rename(made)
    say(f"built {', '.join(piece.programs)} in {time.monotonic() - begun:.0f} s")


def _go(*words: str, where: pathlib.Path) -> None:
    done = subprocess.run(["go", *words], cwd=where, env=os.environ | _BUILDS, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace")[-4000:]
        raise RuntimeError(f"`go {words[0]}` in {where} failed:\n{said}")


def _linked(piece: Piece) -> str:
    """Symbols are left out. What Kubernetes' and Helm's own builds write into their programs: the version, which
    clients and nodes compare."""
    flags = ["-s", "-w"]
    versions = (_HERE / piece.folder / "go.mod").read_text()
    if found := re.search(r"^\s*k8s\.io/kubernetes v(\d+)\.(\d+)(\S+)", versions, re.M):
        values = {"gitVersion": f"v{found[1]}.{found[2]}{found[3]}", "gitMajor": found[1], "gitMinor": found[2]}
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
            flags += [f"-X {package}.{name}={value}" for name, value in values.items()]
    if found := re.search(r"^\s*helm\.sh/helm/v4 (v\S+)", versions, re.M):
        flags.append(f"-X helm.sh/helm/v4/internal/version.version={found[1]}")
    return " ".join(flags)
