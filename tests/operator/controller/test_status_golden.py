"""Reasons, messages and figures of the status stay what users wait for."""

import json

from tests.operator.controller.status_golden import FILE, documents, text


def test_the_status_of_every_situation_is_that_of_every_release() -> None:
    """A difference here belongs into the release notes: see `status_golden`."""
    expected, found = json.loads(FILE.read_text()), documents()
    assert found.keys() == expected.keys()
    for situation, document in found.items():
        assert document == expected[situation], situation
    assert text() == FILE.read_text()


def test_every_condition_has_a_message() -> None:
    """An empty one leaves `kubectl describe` without a word to read."""
    for situation, document in documents().items():
        for name, condition in document.get("conditions", {}).items():
            assert condition["message"], (situation, name)
