"""Debian's packages that a real node and its images need, installed where they are missing."""

import os
import pathlib
import shutil
import subprocess

from tests import cache
from tests.kubernetes.tools import binaries

# By a file that each brings.
_NODE = {
    "runc": "/usr/sbin/runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "nftables": "/usr/sbin/nft",
    "iproute2": "/usr/sbin/ip",
    "openssl": "/usr/bin/openssl",
}
_IMAGES = {"buildah": "/usr/bin/buildah", "debootstrap": "/usr/sbin/debootstrap"}


def for_a_node() -> None:
    """RuntimeError says which to install, where we cannot."""
    _have(_NODE)


def for_images() -> None:
    """RuntimeError says which to install, where we cannot."""
    _have(_IMAGES)


def _have(wanted: dict[str, str]) -> None:
    with cache.alone(binaries.kept() / "packages.lock"):
        missing = [name for name, brings in wanted.items() if not pathlib.Path(brings).exists()]
        if not missing:
            return
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            raise RuntimeError(f"The tests need Debian's packages {' '.join(missing)}: install them, or run as root.")
        binaries.say(f"installing {' '.join(missing)}")
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
            subprocess.run(["apt-get", "--quiet", "--quiet", *words], env=environment, check=True)
