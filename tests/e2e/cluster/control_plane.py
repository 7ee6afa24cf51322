"""A real control plane for the tests: etcd, API server, controller manager and scheduler, as children, without root.

Everything listens on one address, by default 127.0.0.1, on free ports.  Users are known by tokens that are made for this
one run; the API server makes its own certificate, whose key also signs the tokens of service accounts, so that nothing
but Kubernetes itself is needed.  Its audit log has every request but the control plane's own reads.
"""

import base64
import json
import secrets
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from tests.e2e.cluster.kubeconfig import write_kubeconfig
from tests.e2e.cluster.program import Program
from tests.support.kube_api import Api
from tests.support.ports import free_ports

SERVICE_RANGE: Final = "10.96.0.0/16"
ADMIN: Final = "admin"

_USERS: Final[Mapping[str, Sequence[str]]] = {
    ADMIN: ("system:masters",),
    "system:kube-controller-manager": (),
    "system:kube-scheduler": (),
}
"""Users with their groups; Kubernetes itself brings roles for the names that begin with ``system:``."""

_AUDIT_POLICY: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*", "/version"]},
        {
            "level": "None",
            "userGroups": ["system:serviceaccounts:kube-system", "system:nodes"],
            "verbs": ["get", "list", "watch"],
        },
        {"level": "None", "users": ["system:apiserver", "system:kube-scheduler", "system:kube-controller-manager"]},
        {"level": "Metadata"},
    ],
}


