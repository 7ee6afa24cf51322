"""A real node: containerd, kubelet and kube-proxy beside a control plane, in namespaces that `enter` made.

Everything is at one address of a bridge without an uplink, to which the range of Services is routed: what kube-proxy does
not translate dies there.  Pods are routed, one link each, so that an answer always comes back the way it was translated.
The parts of a node write at fixed places of the machine; the files are in memory that only these namespaces see.
"""

import asyncio
import contextlib
import json
import os
import subprocess
from functools import partial
from pathlib import Path
from typing import Final

import yaml

from tests.e2e.cluster.build import kubectl
from tests.e2e.cluster.control_plane import SERVICE_RANGE, ControlPlane, answers
from tests.e2e.cluster.program import Program
from tests.e2e.node import packages, pause
from tests.e2e.node.enter import CGROUP_VARIABLE
from tests.support.ports import free_ports

NAME: Final = "node-0"
ADDRESS: Final = "10.255.0.1"
POD_RANGE: Final = "10.244.0.0/24"

_BRIDGE: Final = "node0"
_USER: Final = f"system:node:{NAME}"
_PROXY: Final = "system:kube-proxy"
_HIDDEN: Final = ("/run", "/var/lib/cni", "/var/log/containers")
"""Where parts of a node write without being asked; `/run` also holds all that lives as long as the node."""
_STATE: Final = Path("/run/threadcluster")
_KERNEL: Final = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}
"""Settings that kubelet wants of the whole machine, and only sees."""


class NotApart(Exception):
    """This process is in the machine's own namespaces, where no node must be."""


class KubectlFailed(Exception):
    """The command ended with an error; the message is its own."""


class Node:
    """One cluster of one node, its logs in ``folder``."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        cgroup = os.environ.get(CGROUP_VARIABLE)
        if cgroup is None:
            raise NotApart("run this through `make test-node`: a node needs namespaces of its own")
        _shield(folder)
        self.control_plane = ControlPlane(
            folder / "control-plane", programs, address=ADDRESS, users={_USER: ("system:nodes",), _PROXY: ()}
        )
        kubelet_port, healthz_port, proxy_port, metrics_port = free_ports(ADDRESS, 4)
        self._socket = _STATE / "containerd.sock"
        self.containerd = self._program("containerd", ["containerd", "--config", folder / "containerd.toml"])
        self.kubelet = self._program(
            "kubelet",
            [
                programs / "kubelet",
                f"--config={folder / 'kubelet.yaml'}",
                f"--kubeconfig={folder / 'control-plane' / 'system-node-node-0.kubeconfig'}",
                f"--hostname-override={NAME}",
                f"--node-ip={ADDRESS}",
                f"--root-dir={_STATE / 'kubelet'}",
                f"--cert-dir={_STATE / 'kubelet-pki'}",
            ],
        )
        self.kube_proxy = self._program(
            "kube-proxy", [programs / "kube-proxy", f"--config={folder / 'kube-proxy.yaml'}"]
        )
        self._kubelet_health = f"http://{ADDRESS}:{healthz_port}/healthz"
        self._proxy_health = f"http://{ADDRESS}:{proxy_port}/livez"
        self._write("containerd.toml", _containerd(self._socket, folder))
        _write_network(folder / "cni")
        self._write("kubelet.yaml", yaml.safe_dump(_kubelet(self._socket, folder, cgroup, kubelet_port, healthz_port)))
        proxy_kubeconfig = folder / "control-plane" / "system-kube-proxy.kubeconfig"
        self._write("kube-proxy.yaml", yaml.safe_dump(_kube_proxy(proxy_kubeconfig, proxy_port, metrics_port)))

    @property
    def kubeconfig(self) -> Path:
        """For one who may do everything."""
        return self.control_plane.kubeconfig

    def start(self) -> None:
        """Return when the node is there and its programs are well.  Raises `ProgramFailed`."""
        self.control_plane.start()
        self.containerd.start(lambda: self._ctr("version").returncode == 0)
        self.import_image(pause.write_image(self.folder / "pause.tar"))
        for user in (_USER, _PROXY):
            self.control_plane.kubeconfig_for(user)
        self.kubelet.start(partial(answers, self._kubelet_health))
        self.kube_proxy.start(partial(answers, self._proxy_health))
        self.kubelet.wait_until(self._is_ready)

    def stop(self) -> None:
        """End the node's programs, then what runs in its pods, then the rest; the logs stay."""
        self.kubelet.stop()
        self.kube_proxy.stop()
        if self.containerd.pid is not None:
            for task in self._ctr("tasks", "list", "--quiet").stdout.split():
                self._ctr("tasks", "kill", "--signal", "SIGKILL", "--all", task)
        self.containerd.stop()
        self.control_plane.stop()

    def import_image(self, tar: Path) -> None:
        """Give the node an image that pods name with `imagePullPolicy: Never` or `IfNotPresent`."""
        done = self._ctr("images", "import", str(tar))
        if done.returncode != 0:
            raise RuntimeError(f"containerd refuses {tar}: {done.stderr.strip()}")

    async def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Output of the real kubectl.  Raises `KubectlFailed`."""
        return await run_kubectl(self.kubeconfig, *arguments, stdin=stdin)

    def _is_ready(self) -> bool:
        ready = '{.status.conditions[?(@.type=="Ready")].status}'
        command = [kubectl(), f"--kubeconfig={self.kubeconfig}", "get", "node", NAME, "-o", f"jsonpath={ready}"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout == "True"

    def _ctr(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = ["ctr", "--address", str(self._socket), "--namespace", "k8s.io", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def _program(self, name: str, command: list[str | Path]) -> Program:
        return Program(name, command, logs=self.folder / "logs")

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)


async def run_kubectl(kubeconfig: Path, *arguments: str, stdin: str = "") -> str:
    """Output of the real kubectl on the cluster of ``kubeconfig``.  Raises `KubectlFailed`."""
    pipe = asyncio.subprocess.PIPE
    running = await asyncio.create_subprocess_exec(
        kubectl(), f"--kubeconfig={kubeconfig}", *arguments, stdin=pipe, stdout=pipe, stderr=pipe
    )
    output, complained = await running.communicate(stdin.encode())
    if running.returncode != 0:
        raise KubectlFailed(f"kubectl {' '.join(arguments)}: {complained.decode().strip()}")
    return output.decode()


def _shield(folder: Path) -> None:
    """Make the network, and hide from the machine what the node writes at fixed places.  Raises `NotApart`."""
    links = json.loads(_run("ip", "-json", "link", "show"))
    if any(link["ifname"] not in ("lo", _BRIDGE) for link in links):
        raise NotApart("this network has an uplink: no node must be on it")
    if any(link["ifname"] == _BRIDGE for link in links):
        return  # a node of this very run was here before
    for place in _HIDDEN:
        Path(place).mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "tmpfs", place)
    for name, value in _KERNEL.items():
        shown = folder / name.replace("/", "-")
        shown.write_text(f"{value}\n")
        _run("mount", "--bind", str(shown), f"/proc/sys/{name}")
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "add", _BRIDGE, "type", "bridge")
    _run("ip", "address", "add", f"{ADDRESS}/32", "dev", _BRIDGE)
    _run("ip", "link", "set", _BRIDGE, "up")
    _run("ip", "route", "add", SERVICE_RANGE, "dev", _BRIDGE)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    with contextlib.suppress(FileExistsError):
        _STATE.mkdir()


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _containerd(socket: Path, folder: Path) -> str:
    return f"""\
