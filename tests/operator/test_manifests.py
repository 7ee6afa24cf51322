"""The manifests: complete references between files, minimal rights, pods that need no exception.

`tests/e2e/cluster/test_manifests.py` applies them to a real API server.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from threadcluster_operator.api import parse_resources
from threadcluster_operator.render import KINDS, RenderInput, children

from tests.support.paths import ROOT
from tests.support.rendered_clusters import cluster

MANIFESTS = ROOT / "manifests"
FOLDERS = sorted(file.parent for file in MANIFESTS.rglob("kustomization.yaml"))
NAME = {"app.kubernetes.io/name": "threadcluster-operator"}


def documents(folder: Path) -> Iterator[dict[str, Any]]:
    """The objects that a folder's kustomization lists, those of other folders as well, before it changes them."""
    for listed in yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]:
        path = (folder / listed).resolve()
        if path.is_dir():
            yield from documents(path)
        else:
            yield from yaml.safe_load_all(path.read_text())


def named(kind: str, folder: Path = MANIFESTS / "base") -> dict[str, Any]:
    """The one object of a kind, the operator's where there are others."""
    found = [each for each in documents(folder) if each["kind"] == kind]
    return next(each for each in found if len(found) == 1 or each["metadata"]["name"] == "threadcluster-operator")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_file_belongs_to_a_kustomization_and_is_an_object(folder: Path) -> None:
    """None is forgotten, and each says what it is."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    listed = {name for name in kustomization["resources"] if name.endswith(".yaml")}
    assert listed == {file.name for file in folder.glob("*.yaml")} - {"kustomization.yaml"}
    for each in documents(folder):
        assert each["apiVersion"]
        assert each["kind"]
        assert each["metadata"]["name"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_patch_has_something_to_change(folder: Path) -> None:
    """A target that is not there would be skipped in silence."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    there = {(each["kind"], each["metadata"]["name"]) for each in documents(folder)}
    for patch in kustomization.get("patches", ()):
        yaml.safe_load(patch["patch"])
        target = patch["target"]
        assert any(kind == target["kind"] and name == target.get("name", name) for kind, name in there)


def rights() -> dict[tuple[str, str], set[str]]:
    """Verbs by group and resource."""
    return {
        (group, resource): set(rule["verbs"])
        for rule in named("ClusterRole")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_the_operator_may_make_what_it_makes() -> None:
    """Every kind of child: made, and, but for Secrets, read, corrected (a Job cannot be) and watched."""
    given = rights()
    for kind in KINDS:
        group = kind.api_version.rpartition("/")[0]
        needed = {"create", "delete"} if kind.kind == "Secret" else {"get", "create", "list", "watch"}
        needed |= {"patch"} if kind.kind not in ("Job", "Secret") else set()
        assert given[(group, kind.plural)] >= needed, kind


def test_the_operator_may_not_do_more() -> None:
    """No wildcards, no Secret read or changed, no nodes, no roles, and no user's object changed."""
    given = rights()
    assert "*" not in {word for (group, resource), verbs in given.items() for word in (group, resource, *verbs)}
    assert given[("", "secrets")] == {"create", "delete"}
    assert given[("", "namespaces")] == {"get"}
    assert given[("threadcluster.io", "threadclusters")] == {"list", "watch"}
    assert not {"nodes", "configmaps", "roles", "clusterroles", "serviceaccounts"} & {name for _, name in given}
    kept = {resource for (_, resource), verbs in given.items() if "delete" in verbs}
    assert kept == {"secrets", "jobs", "networkpolicies", "ingresses", "servicemonitors"}


def test_the_bindings_are_the_operators() -> None:
    """Both roles are bound to the account that its pods have."""
    for kind in ("ClusterRoleBinding", "RoleBinding"):
        binding = next(each for each in documents(MANIFESTS / "base") if each["kind"] == kind)
        [subject] = binding["subjects"]
        assert (subject["kind"], subject["name"]) == ("ServiceAccount", "threadcluster-operator")
        role = next(each for each in documents(MANIFESTS / "base") if each["kind"] == binding["roleRef"]["kind"])
        assert role["metadata"]["name"] == binding["roleRef"]["name"]
    assert named("Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "threadcluster-operator"


@pytest.mark.parametrize(
    ("kind", "folder"),
    [("Deployment", MANIFESTS / "base"), ("StatefulSet", MANIFESTS / "overlays" / "kind")],
    ids=["operator", "Postgres"],
)
def test_pods_keep_the_restricted_standard(kind: str, folder: Path) -> None:
    """With read-only files as well."""
    spec = named(kind, folder)["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    [container] = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_clusters_policies_let_the_operators_pods_in() -> None:
    """By the labels and the namespace that they have."""
    wanted: RenderInput = cluster(operator_namespace=named("Namespace")["metadata"]["name"])
    policy = next(each for each in children(wanted) if each["kind"] == "NetworkPolicy")
    peers = policy["spec"]["ingress"][1]["from"]
    labels = named("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert any(
        peer["podSelector"]["matchLabels"].items() <= labels.items()
        and peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name")
        == named("Deployment")["metadata"]["namespace"]
        for peer in peers
    )
    assert named("PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert named("Deployment")["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_a_sample_finds_the_postgres_of_the_kind_overlay() -> None:
    """The README's way: the overlay, then the small sample, in the namespace `default`."""
    secret, service = (
        named("Secret", MANIFESTS / "overlays" / "kind"),
        named("Service", MANIFESTS / "overlays" / "kind"),
    )
    words = secret["stringData"]
    sample = MANIFESTS / "samples" / "small.yaml"
    url = parse_resources(sample.read_text(), "small.yaml").database_url()
    host = f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert url == f"postgresql://{words['POSTGRES_USER']}:{words['POSTGRES_PASSWORD']}@{host}/{words['POSTGRES_DB']}"
    assert {each["metadata"]["namespace"] for each in (secret, service)} == {"default"}


def test_the_samples_run_the_image_that_the_operator_runs() -> None:
    """One image is loaded, and it serves for both."""
    [image] = yaml.safe_load((MANIFESTS / "base" / "kustomization.yaml").read_text())["images"]
    sample = parse_resources((MANIFESTS / "samples" / "small.yaml").read_text(), "small.yaml").cluster
    assert sample.spec.image == f"{image['name']}:{image['newTag']}"
