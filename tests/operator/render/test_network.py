"""How a cluster is reached, and by whom."""

from typing import Any

import pytest
from threadcluster_operator.render import selector_of

from tests.support.rendered_clusters import EVERYTHING, LEAST, cluster, find, least

OWN = {"podSelector": {"matchLabels": selector_of("chat")}}


def test_peers_find_workers_that_are_not_ready() -> None:
    """A recovering worker is asked as well."""
    spec = find(cluster(), "Service", "chat-workers")["spec"]
    assert spec["publishNotReadyAddresses"] is True
    assert spec["clusterIP"] == "None"
    assert spec["selector"] == find(cluster(), "StatefulSet")["spec"]["selector"]["matchLabels"]
    assert find(cluster(), "StatefulSet")["spec"]["serviceName"] == "chat-workers"


def test_clients_come_by_the_gateways_service() -> None:
    """As the user wants it."""
    spec = find(cluster(), "Service", "chat")["spec"]
    assert spec["type"] == "ClusterIP"
    assert spec["ports"] == [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]
    assert "loadBalancerClass" not in spec
    service = find(cluster(EVERYTHING), "Service", "chat")
    assert (service["spec"]["type"], service["spec"]["loadBalancerClass"]) == ("LoadBalancer", "service.k8s.aws/nlb")
    assert service["metadata"]["annotations"]["service.kubernetes.io/aws-load-balancer-scheme"] == "internal"


def test_only_the_own_namespace_and_the_operator_come_in_by_default() -> None:
    """The management port is for the cluster itself and its operator; any other peer is named in the spec."""
    spec = find(cluster(), "NetworkPolicy")["spec"]
    public, management = spec["ingress"]
    assert public == {"from": [{"podSelector": {}}], "ports": [{"protocol": "TCP", "port": 8080}]}
    assert management["ports"] == [{"protocol": "TCP", "port": 8081}]
    own, operator = management["from"]
    assert own == OWN
    assert operator["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "threadcluster-system"}
    assert operator["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "threadcluster-operator"}
    assert spec["policyTypes"] == ["Ingress"]
    assert "egress" not in spec


def test_allow_from_closes_the_api_to_all_others() -> None:
    """An empty selector is kept: it means all."""
    spec = find(cluster(EVERYTHING), "NetworkPolicy")["spec"]
    assert spec["ingress"][0]["from"] == [
        {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}},
    ]


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"ipBlock": {"cidr": "10.0.0.0/8"}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}),
        ({"podSelector": {}, "ipBlock": None}, {"podSelector": {}}),
    ],
    ids=["a default", "a null"],
)
def test_a_peer_is_written_without_what_is_left_out(given: dict[str, Any], made: dict[str, Any]) -> None:
    """The API server would show an item of a list without it, and the policy would be applied again and again."""
    policy = find(least(networkPolicy={"allowFrom": [given]}), "NetworkPolicy")
    assert policy["spec"]["ingress"][0]["from"] == [made]


def test_monitoring_is_let_in_by_name() -> None:
    """To the management port alone."""
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}, "podSelector": {}}
    public, management = find(least(networkPolicy={"monitoringFrom": [peer]}), "NetworkPolicy")["spec"]["ingress"]
    assert management["from"][2:] == [peer]
    assert peer not in public["from"]


def test_mode_full_lets_pods_reach_names_each_other_and_what_is_listed() -> None:
    """The migration's pod as well: the policy is for all of the cluster's pods."""
    spec = find(cluster(EVERYTHING), "NetworkPolicy")["spec"]
    names, own, listed = spec["egress"]
    assert {port["port"] for port in names["ports"]} == {53}
    assert own == {"to": [OWN], "ports": [{"protocol": "TCP", "port": 8081}]}
    assert listed == {"to": [{"ipBlock": {"cidr": "10.1.0.0/16", "except": ["10.1.2.0/24"]}}]}
    for kind in ("StatefulSet", "Job"):
        labels = find(cluster(EVERYTHING), kind)["spec"]["template"]["metadata"]["labels"]
        assert labels.items() >= spec["podSelector"]["matchLabels"].items()


def test_an_ingress_leads_to_the_gateways_service() -> None:
    """With what the user says, and without what the user leaves out."""
    backend = {"service": {"name": "chat", "port": {"name": "http"}}}
    paths = {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}
    assert find(cluster(EVERYTHING), "Ingress")["spec"] == {
        "ingressClassName": "nginx",
        "rules": [{"host": "chat.example.com", "http": paths}],
        "tls": [{"hosts": ["chat.example.com"], "secretName": "chat-tls"}],
    }
    bare = least(gateway={"ingress": {}})
    assert find(bare, "Ingress")["spec"] == {"rules": [{"http": paths}]}
    any_host = cluster({**LEAST, "gateway": {"ingress": {"tlsSecretName": "t"}}})
    assert find(any_host, "Ingress")["spec"]["tls"] == [{"secretName": "t"}]
