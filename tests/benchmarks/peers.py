"""The peers that Trimtab is compared with, each in an environment of its own below `.cache/peers`.

    python -m tests.benchmarks.peers        makes them all, or does nothing where they are as pinned

What they stand on is pinned in `peers.txt`: the same torch and transformers as ours.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

CACHE = pathlib.Path(__file__).parents[2] / ".cache"
# 1.12 is the last TRL with a PPO trainer (`trl.experimental.ppo`).
VERSIONS = {"trl": "trl==1.16.0", "trl-with-ppo": "trl==1.12.0"}
_PINS = pathlib.Path(__file__).with_name("peers.txt")


def python_of(name: str) -> pathlib.Path:
    """The interpreter of a peer's environment, made if it is absent or pinned otherwise."""
    folder = CACHE / "peers" / name
    mark, python = folder / ".made-of", folder / "bin" / "python"
    wanted = hashlib.sha256(VERSIONS[name].encode() + _PINS.read_bytes()).hexdigest()
    if mark.is_file() and mark.read_text() == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    uv = pathlib.Path(sys.executable).with_name("uv")
    install = [
        str(uv),
        "pip",
        "install",
        "--quiet",
        "--system-certs",
        "--constraint",
        str(_PINS),
        VERSIONS[name],
        "peft",
    ]
    subprocess.run(install, check=True, env={**os.environ, "VIRTUAL_ENV": str(folder)})
    mark.write_text(wanted)
    return python


if __name__ == "__main__":
    for peer in VERSIONS:
        print(python_of(peer))  # noqa: T201  # a script's answer