version = 2
root = "{_STATE}/containerd"
state = "{_STATE}/containerd-state"

[grpc]
  address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause.NAME}"
  restrict_oom_score_adj = true  # without CAP_SYS_RESOURCE runc dies otherwise
  stream_server_address = "{ADDRESS}"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{packages.CNI}"
    conf_dir = "{folder}/cni"
"""


def _write_network(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    routes = [{"dst": "0.0.0.0/0"}]
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": POD_RANGE}]],
        "routes": routes,
        "dataDir": f"{_STATE}/cni",
    }
    network = {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [{"type": "ptp", "ipam": addresses}, {"type": "portmap", "capabilities": {"portMappings": True}}],
    }
    (folder / "10-pods.conflist").write_text(json.dumps(network, indent=1))


def _kubelet(socket: Path, folder: Path, cgroup: str, port: int, healthz_port: int) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ADDRESS,
        "port": port,
        "healthzBindAddress": ADDRESS,
        "healthzPort": healthz_port,
        "containerRuntimeEndpoint": f"unix://{socket}",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},  # no other client is here
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "failCgroupV1": False,
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,  # a full disk of the machine takes no image away
        "imageGCLowThresholdPercent": 99,
        "localStorageCapacityIsolation": False,
        "makeIPTablesUtilChains": False,
        "oomScoreAdj": 0,
        "resolvConf": "",  # there is no DNS: pods reach each other by address
        "podLogsDir": str(folder / "logs" / "pods"),
        "volumePluginDir": f"{_STATE}/volume-plugins",
        "nodeLeaseDurationSeconds": 8,  # the control plane waits 10 s for a sign of life
        "nodeStatusUpdateFrequency": "2s",
    }


def _kube_proxy(kubeconfig: Path, port: int, metrics_port: int) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": NAME,
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "conntrack": {"maxPerCore": 0, "min": 0},  # the machine's own table
        "healthzBindAddress": f"{ADDRESS}:{port}",
        "metricsBindAddress": f"{ADDRESS}:{metrics_port}",
    }