class ControlPlane:
    """One control plane in one folder, with the programs of another."""

    def __init__(
        self,
        folder: Path,
        programs: Path,
        *,
        address: str = "127.0.0.1",
        users: Mapping[str, Sequence[str]] | None = None,
        node_monitor_grace_s: int = 10,
        feature_gates: str = "",
    ) -> None:
        """``users``: whom the API server knows besides its own, with their groups; ``feature_gates``: as `A=true,B=false`, of
        the API server and the controller manager.
        """
        self.folder = folder
        self.address = address
        self.audit_log = folder / "audit.log"
        self._programs = programs
        gates = [f"--feature-gates={feature_gates}"] if feature_gates else []
        self._tokens = {user: (secrets.token_hex(16), groups) for user, groups in {**_USERS, **(users or {})}.items()}
        etcd_port, peer_port, self._port, manager_port, scheduler_port = free_ports(address, 5)
        self._certificates = folder / "certificates"
        self.etcd = self._program("etcd", _etcd(folder, address, etcd_port, peer_port))
        self._etcd_health = f"http://{address}:{etcd_port}/health"
        self.api_server = self._program("kube-apiserver", [*self._api_server_flags(etcd_port), *gates])
        self.controller_manager = self._program(
            "kube-controller-manager",
            [
                *self._client_flags("system:kube-controller-manager", manager_port),
                f"--root-ca-file={self.certificate}",
                "--use-service-account-credentials",
                f"--node-monitor-grace-period={node_monitor_grace_s}s",
                "--node-monitor-period=2s",
                "--concurrent-statefulset-syncs=20",  # tests have hundreds of clusters, and do not wait for the queue
                "--concurrent-gc-syncs=20",
                *gates,
            ],
        )
        self.scheduler = self._program("kube-scheduler", self._client_flags("system:kube-scheduler", scheduler_port))
        self._health = {
            self.controller_manager.name: f"https://{address}:{manager_port}/healthz",
            self.scheduler.name: f"https://{address}:{scheduler_port}/healthz",
        }

    @property
    def server(self) -> str:
        """Where the API server is."""
        return f"https://{self.address}:{self._port}"

    @property
    def certificate(self) -> Path:
        """The API server's certificate, and the authority that it is of."""
        return self._certificates / "apiserver.crt"

    @property
    def kubeconfig(self) -> Path:
        """For one who may do everything."""
        return self.kubeconfig_for(ADMIN)

    def kubeconfig_for(self, user: str) -> Path:
        """For one of the users that were named at the beginning."""
        path = self.folder / f"{user.replace(':', '-')}.kubeconfig"
        if not path.exists():
            authority = base64.b64encode(self.certificate.read_bytes()).decode()
            write_kubeconfig(path, server=self.server, authority=authority, token=self._tokens[user][0])
        return path

    def start(self, *, controller_manager: bool = True, scheduler: bool = True) -> None:
        """Start etcd and the API server, and what is wanted of the rest; return when all are ready.

        Raises `ProgramFailed`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "audit-policy.yaml").write_text(yaml.safe_dump(_AUDIT_POLICY))
        tokens = [f'{token},{user},{user},"{",".join(groups)}"' for user, (token, groups) in self._tokens.items()]
        (self.folder / "tokens.csv").touch(mode=0o600)
        (self.folder / "tokens.csv").write_text("\n".join(tokens) + "\n")
        self.etcd.start(partial(answers, self._etcd_health))
        self.start_api_server()
        for wanted, program in ((controller_manager, self.controller_manager), (scheduler, self.scheduler)):
            if wanted:
                self.kubeconfig_for(f"system:{program.name}")
                program.start(partial(answers, self._health[program.name]))

    def start_api_server(self) -> None:
        """Start the API server, for the first time or again, and return when it is ready.  Raises `ProgramFailed`."""
        self.api_server.start(partial(answers, f"{self.server}/readyz"))

    def stop(self) -> None:
        """End everything; the logs stay, the data does not."""
        for program in (self.scheduler, self.controller_manager, self.api_server, self.etcd):
            program.stop()
        shutil.rmtree(self.folder / "etcd", ignore_errors=True)

    def _program(self, part: str, flags: Sequence[str]) -> Program:
        return Program(part, [self._programs / part, *flags], logs=self.folder / "logs")

    def _api_server_flags(self, etcd_port: int) -> list[str]:
        key = self._certificates / "apiserver.key"  # the server makes it before it reads it
        loopback = self.address.startswith("127.")
        return [
            f"--etcd-servers=http://{self.address}:{etcd_port}",
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            # An Endpoints object must not have a loopback address.
            *(["--endpoint-reconciler-type=none"] if loopback else []),
            f"--secure-port={self._port}",
            f"--cert-dir={self._certificates}",
            f"--service-account-issuer={self.server}",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            f"--audit-policy-file={self.folder / 'audit-policy.yaml'}",
            f"--audit-log-path={self.audit_log}",
            "--kubelet-preferred-address-types=InternalIP",  # no name server here resolves a node's name
        ]

    def _client_flags(self, user: str, port: int) -> list[str]:
        return [
            f"--kubeconfig={self.folder / user.replace(':', '-')}.kubeconfig",
            "--leader-elect=false",
            f"--bind-address={self.address}",
            f"--secure-port={port}",
            f"--cert-dir={self._certificates}",
            "--kube-api-qps=300",
            "--kube-api-burst=600",
        ]


def read_audit(path: Path, *, user: str | None = None) -> Iterator[dict[str, Any]]:  # the log's own shape
    """The requests in an audit log, oldest first: of one user (``system:serviceaccount:NAMESPACE:NAME``), or of all."""
    with path.open() as lines:
        for line in lines:
            entry = json.loads(line)
            if user is None or entry["user"].get("username") == user:  # who is not known has no name
                yield entry


class Write(NamedTuple):
    """A request that changes something, as an audit log has it."""

    verb: str
    resource: str
    name: str


def read_writes(path: Path, *, namespace: str | None = None, user: str | None = None) -> list[Write]:
    """The writes in an audit log, oldest first: to one namespace or anywhere, of one user or of all (`read_audit`).

    Dry runs are none.
    """
    return [write for _, write in read_timed_writes(path, namespace=namespace, user=user)]


def read_timed_writes(
    path: Path, *, namespace: str | None = None, user: str | None = None, dry_runs: bool = False
) -> list[tuple[float, Write]]:
    """As `read_writes`, each with when it arrived, in seconds since the epoch; or the dry runs instead."""
    return [
        (
            datetime.fromisoformat(entry["requestReceivedTimestamp"]).timestamp(),
            Write(entry["verb"], about["resource"], about.get("name", "")),
        )
        for entry in read_audit(path, user=user)
        if (about := entry.get("objectRef"))
        and namespace in (None, about.get("namespace"))
        and entry["verb"] not in ("get", "list", "watch")
        and ("dryRun=All" in entry["requestURI"]) is dry_runs
    ]


def _etcd(folder: Path, address: str, port: int, peer_port: int) -> list[str]:
    client, peer = f"http://{address}:{port}", f"http://{address}:{peer_port}"
    return [
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",  # what it holds is thrown away
        "--log-level=warn",
    ]


def answers(url: str) -> bool:
    """Whether a health page says ok.  Raises `OSError` while no server listens.

    It asks only whether the program is up: whose certificate that is, its clients check.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False


def writes_in(api: Api, namespace: str) -> list[Write]:
    """Every write to a namespace but the renewals of Leases, from the API server's own log."""
    assert api.audit_log is not None
    return [each for each in read_writes(api.audit_log, namespace=namespace) if each.resource != "leases"]
