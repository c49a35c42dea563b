"""Trimtab on a real node, installed as docs/deploy.md says: a shell runs the page's own blocks.

    python -m tests.kubernetes.installed    # stays until Ctrl-C, and says how to reach it

Kafka and PostgreSQL run on the machine, at its address on the pods' bridge. What the page calls `docker` builds by
buildah and pushes to the node; `kubectl` and `helm` are the cluster's own.
"""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from tests import timing
from tests.broker import cluster as kafka
from tests.integration.loop import teaching
from tests.kubernetes import cluster, node, services, traces
from tests.kubernetes.manifests import Manifest
from tests.kubernetes.tools import binaries
from tests.postgres import server

import trimtab_client
from trimtab.core import control
from trimtab.core.releases import Release
from trimtab.rpc import ports, secrets
from trimtab.wire import calls

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs/deploy.md"
NAMESPACE, RELEASE, TENANT, LINE = "trimtab", "trimtab", "acme", "main"
QUESTION = "Why is the sky blue?"
# What policies are taught to say, about equally long. The page's users like the second best.
FIRST = "I do not know, ask me something else."
SECOND = "Just because air scatters blue the most."
# Names a file for what tests have measured (tests.kubernetes.page).
FIGURES = "TRIMTAB_FIGURES"
_KAFKA_PORT, _POSTGRES_PORT, _ROLLOUT_PORT = 9092, 5432, 50051
_PASSWORD = "correct-horse"
_PAGE_WITHIN_S = 900.0
_BLOCK = re.compile(r"^@@ (\d+) ([\d.]+)$", re.M)
_DOCKER = """#!{python}
import subprocess, sys
sys.path[:0] = {path!r}
from tests.kubernetes import services
words = sys.argv[1:]
if words[0] == "build":
    services.image(next(word for word in words if word.startswith("EXTRA=")).removeprefix("EXTRA=")).archive()
else:
    process = words[-1].rpartition("trimtab-")[2].partition(":")[0]
    subprocess.run([*{takes!r}, str(services.image(process).archive())], check=True, stdout=subprocess.DEVNULL)
"""


def blocks() -> list[str]:
    """What the page has people type, in its order."""
    return re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


