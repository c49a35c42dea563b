"""A real Kubernetes for tests and for people: `python -m tests.kubernetes.cluster` starts one until Ctrl-C.

etcd, API server, controllers and scheduler are Kubernetes' own, each a process on the loopback interface with TLS,
tokens and RBAC. Its nodes are fake: kwok says of pods on them that they run, and `stages.yaml` says what becomes of
which. Several run at once. `tests.kubernetes.node` adds a real node.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import kubernetes
from tests import timing
from tests.broker import certificates
from tests.kubernetes import processes
from tests.kubernetes.tools import binaries

from trimtab.rpc import ports

_STAGES = pathlib.Path(__file__).with_name("stages.yaml")
SERVICES = "10.96.0.0/16"
# The address of the API server's own Service: the first of them.
API_SERVICE = "10.96.0.1"
FAKE_PODS = "10.245.0.0/16"
# By its name the API server finds a real node, at 127.0.0.1.
REAL_NODE = "localhost"
_HOSTS = f"IP:127.0.0.1,IP:{API_SERVICE},DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
# Who asks, and the group that gives the rights where a name does not.
_USERS = {
    "admin": "system:masters",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
    "system:kube-proxy": "",
    f"system:node:{REAL_NODE}": "system:nodes",
}
_QUICKLY = ("--kube-api-qps", "500", "--kube-api-burst", "1000")


@dataclasses.dataclass(frozen=True, slots=True)
class Fake:
    """A node that runs nothing. gpus: each asked for as `nvidia.com/gpu`."""

    name: str
    gpus: int = 0

    def manifest(self) -> dict[str, object]:
        room = {"cpu": "32", "memory": "256Gi", "pods": "110"}
        room |= {"nvidia.com/gpu": str(self.gpus)} if self.gpus else {}
        labels = {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        annotations = {"kwok.x-k8s.io/node": "fake"}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": labels, "annotations": annotations},
            "status": {"allocatable": room, "capacity": room},
        }


FAKES = (Fake("fake-0"), Fake("fake-1"), Fake("gpu-0", gpus=8))


class ControlPlane:
    """etcd, API server, controllers, scheduler, kwok.

    folder: for keys, data and logs, its own. kubeconfig, client: an administrator's, for programs and for the package
    `kubernetes`.
    """

    def __init__(self, folder: pathlib.Path, pods: str) -> None:
        self.folder = folder
        self._pods = pods
        self._started: list[processes.Daemon] = []
        self._etcd, self._peers, self.port, self._controllers, self._scheduler, self._kwok = ports.free_ports(6)
        self._authority = certificates.Authority(folder / "certificates")
        self._own = self._authority.sign("kube-apiserver", hosts=_HOSTS)
        self._accounts = self._authority.sign("service-accounts")
        self._tokens = {user: secrets.token_hex(16) for user in _USERS}
        self.kubeconfig = self.kubeconfig_of("admin")
        self.client = kubernetes.config.new_client_from_config(str(self.kubeconfig))

    @property
    def certificate(self) -> pathlib.Path:
        """Of the authority that vouches for the API server."""
        return self._authority.certificate

    def start(self) -> None:
        """Returns when pods are taken; RuntimeError with the end of its log when a process does not come up."""
        self._start_etcd()
        self._start_api_server()
        self._start_controllers()
        # a namespace without its ServiceAccount refuses pods, and who was refused asks again only seconds later
        self.kubectl("wait", "--for=create", "serviceaccount/default", f"--timeout={timing.PATIENCE_S:.0f}s")

    def stop(self) -> None:
        """Kills, since nothing is kept."""
        for daemon in reversed(self._started):
            daemon.kill()
        self.client.close()

    def kubectl(self, *words: str, said: str | None = None) -> str:
        """What it prints, as an administrator."""
        return self._asked("kubectl", words, said)

    def helm(self, *words: str) -> str:
        """What it prints, as an administrator."""
        return self._asked("helm", words)

    def apply(self, *manifests: Mapping[str, object]) -> None:
        self.kubectl("apply", "--server-side", "-f", "-", said="\n---\n".join(map(json.dumps, manifests)))

    def add(self, fakes: Sequence[Fake]) -> None:
        """Returns when they are ready."""
        if not fakes:
            return
        self.apply(*(fake.manifest() for fake in fakes))
        nodes = [f"node/{fake.name}" for fake in fakes]
        self.kubectl("wait", "--for=condition=Ready", *nodes, f"--timeout={timing.PATIENCE_S:.0f}s")

    def kubeconfig_of(self, user: str) -> pathlib.Path:
        """A file with which a program asks as one of those that the API server knows."""
        cluster = {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": str(self.certificate)}
        says = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "trimtab-test", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": self._tokens[user]}}],
            "contexts": [{"name": "trimtab-test", "context": {"cluster": "trimtab-test", "user": user}}],
            "current-context": "trimtab-test",
        }
        path = self.folder / f"{user.replace(':', '-')}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(says))
        return path

    @contextlib.contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """One of its programs answers nobody meanwhile."""
        pid = next(daemon.pid for daemon in self._started if daemon.name == name)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def _asked(self, name: str, words: Sequence[str], said: str | None = None) -> str:
        """It keeps nothing outside of the folder."""
        homes = ["KUBECACHEDIR", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"]
        keeping = ["env", *(f"{home}={self.folder / name}" for home in homes)]
        program = binaries.program(binaries.CONTROL_PLANE, name)
        return processes.run(*keeping, program, "--kubeconfig", self.kubeconfig, *words, said=said)

    def _start_etcd(self) -> None:
        clients, peers = f"http://127.0.0.1:{self._etcd}", f"http://127.0.0.1:{self._peers}"
        words = ["--data-dir", str(self.folder / "etcd"), "--unsafe-no-fsync", "--log-level", "warn"]
        words += ["--listen-client-urls", clients, "--advertise-client-urls", clients]
        words += ["--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers]
        words += ["--initial-cluster", f"default={peers}"]
        self._start("etcd", words).await_ready(lambda: processes.answers(f"{clients}/health"))

    def _start_api_server(self) -> None:
        at_kubelets = self._authority.sign("kube-apiserver-kubelet-client", group="system:masters")
        tokens = self.folder / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text("".join(f'{self._tokens[user]},{user},{user},"{group}"\n' for user, group in _USERS.items()))
        words = ["--etcd-servers", f"http://127.0.0.1:{self._etcd}", *self._serving(self.port)]
        words += ["--advertise-address", "127.0.0.1", "--endpoint-reconciler-type", "none"]
        words += ["--client-ca-file", str(self.certificate), "--token-auth-file", str(tokens)]
        words += ["--authorization-mode", "Node,RBAC", "--service-cluster-ip-range", SERVICES]
        words += ["--service-account-issuer", "https://kubernetes.default.svc"]
        words += ["--service-account-key-file", str(self._accounts.certificate)]
        words += ["--service-account-signing-key-file", str(self._accounts.key)]
        words += ["--kubelet-client-certificate", str(at_kubelets.certificate)]
        words += ["--kubelet-client-key", str(at_kubelets.key), "--kubelet-preferred-address-types", "Hostname"]
        self._start("kube-apiserver", words).await_ready(lambda: self._healthy(self.port, "readyz"))

    def _start_controllers(self) -> None:
        accounts = ["--service-account-private-key-file", str(self._accounts.key)]
        accounts += ["--root-ca-file", str(self.certificate), "--use-service-account-credentials"]
        words = [*self._as("system:kube-controller-manager"), *self._serving(self._controllers), *accounts, *_QUICKLY]
        controllers = self._start("kube-controller-manager", words)
        words = [*self._as("system:kube-scheduler"), *self._serving(self._scheduler), *_QUICKLY]
        scheduler = self._start("kube-scheduler", words)
        words = ["--kubeconfig", str(self.kubeconfig), "--config", str(_STAGES), "--cidr", self._pods]
        words += ["--server-address", f"127.0.0.1:{self._kwok}", "--manage-all-nodes=false"]
        words += ["--manage-nodes-with-annotation-selector", "kwok.x-k8s.io/node=fake"]
        # by default there is no Lease, and what is on the node is no longer ready after 50 s
        words += ["--node-lease-duration-seconds", "40"]
        kwok = self._start("kwok", words)
        controllers.await_ready(lambda: self._healthy(self._controllers, "healthz"))
        scheduler.await_ready(lambda: self._healthy(self._scheduler, "healthz"))
        kwok.await_ready(lambda: processes.answers(f"http://127.0.0.1:{self._kwok}/healthz"))

    def _as(self, user: str) -> list[str]:
        path = str(self.kubeconfig_of(user))
        asked = ["--kubeconfig", path, "--authentication-kubeconfig", path, "--authorization-kubeconfig", path]
        return [*asked, "--leader-elect=false"]

    def _serving(self, port: int) -> list[str]:
        own = ["--tls-cert-file", str(self._own.certificate), "--tls-private-key-file", str(self._own.key)]
        return ["--bind-address", "127.0.0.1", "--secure-port", str(port), *own]

    def _healthy(self, port: int, path: str) -> bool:
        return processes.answers(f"https://127.0.0.1:{port}/{path}", self.certificate)

    def _start(self, name: str, words: Sequence[str]) -> processes.Daemon:
        command = [binaries.program(binaries.CONTROL_PLANE, name), *words]
        self._started.append(processes.Daemon(self.folder, name, command))
        return self._started[-1]


@contextlib.contextmanager
def control_plane(fakes: Sequence[Fake] = FAKES, pods: str = FAKE_PODS) -> Iterator[ControlPlane]:
    """One of its own with these fake nodes, for as long as the context lasts. pods: addresses of what runs there."""
    with tempfile.TemporaryDirectory(prefix="trimtab-kubernetes-") as folder:
        plane = ControlPlane(pathlib.Path(folder), pods)
        try:
            plane.start()
            plane.add(fakes)
            yield plane
        finally:
            plane.stop()


def until_ended(plane: ControlPlane) -> None:
    """Says where it is, and returns at Ctrl-C."""
    kubectl = binaries.program(binaries.CONTROL_PLANE, "kubectl")
    sys.stdout.write(f"{kubectl} --kubeconfig {plane.kubeconfig} get nodes\nCtrl-C ends it and all that is in it.\n")
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nobody's kill leaves a process behind
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.kubernetes.cluster", description="A Kubernetes with fake nodes, until Ctrl-C."
    )
    parser.parse_args()
    with control_plane() as plane:
        until_ended(plane)


if __name__ == "__main__":
    main()
