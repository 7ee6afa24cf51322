"""How the cluster is reached: Services, Ingress, and the policy that says by whom."""

from typing import Final

from threadcluster_operator.api import NetworkPeer
from threadcluster_operator.render.inputs import MANAGEMENT_PORT, PUBLIC_PORT, RenderInput
from threadcluster_operator.render.objects import MANAGER, Object, child, selector_of

_DNS_PORT: Final = 53


def headless_service(wanted: RenderInput) -> Object:
    """A name for each worker, ready or not: a worker that recovers is asked by its peers as well."""
    spec: Object = {
        "type": "ClusterIP",
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": selector_of(wanted.name, "worker"),
        "ports": [_port("http", PUBLIC_PORT), _port("management", MANAGEMENT_PORT)],
    }
    return child(wanted, "v1", "Service", wanted.headless_service, "worker", {"spec": spec})


def gateway_service(wanted: RenderInput) -> Object:
    """Where clients come in; every worker serves every thread."""
    service = wanted.spec.gateway.service
    spec: Object = {
        "type": service.type,
        "ipFamilyPolicy": "PreferDualStack",
        "selector": selector_of(wanted.name, "worker"),
        "ports": [{**_port("http", service.port), "targetPort": PUBLIC_PORT}],
    }
    if service.load_balancer_class is not None:
        spec["loadBalancerClass"] = service.load_balancer_class
    return child(
        wanted, "v1", "Service", wanted.gateway_service, "gateway", {"spec": spec}, annotations=service.annotations
    )


def ingress(wanted: RenderInput) -> Object | None:
    """An Ingress to the gateway's Service, where one is wanted."""
    given = wanted.spec.gateway.ingress
    if given is None:
        return None
    host: Object = {} if given.host is None else {"host": given.host}
    backend = {"service": {"name": wanted.gateway_service, "port": {"name": "http"}}}
    spec: Object = {
        "rules": [{**host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}],
    }
    if given.class_name is not None:
        spec["ingressClassName"] = given.class_name
    if given.tls_secret_name is not None:
        hosts: Object = {} if given.host is None else {"hosts": [given.host]}
        spec["tls"] = [{**hosts, "secretName": given.tls_secret_name}]
    return child(
        wanted,
        "networking.k8s.io/v1",
        "Ingress",
        wanted.name,
        "gateway",
        {"spec": spec},
        annotations=given.annotations,
    )


def network_policy(wanted: RenderInput) -> Object | None:
    """The NetworkPolicy for connections to the pods, and with mode Full also from the pods; None with mode Off.

    It covers the migration's pod as well.  Kubelets probe their own pods whatever a policy says.
    """
    policy = wanted.spec.network_policy
    if policy.mode == "Off":
        return None
    own: Object = {"podSelector": {"matchLabels": selector_of(wanted.name)}}
    operator: Object = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": wanted.operator_namespace}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": MANAGER}},
    }
    monitoring = [_peer(each) for each in policy.monitoring_from]
    clients = [_peer(each) for each in policy.allow_from] or [{"podSelector": {}}]  # every pod of the namespace
    spec: Object = {
        "podSelector": own["podSelector"],
        "policyTypes": ["Ingress"],
        "ingress": [
            {"from": clients, "ports": [_tcp(PUBLIC_PORT)]},
            {"from": [own, operator, *monitoring], "ports": [_tcp(MANAGEMENT_PORT)]},
        ],
    }
    if policy.mode == "Full":
        spec["policyTypes"].append("Egress")
        spec["egress"] = [
            {"ports": [{"protocol": "UDP", "port": _DNS_PORT}, _tcp(_DNS_PORT)]},
            {"to": [own], "ports": [_tcp(MANAGEMENT_PORT)]},
            {"to": [_peer(each) for each in policy.egress_to]},
        ]
    return child(wanted, "networking.k8s.io/v1", "NetworkPolicy", wanted.name, "worker", {"spec": spec})


def _port(name: str, number: int) -> Object:
    return {"name": name, "port": number, "targetPort": number, "protocol": "TCP"}


def _tcp(port: int) -> Object:
    return {"protocol": "TCP", "port": port}


def _peer(peer: NetworkPeer) -> Object:
    """As Kubernetes writes it.  An empty selector is a selector: it means everything."""
    return peer.model_dump(by_alias=True, exclude_none=True, exclude_unset=True)