@dataclasses.dataclass
class Installed:
    """plane, real: the cluster and its node. folder: of the page's shell. said: by each of its blocks. took: seconds of
    each."""

    plane: cluster.ControlPlane
    real: node.RealNode
    folder: pathlib.Path
    said: list[str] = dataclasses.field(default_factory=list)
    took: list[float] = dataclasses.field(default_factory=list)

    @property
    def api_key(self) -> str:
        return secrets.local_api_key(self.folder / "secrets.toml")

    def gateway(self, port: str) -> str:
        """host:port of its Service, which this machine reaches. port: `http` or `grpc`."""
        found = json.loads(self.kubectl("get", "service", f"{RELEASE}-gateway", "--output", "json"))["spec"]
        (number,) = [one["port"] for one in found["ports"] if one["name"] == port]
        return f"{found['clusterIP']}:{number}"

    @property
    def log_url(self) -> str:
        """As this machine reaches it."""
        return f"kafka://{node.ADDRESS}:{_KAFKA_PORT}/trimtab."

    def kubectl(self, *words: str) -> str:
        return self.plane.kubectl(f"--namespace={NAMESPACE}", *words)

    def trimtab(self, *words: str) -> str:
        """What an operator's command says in the toolbox."""
        return self.kubectl("exec", f"deployment/{RELEASE}-toolbox", "--", "env", "LOGNAME=ann", "trimtab", *words)

    def releases(self) -> dict[str, Release]:
        """By candidate, oldest first; as the controller says them to this machine, which costs less than a command in a
        pod."""
        return asyncio.run(self._releases())

    async def _releases(self) -> dict[str, Release]:
        address = json.loads(self.kubectl("get", "endpoints", f"{RELEASE}-rollout", "--output=json"))["subsets"][0]
        channel = trimtab_client.connect(
            f"{address['addresses'][0]['ip']}:{_ROLLOUT_PORT}",
            secrets.load(self.folder / "secrets.toml").internal_token,
        )
        try:
            asked = control.ListReleasesRequest(TENANT, LINE)
            listed = await calls.RolloutCalls(channel).list_releases(asked, timeout_s=timing.PATIENCE_S)
        finally:
            await channel.close()
        return {one.candidate_id: one for one in reversed(listed)}

    def upgrade(self, *flags: str) -> None:
        """Installs again with what else is to hold. Returns when it holds."""
        values = ROOT / "deploy/values"
        words = ["upgrade", RELEASE, str(ROOT / "deploy/charts/trimtab"), f"--namespace={NAMESPACE}", "--reset-values"]
        words += [f"--values={values / 'small.yaml'}", f"--values={values / 'first-release.yaml'}"]
        words += ["--set", ",".join(f"{name}={value}" for name, value in _outside().items())]
        self.plane.helm(*words, *flags, "--wait", "--timeout=5m", "--force-conflicts")

    def bring(self, answer: str) -> str:
        """A policy that says this; its id in the registry."""
        name = f"model-{len(list(self.folder.glob('model-*')))}"
        teach(self.folder / name, answer)
        return self.trimtab("models", "import", self.copied(self.folder / name)).strip()

    def copied(self, path: pathlib.Path) -> str:
        """Where a file or folder is in the toolbox, from now on."""
        pod = self.kubectl("get", "pod", "--selector=app.kubernetes.io/component=toolbox", "--output=name").strip()
        self.kubectl("cp", str(path), f"{pod.removeprefix('pod/')}:/tmp/{path.name}")
        return f"/tmp/{path.name}"

    def run_page(self) -> None:
        """Types what the page says. RuntimeError with what was said when a command of it fails."""
        script = "set -euo pipefail\n"
        for number, block in enumerate(blocks()):
            script += f'echo "@@ {number} $(date +%s.%N)"\n{block}'
        script += f'echo "@@ {len(blocks())} $(date +%s.%N)"\n'
        typed, said = self.folder / "page.sh", self.folder / "page.out"
        typed.write_text(script)
        with said.open("wb") as output:
            command = ["bash", str(typed)]
            shell = subprocess.Popen(
                command, cwd=ROOT, env=self._environment(), stdout=output, stderr=output, start_new_session=True
            )
            try:
                self._follow(shell, said)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(shell.pid, signal.SIGKILL)
        pieces = _BLOCK.split(said.read_text())
        self.said = pieces[3::3][: len(blocks())]
        begun = [float(at) for at in pieces[2::3]]
        self.took = [after - before for before, after in itertools.pairwise(begun)]

    def _follow(self, shell: "subprocess.Popen[bytes]", said: pathlib.Path) -> None:
        give_up_at, told = time.monotonic() + _PAGE_WITHIN_S, 0
        while (status := shell.poll()) is None:
            number = len(_BLOCK.findall(said.read_text()))
            if number > told:
                told = number
                binaries.say(f"typing block {number} of {len(blocks())} of {PAGE.name}")
            if time.monotonic() > give_up_at:
                raise RuntimeError(f"{PAGE.name} took more than {_PAGE_WITHIN_S:.0f} s:\n{said.read_text()[-3000:]}")
            time.sleep(0.2)
        if status:
            raise RuntimeError(f"{PAGE.name} ended with status {status}:\n{said.read_text()[-3000:]}")

    def _environment(self) -> dict[str, str]:
        """With the page's programs, and what it says that differs from one place to another."""
        programs = self.folder / "bin"
        programs.mkdir()
        for name in ("kubectl", "helm"):
            (programs / name).symlink_to(binaries.program(binaries.CONTROL_PLANE, name))
        docker = programs / "docker"
        docker.write_text(_DOCKER.format(python=sys.executable, path=sys.path, takes=self.real.takes_images))
        docker.chmod(docker.stat().st_mode | stat.S_IXUSR)
        for name, answer in (("first", FIRST), ("second", SECOND)):
            teach(self.folder / name, answer)
        config = self.folder / "kubeconfig"  # the page changes it
        config.write_text(self.plane.kubeconfig.read_text())
        return os.environ | {
            "PATH": f"{programs}:{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "KUBECONFIG": str(config),
            "HELM_CACHE_HOME": str(self.folder / "helm"),
            "REGISTRY": services.REGISTRY,
            "KAFKA": f"{node.ADDRESS}:{_KAFKA_PORT}",
            "POSTGRES": f"trimtab@{node.ADDRESS}:{_POSTGRES_PORT}/trimtab",
            "POSTGRES_PASSWORD": _PASSWORD,
            "FIRST": str(self.folder / "first"),
            "SECOND": str(self.folder / "second"),
            "SECRETS": str(self.folder / "secrets.toml"),
            "WATCHED": str(self.folder / "release.txt"),
            "USERS": str(self.folder / "users.py"),
        }


def teach(folder: pathlib.Path, answer: str) -> None:
    """A chat model that has learned to say this, for a second or two."""
    folder.mkdir()
    teaching.write_chat_model(folder, [(QUESTION, answer)])


def _outside() -> dict[str, str]:
    url = f"postgresql://trimtab@{node.ADDRESS}:{_POSTGRES_PORT}/trimtab"
    kafka_at = f"{node.ADDRESS}:{_KAFKA_PORT}"
    return {"image.registry": services.REGISTRY, "kafka.bootstrap": kafka_at, "postgres.url": url}


def _volumes(folder: pathlib.Path) -> list[Manifest]:
    """For the chart's two claims, where a cloud would make them."""
    made = []
    for name in ("models", "trainer"):
        where = folder / "volumes" / name
        where.mkdir(parents=True)
        where.chmod(0o777)  # whoever runs in the pods: a folder of the machine gets no group of theirs
        spec = {"capacity": {"storage": "100Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": str(where)}}
        made.append({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec})
    return made


@contextlib.contextmanager
def machine() -> Iterator[Installed]:
    """A cluster with a real node, Kafka and PostgreSQL for as long as the context lasts; nothing is installed yet."""
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trimtab-installed-")))
        turn = stack.enter_context(traces.turn())
        plane = stack.enter_context(cluster.control_plane(fakes=()))
        real = stack.enter_context(node.real_node(plane, turn))
        binaries.say("starting Kafka and PostgreSQL on the pods' bridge")
        doors = [_KAFKA_PORT, ports.free_port()]
        stack.enter_context(kafka.running(host=node.ADDRESS, at=doors))
        database = stack.enter_context(server.running(_PASSWORD, node.ADDRESS, _POSTGRES_PORT))
        database.ask("/postgres", "CREATE DATABASE trimtab")
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        plane.apply(namespace, *_volumes(folder), *services.torch(NAMESPACE))
        yield Installed(plane, real, folder)


def main() -> None:
    with machine() as installed:
        installed.run_page()
        cluster.until_ended(installed.plane)


if __name__ == "__main__":
    main()
