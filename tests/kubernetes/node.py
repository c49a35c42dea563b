"""A real node for a cluster of tests: `python -m tests.kubernetes.node` starts both until Ctrl-C.

kubelet, containerd with runc, Debian's CNI plugins, kube-proxy with nftables, CoreDNS. Pods run for real, on a bridge
that the machine has an address on; Services answer by their addresses, from pods and from the machine, and to pods by
their names. Pods reach the API server as everywhere. They have no way out of the machine, and nothing enforces a
NetworkPolicy.

One at a time on a machine, and as root: containers, bridge and rules are the kernel's. What it mounts is in a mount
namespace of its own, with folders of its own in place of those where such programs leave files.
"""

import argparse
import contextlib
import json
import os
import pathlib
from collections.abc import Iterator

from tests import timing
from tests.faults.harness.proxy import Proxy
from tests.kubernetes import cluster, images, processes, settings, traces
from tests.kubernetes.tools import binaries, packages

from trimtab.rpc import ports

# The machine's own on the pods' bridge: what listens there is reached from pods.
ADDRESS = traces.ADDRESS
_PATIENCE = f"--timeout={timing.PATIENCE_S:.0f}s"
# Nothing is mounted on the machine, and its /run, /var/lib and /var/log are not touched.
_APART = """
mount --make-rshared /
for name in run var/lib var/log; do mkdir -p "$0/$name" && mount --bind "$0/$name" "/$name" || exit 1; done
exec "$@"
"""


class RealNode:
    """One that runs its pods, named `cluster.REAL_NODE`."""

    def __init__(self, plane: cluster.ControlPlane) -> None:
        self._plane = plane
        self._folder = plane.folder / "node"
        self._folder.mkdir()
        self._socket = self._folder / "containerd.sock"
        self._undo = contextlib.ExitStack()
        self._mounts_of = 0

    def start(self, turn: traces.Turn | None = None) -> None:
        """Returns when pods run on it; RuntimeError with the end of its log when a process does not come up."""
        self._undo.enter_context(traces.none_left(turn or self._undo.enter_context(traces.turn())))
        self._start_containerd()
        self.load(images.of_a_program("localhost/pause:1", pathlib.Path(binaries.program(binaries.PAUSE, "pause"))))
        self._start_kubelet()
        self._start_proxy()
        self._start_dns()
        self._open_door()
        self._plane.kubectl("wait", "--for=create", f"node/{cluster.REAL_NODE}", _PATIENCE)
        self._plane.kubectl("wait", "--for=condition=Ready", f"node/{cluster.REAL_NODE}", _PATIENCE)

    def stop(self) -> None:
        """Ends all that it started, pods too, in the reverse order."""
        self._undo.close()

    def load(self, archive: pathlib.Path) -> None:
        """Gives it an image for pods, under the name that its archive says."""
        processes.run(*self.takes_images, archive)

    @property
    def takes_images(self) -> list[str]:
        """The command that `load` runs, without the archive: for a program beside us."""
        return [*self._in_containerd(), "images", "import"]

    def _start_containerd(self) -> None:
        told = self._folder / "containerd.toml"
        told.write_text(settings.containerd(self._folder, ports.free_port()))
        binary = binaries.program(binaries.CONTAINERD, "containerd")
        path = f"{pathlib.Path(binary).parent}:{os.environ['PATH']}"  # it looks for its shim there
        apart = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _APART, str(self._folder)]
        command = ["env", f"PATH={path}", *apart, binary, "--config", str(told)]
        containerd = self._start("containerd", command)
        self._mounts_of = containerd.pid
        containerd.await_ready(self._containerd_answers)

    def _containerd_answers(self) -> bool:
        with contextlib.suppress(RuntimeError):
            return bool(self._socket.exists() and self._ctr("version"))
        return False

    def _start_kubelet(self) -> None:
        port, health = ports.free_ports(2)
        told = self._folder / "kubelet.json"
        told.write_text(json.dumps(settings.kubelet(self._folder, self._plane.certificate, (port, health))))
        words = ["--config", str(told), "--hostname-override", cluster.REAL_NODE]
        words += ["--kubeconfig", str(self._plane.kubeconfig_of(f"system:node:{cluster.REAL_NODE}"))]
        words += ["--root-dir", str(self._folder / "kubelet"), "--cert-dir", str(self._folder / "certificates")]
        kubelet = self._start("kubelet", [*self._inside(), binaries.program(binaries.KUBELET, "kubelet"), *words])
        kubelet.await_ready(lambda: processes.answers(f"http://127.0.0.1:{health}/healthz"))

    def _start_proxy(self) -> None:
        health, metrics = ports.free_ports(2)
        told = self._folder / "kube-proxy.json"
        told.write_text(json.dumps(settings.proxy(self._plane.kubeconfig_of("system:kube-proxy"), health, metrics)))
        proxy = self._start("kube-proxy", [binaries.program(binaries.KUBELET, "kube-proxy"), "--config", str(told)])
        proxy.await_ready(lambda: processes.answers(f"http://127.0.0.1:{health}/healthz"))

    def _start_dns(self) -> None:
        ready = ports.free_port()
        told = self._folder / "Corefile"
        told.write_text(settings.dns(ADDRESS, self._plane.kubeconfig, ready))
        dns = self._start("coredns", [binaries.program(binaries.COREDNS, "coredns"), "-conf", str(told)])
        dns.await_ready(lambda: processes.answers(f"http://127.0.0.1:{ready}/ready"))
        doors = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": settings.DNS_SERVICE, "ports": doors},
        }
        self._plane.apply(service, _leads_to("kube-dns", "kube-system", doors))

    def _open_door(self) -> None:
        """The API server listens on the loopback interface, where no pod gets to; Service `kubernetes` leads there."""
        door = Proxy(0, self._plane.port, ADDRESS)
        self._undo.callback(door.close)
        self._plane.apply(_leads_to("kubernetes", "default", [{"name": "https", "port": door.port, "protocol": "TCP"}]))

    def _start(self, name: str, command: list[str]) -> processes.Daemon:
        daemon = processes.Daemon(self._plane.folder, name, command)
        self._undo.callback(daemon.stop)
        return daemon

    def _ctr(self, *words: str) -> str:
        return processes.run(*self._in_containerd(), *words)

    def _in_containerd(self) -> list[str]:
        program = binaries.program(binaries.CONTAINERD, "ctr")
        return [*self._inside(), program, "--address", str(self._socket), "--namespace", "k8s.io"]

    def _inside(self) -> list[str]:
        """In containerd's mounts."""
        return ["nsenter", "--target", str(self._mounts_of), "--mount"]


@contextlib.contextmanager
def real_node(plane: cluster.ControlPlane, turn: traces.Turn | None = None) -> Iterator[RealNode]:
    """One of the control plane's for as long as the context lasts. turn: of who has one already; who has none waits
    until nobody else has a real node."""
    packages.for_a_node()
    for piece in binaries.NODE:
        binaries.folder(piece)
    made = RealNode(plane)
    try:
        made.start(turn)
        yield made
    finally:
        made.stop()


def _leads_to(service: str, namespace: str, ports: list[dict[str, object]]) -> dict[str, object]:
    """A Service without pods behind it goes to what listens on the bridge."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{service}-on-this-machine",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": [{"addresses": [ADDRESS], "conditions": {"ready": True}}],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.kubernetes.node", description="A Kubernetes with a real node, until Ctrl-C."
    )
    parser.parse_args()
    with cluster.control_plane(fakes=()) as plane, real_node(plane):
        cluster.until_ended(plane)


if __name__ == "__main__":
    main()
