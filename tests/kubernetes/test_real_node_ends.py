"""What a real node leaves on the machine: nothing, also after one that was killed."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest
from tests import timing
from tests.kubernetes import cluster, images, manifests, node, processes, traces

pytestmark = [pytest.mark.real_node, pytest.mark.kubernetes, pytest.mark.slow]
HERE = pathlib.Path(__file__).parent
COMMAND = [sys.executable, "-m", "tests.kubernetes.node"]
IMAGE = "localhost/trimtab-test-app:1"
# Where such programs leave files, and what they run.
FOLDERS = ("/run/containerd", "/run/netns", "/var/lib/kubelet", "/var/lib/cni", "/var/lib/containerd", "/var/log/pods")
PROGRAMS = ("containerd", "containerd-shim-runc-v2", "kubelet", "kube-proxy", "coredns", "pause", "runc")


def state() -> dict[str, object]:
    """Of the machine, as far as a node may change it."""
    settings = processes.run("sysctl", "--all", "--pattern", r"^(net\.ipv[46]|net\.bridge|vm\.over|kernel\.panic)")
    return {
        "sysctls": [one for one in settings.splitlines() if "conntrack" not in one],
        "links": sorted(path.name for path in pathlib.Path("/sys/class/net").iterdir()),
        "rules": processes.run("nft", "list", "tables"),
        "routes": processes.run("ip", "route"),
        "mounts": pathlib.Path("/proc/self/mounts").read_text(),
        "cgroups": sorted(str(path) for path in pathlib.Path("/sys/fs/cgroup").glob("**/*pods*") if path.is_dir()),
        "files": {folder: sorted(map(str, pathlib.Path(folder).rglob("*"))) for folder in FOLDERS},
        "programs": sorted(name for name in map(_program, pathlib.Path("/proc").glob("[0-9]*")) if name in PROGRAMS),
    }


def _program(process: pathlib.Path) -> str:
    try:
        return pathlib.Path((process / "cmdline").read_text().split("\0")[0]).name
    except OSError:
        return ""


def run_pods(plane: cluster.ControlPlane, real: node.RealNode) -> None:
    """Returns when two run."""
    real.load(images.Image(IMAGE, HERE / "app" / "Dockerfile", HERE, ["app/server.py"]).archive())
    pods = manifests.deployment("left", IMAGE, container={"imagePullPolicy": "Never"})
    plane.apply(pods, manifests.service("left", 8080))
    plane.kubectl("rollout", "status", "deployment/left", f"--timeout={timing.PATIENCE_S:.0f}s")


def test_nothing_is_left_even_of_pods_that_still_ran() -> None:
    with traces.turn() as turn:
        before = state()
        with cluster.control_plane(fakes=()) as plane, node.real_node(plane, turn) as real:
            run_pods(plane, real)
            during = state()
        assert state() == before
    # what was looked at changes while there is one
    same = {name for name in before if during[name] == before[name]}
    assert same <= {"mounts", "files"}


def test_one_that_does_not_come_up_says_why_and_leaves_nothing() -> None:
    with traces.turn() as turn:
        before = state()
        with cluster.control_plane(fakes=()) as plane:
            plane.certificate.unlink()
            refused = pytest.raises(RuntimeError, match=r"(?s)kubelet ended with status 1:.*ca\.pem")
            with refused, node.real_node(plane, turn):
                raise AssertionError("it came up")
        assert state() == before


def test_somebody_else_s_kubernetes_stays_as_it_is() -> None:
    with traces.turn() as turn:
        before = state()
        processes.run("nft", "add", "table", "ip", "kube-proxy")
        try:
            refused = pytest.raises(RuntimeError, match=r"Somebody else's kube-proxy .* nft table ip kube-proxy")
            with refused, traces.none_left(turn):
                raise AssertionError("it began")
            assert processes.run("nft", "list", "tables") == f"{before['rules']}table ip kube-proxy\n"
        finally:
            processes.run("nft", "delete", "table", "ip", "kube-proxy")
        assert state() == before


def test_what_one_that_was_killed_has_left_is_removed_by_the_next() -> None:
    with traces.turn():
        before = state()
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        said = started.stdout.readline().split()
        kubeconfig = pathlib.Path(said[said.index("--kubeconfig") + 1])
        kubectl = [said[0], "--kubeconfig", kubeconfig, "--cache-dir", kubeconfig.parent / "kubectl"]
        pod = manifests.deployment("left", "localhost/pause:1", container={"imagePullPolicy": "Never"})
        processes.run(*kubectl, "apply", "-f", "-", said=json.dumps(pod))
        waited = ["rollout", "status", "deployment/left", f"--timeout={timing.PATIENCE_S:.0f}s"]
        processes.run(*kubectl, *waited)
        os.kill(started.pid, signal.SIGKILL)
    with traces.turn() as turn:
        with cluster.control_plane(fakes=()) as plane, node.real_node(plane, turn) as real:
            run_pods(plane, real)
        shutil.rmtree(kubeconfig.parent)
        assert state() == before
