"""Drift: fields that the API server and others add are none, fields that differ from the wanted ones are."""

import copy
import random
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadcluster_operator.render import Object, differences, is_applied
from threadcluster_operator.render.quantities import amount

from tests.support.rendered_clusters import EVERYTHING, all_objects, cluster, find, least

OBJECTS = all_objects(cluster(EVERYTHING))
SHARED_LISTS = {
    "metadata/ownerReferences",
    "spec/ports",
    "spec/containers",
    "spec/volumes",
    "spec/imagePullSecrets",
    "spec/topologySpreadConstraints",
    "containers/env",
    "containers/ports",
    "containers/volumeMounts",
}
"""Those that the Kubernetes API merges item by item."""

Path = tuple[str | int, ...]


def inside(value: Any, path: Path = ()) -> list[tuple[Path, Any]]:
    """Everything in a JSON value, by its path."""
    here = [(path, value)]
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        here += inside(part, (*path, key))
    return here


def at(value: Any, path: Path) -> Any:
    """The value at a path."""
    for key in path:
        value = value[key]
    return value


PLACES = [(number, path) for number, each in enumerate(OBJECTS) for path, _ in inside(each)]
MAPS = [place for place in PLACES if isinstance(at(OBJECTS[place[0]], place[1]), dict)]
LISTS = [place for place in PLACES if isinstance(at(OBJECTS[place[0]], place[1]), list)]
LEAVES = [place for place in PLACES if not isinstance(at(OBJECTS[place[0]], place[1]), dict | list)]


def test_what_is_wanted_is_as_wanted() -> None:
    """Nothing is applied twice."""
    for made in OBJECTS:
        assert differences(made, copy.deepcopy(made)) == []


@given(places=st.lists(st.sampled_from(MAPS), min_size=1, max_size=20), value=st.sampled_from([None, 1, "x", {}, []]))
def test_what_others_add_to_maps_is_no_difference(places: list[tuple[int, Path]], value: object) -> None:
    """Above all the API server's defaults."""
    live = copy.deepcopy(OBJECTS)
    for number, path in places:
        at(live[number], path)["addedByOthers"] = value
    assert all(is_applied(wanted, found) for wanted, found in zip(OBJECTS, live, strict=True))


def test_what_others_add_to_lists_depends_on_the_list() -> None:
    """Where items have keys several may write; a policy's rules, a command, tolerations are one writer's."""
    for number, path in LISTS:
        live = copy.deepcopy(OBJECTS[number])
        at(live, path).append(
            {"name": "added", "mountPath": "/added", "uid": "added", "topologyKey": "added", "port": 1}
        )
        words = [key for key in path if isinstance(key, str)]
        assert is_applied(OBJECTS[number], live) is ("/".join(words[-2:]) in SHARED_LISTS)


def test_what_is_not_as_wanted_is_found() -> None:
    """Whatever it is, and its path says where."""
    for number, path in LEAVES:
        live = copy.deepcopy(OBJECTS[number])
        at(live, path[:-1])[path[-1]] = "not as wanted"
        assert not is_applied(OBJECTS[number], live)
        [found] = set(differences(OBJECTS[number], live))
        words = [key for key in path if isinstance(key, str)]
        assert found == ".".join(words)[: len(found)]


def test_what_is_missing_is_found_unless_it_is_empty() -> None:
    """The API server leaves out what is empty."""
    for number, path in [place for place in PLACES if place[1]]:
        live = copy.deepcopy(OBJECTS[number])
        gone = at(live, path[:-1]).pop(path[-1])
        in_a_list, gated = isinstance(path[-1], int), path[-1] == "maxUnavailable" and "rollingUpdate" in path
        assert is_applied(OBJECTS[number], live) is ((not gone and not in_a_list) or gated)


def changed(value: Any, chance: random.Random) -> Any:
    """A JSON value as an admission rule might leave it: values replaced, left out, and added."""
    if isinstance(value, dict):
        kept = {name: changed(part, chance) for name, part in value.items() if chance.random() > 0.05}
        return {**kept, **({"added": 1} if chance.random() < 0.1 else {})}
    if isinstance(value, list):
        items = [changed(part, chance) for part in value if chance.random() > 0.05]
        return items + [{"name": "sidecar"}] * (chance.random() < 0.1)
    return "rewritten" if chance.random() < 0.1 else value


@given(number=st.integers(0, len(OBJECTS) - 1), seed=st.integers())
def test_what_an_admission_rule_made_of_a_write_is_no_difference(number: int, seed: int) -> None:
    """Whatever it made of it; the fields are named; and a later change of any other writer is found."""
    wanted = OBJECTS[number]
    answer = changed(wanted, random.Random(seed))
    assert differences(wanted, copy.deepcopy(answer), answer) == []
    assert is_applied(wanted, copy.deepcopy(answer), answer)
    for other, path in LEAVES:
        if other != number:
            continue
        live = copy.deepcopy(answer)
        try:
            if at(live, path[:-1])[path[-1]] in ("drifted", None):
                continue
            at(live, path[:-1])[path[-1]] = "drifted"
        except (KeyError, IndexError, TypeError):
            continue  # the rule has taken it out, or put something else there
        if any(isinstance(key, int) for key in path) and not same_items(wanted, answer, path):
            continue  # an item of a list of which the rule has taken some out
        assert differences(wanted, live, answer), path
        assert not is_applied(wanted, live, answer), path


