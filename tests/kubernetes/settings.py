"""What the programs of a real node are told."""

import json
import pathlib

from tests.kubernetes import cluster, traces

DNS_SERVICE = "10.96.0.10"


def containerd(folder: pathlib.Path, stream_port: int) -> str:
    cni = folder / "cni"
    cni.mkdir()
    ranges = {"ranges": [[{"subnet": traces.PODS}]], "routes": [{"dst": cluster.SERVICES}]}
    bridge = {"type": "bridge", "bridge": traces.BRIDGE, "isGateway": True, "hairpinMode": True}
    addresses = {"type": "host-local", "dataDir": str(folder / "addresses"), **ranges}
    network = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{**bridge, "ipam": addresses}]}
    (cni / "10-bridge.conflist").write_text(json.dumps(network))
    return _CONTAINERD.format(folder=folder, port=stream_port)


def kubelet(folder: pathlib.Path, authority: pathlib.Path, ports: tuple[int, int]) -> dict[str, object]:
    """ports: its own, and that of its health."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "127.0.0.1",
        "port": ports[0],
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": ports[1],
        "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": str(authority)}},
        "containerRuntimeEndpoint": f"unix://{folder / 'containerd.sock'}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{traces.CGROUP}",
        "failCgroupV1": False,
        "makeIPTablesUtilChains": False,
        "failSwapOn": False,
        "volumePluginDir": str(folder / "plugins"),
        "resolvConf": "",
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        # a disk that is nearly full for others is no reason to put our pods out, or to throw their images away
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 99,
        "imageGCLowThresholdPercent": 98,
    }


def dns(address: str, kubeconfig: pathlib.Path, ready: int) -> str:
    """ready: the port on which it says whether it knows the cluster yet. It knows no other names: pods have no way
    out."""
    return _COREDNS.format(address=address, kubeconfig=kubeconfig, ready=ready)


def proxy(kubeconfig: pathlib.Path, health: int, metrics: int) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "hostnameOverride": cluster.REAL_NODE,
        "bindAddress": "127.0.0.1",
        "healthzBindAddress": f"127.0.0.1:{health}",
        "metricsBindAddress": f"127.0.0.1:{metrics}",
        "mode": "nftables",
        "oomScoreAdj": 0,
        # the machine's own connection tracking stays as it is
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "detectLocalMode": "BridgeInterface",
        "detectLocal": {"bridgeInterface": traces.BRIDGE},
        "nodePortAddresses": ["127.0.0.0/8"],
        "nftables": {"minSyncPeriod": "200ms", "syncPeriod": "30s"},
    }


_CONTAINERD = """\
version = 3
root = "{folder}/containerd"
state = "{folder}/containerd-state"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{folder}/containerd.sock"
[ttrpc]
  address = "{folder}/containerd.sock.ttrpc"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "localhost/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true  # root of a container lacks CAP_SYS_RESOURCE, with which alone it could be lowered
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "/usr/sbin/runc"
      SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "{port}"
"""
_COREDNS = """\
cluster.local:53 in-addr.arpa:53 {{
    bind {address}
    ready 127.0.0.1:{ready}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig} trimtab-test
        pods insecure
        ttl 2
    }}
    cache 2
    loadbalance
}}
.:53 {{
    bind {address}
    template ANY ANY . {{
        rcode NXDOMAIN
    }}
}}
"""