def same_items(wanted: Any, answer: Any, path: Path) -> bool:
    """Whether each list on a path has the items that are wanted, as far as their keys tell."""
    for key in path:
        if isinstance(key, int) and [item_key(each) for each in wanted] != [item_key(each) for each in answer]:
            return False
        wanted, answer = wanted[key], answer[key]
    return True


def item_key(item: Any) -> object:
    """The key of an item of a list, whatever the list is."""
    names = ("name", "uid", "topologyKey", "whenUnsatisfiable", "mountPath", "containerPort", "protocol", "port")
    return tuple(item.get(name) for name in names) if isinstance(item, dict) else item


def test_a_field_that_an_api_server_leaves_out_is_no_difference() -> None:
    """Where its feature gate is off; where the gate is on, another value is one."""
    wanted = find(cluster(), "StatefulSet")
    live = copy.deepcopy(wanted)
    del live["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"]
    assert is_applied(wanted, live)
    live["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] = 1
    assert differences(wanted, live) == ["spec.updateStrategy.rollingUpdate.maxUnavailable"]


def test_a_field_that_an_api_server_leaves_out_hides_no_other() -> None:
    """Whichever comes first."""
    wanted = {"rollingUpdate": {"maxUnavailable": 1, "partition": 2}}
    assert differences(wanted, {"rollingUpdate": {"partition": 1}}) == ["rollingUpdate.partition"]


@pytest.mark.parametrize("answer", [["a"], ["a", "x"], ["a", "x", "y"]], ids=["shorter", "as-it-is", "longer"])
def test_a_list_without_keys_is_compared_with_an_answer_of_its_length(answer: list[str]) -> None:
    """An item has no place in another list."""
    wanted, live = {"args": ["a", "b"]}, {"args": ["a", "x"]}
    assert is_applied(wanted, live, {"args": answer}) is (answer == live["args"])


def test_what_is_wanted_no_more_shows_in_the_mark() -> None:
    """A field that was ours and is not any more is taken away by applying once again."""
    before = find(least(podTemplate={"spec": {"nodeSelector": {"disk": "fast"}}}), "StatefulSet")
    assert "metadata.annotations.threadcluster.io/applied" in differences(find(cluster(), "StatefulSet"), before)


def test_the_order_of_items_with_keys_does_not_matter() -> None:
    """It does where they have none."""
    wanted = find(cluster(EVERYTHING), "StatefulSet")
    live = copy.deepcopy(wanted)
    live["spec"]["template"]["spec"]["volumes"].reverse()
    assert is_applied(wanted, live)
    live["spec"]["template"]["spec"]["tolerations"].reverse()
    assert not is_applied(wanted, live)


@pytest.mark.parametrize(
    ("wanted", "live", "found"),
    [
        ({"items": [1]}, {"items": [2]}, ["items"]),
        ({"items": [1]}, {"items": [1]}, []),
        ({"spec": {"args": ["a"]}}, {"spec": {"args": ["a", "b"]}}, ["spec.args"]),
        ({"limits": {"cpu": "1"}}, {"limits": {"cpu": "1000m"}}, []),
        ({"limits": "1"}, {"limits": "1000m"}, ["limits"]),
    ],
    ids=["a list on top", "the same list", "another length", "an amount on top", "no amount"],
)
def test_the_depth_of_a_field_does_not_matter(wanted: Object, live: Object, found: list[str]) -> None:
    """Lists and amounts are compared as well where nothing is around them."""
    assert differences(wanted, live) == found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1000m", 1),
        ("1", "1000m"),
        ("1Gi", "1024Mi"),
        ("0.5", "500m"),
        ("1e3", "1k"),
        ("2E", "2000P"),
        ("100n", "0.1u"),
    ],
)
def test_quantities_are_numbers(one: str, other: object) -> None:
    """However they are written, in requests and limits."""
    assert amount(one) == amount(other)
    wanted: Object = {"spec": {"resources": {"limits": {"x": one}}, "word": one}}
    live: Object = {"spec": {"resources": {"limits": {"x": other}}, "word": one}}
    assert is_applied(wanted, live)
    assert differences(wanted, {"spec": {"resources": {"limits": {"x": "7Ti"}}, "word": other}}) == [
        "spec.resources.limits.x",
        "spec.word",
    ]


@pytest.mark.parametrize("word", ["", ".", "m", "1K", "1mi", "one", "1 Gi", "1e", "1e9999", True, None, {}])
def test_what_is_no_quantity_is_none(word: object) -> None:
    """And equals only itself."""
    assert amount(word) is None


@given(number=st.integers(0, 10**6), unit=st.sampled_from(["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]))
def test_binary_units_are_powers_of_1024(number: int, unit: str) -> None:
    """Exactly."""
    power = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].index(unit) + 1
    assert amount(f"{number}{unit}") == Decimal(number * 1024**power)
