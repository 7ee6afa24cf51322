"""The OpenAPI document: valid, equal to the table of routes, and true of the real answers."""

import gzip
import json
import re
import runpy
import warnings
from hashlib import sha256
from html import escape
from importlib.resources import files

import jsonschema_rs
import pytest
import schemathesis

from shard_worker.gateway.http.failures import FailureCode
from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.gateway.http.problems import OF_MANAGEMENT, ProblemCode, status_of
from shard_worker.gateway.public.docs import SCRIPT_PATH, STYLE_PATH, rendered
from shard_worker.gateway.public.openapi import codes_of, document, openapi_text
from shard_worker.gateway.public.routes import COMMANDS, QUERIES, ROUTES, CommandRoute, Route, Router, StreamRoute
from tests.fakes.memory_threads import MemoryThreads
from tests.gateway.serving import ADA, BOB, THREAD, Served, serving
from tests.support.paths import ROOT
from tests.support.problem_checks import check
from tests.support.wire import Answered

API = document()


def schema_of(name: str) -> dict[str, object]:
    """One of the document's schemas, with what it refers to."""
    return {"$ref": f"#/components/schemas/{name}", "components": API["components"]}


def test_the_document_is_openapi_3_1() -> None:
    """By its own meta-schema, and every schema in it by JSON Schema's."""
    loaded = schemathesis.openapi.from_dict(API)
    assert loaded.specification.version == "3.1.0"
    assert not list(loaded.validate() or ())
    for name in API["components"]["schemas"]:
        jsonschema_rs.Draft202012Validator(schema_of(name))


def test_the_document_equals_the_table() -> None:
    """The same methods, paths and operations, none more and none less."""
    documented = {
        (method.upper(), path, operation["operationId"])
        for path, methods in API["paths"].items()
        for method, operation in methods.items()
    }
    assert documented == {(route.method, route.template, route.operation_id) for route in ROUTES}


def test_operations_are_named_once() -> None:
    """Clients are generated from these names."""
    names = [route.operation_id for route in ROUTES]
    assert len(names) == len(set(names))


def test_a_route_is_in_the_table_once() -> None:
    """A second one of the same method and path is a mistake."""
    with pytest.raises(ValueError, match="twice"):
        Router([*ROUTES, ROUTES[0]])


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.operation_id)
def test_every_status_is_declared_with_its_codes(route: Route) -> None:
    """The document declares exactly the answers of each operation."""
    responses = API["paths"][route.template][route.method.lower()]["responses"]
    codes = codes_of(route)
    successes = {"200", "204"} if isinstance(route, StreamRoute) and route.refusals else {"200"}
    assert set(responses) == {*successes, *(str(status_of(code)) for code in codes)}
    for status, response in responses.items():
        if status not in successes:
            shown = response["content"]["application/problem+json"]["examples"]
            assert list(shown) == [code.value for code in codes if status_of(code) == int(status)]
            assert all(f"- `{code}`: " in response["description"] for code in shown)


def test_every_code_is_used() -> None:
    """But for the two that have no operation, and those of the management port."""
    used = {code for route in ROUTES for code in codes_of(route)}
    without = {ProblemCode.ROUTE_NOT_FOUND, ProblemCode.METHOD_NOT_ALLOWED}
    assert used | without | OF_MANAGEMENT == set(ProblemCode)


def test_the_known_codes_are_those_of_the_server() -> None:
    """A client must bear others; the server has none."""
    known = API["components"]["schemas"]["Problem"]["properties"]["code"]["x-extensible-enum"]
    assert set(known) == set(ProblemCode) - OF_MANAGEMENT
    known = API["components"]["schemas"]["ProblemError"]["properties"]["code"]["x-extensible-enum"]
    assert known == list(FailureCode)


def test_the_document_says_that_accounts_are_trusted() -> None:
    """The description warns of it."""
    assert "`accountId` is trusted" in API["info"]["description"]


@pytest.mark.parametrize("route", COMMANDS, ids=lambda route: route.operation_id)
def test_bodies_are_closed(route: CommandRoute) -> None:
    """The schema refuses what the server refuses: unknown and missing fields."""
    validator = jsonschema_rs.Draft202012Validator(schema_of(route.body.__name__))
    assert not validator.is_valid({})
    assert not validator.is_valid({"accountId": ADA, "unknown": 1})


async def test_real_answers_fit_their_schemas(api: Served) -> None:
    """Every operation's 200, from the real server."""

    def fits(answered: Answered, operation_id: str) -> None:
        route = next(route for route in (*COMMANDS, *QUERIES) if route.operation_id == operation_id)
        assert answered.status == 200
        jsonschema_rs.Draft202012Validator(schema_of(route.answer_schema)).validate(answered.json)

    base = f"/v1/threads/{THREAD}"
    fits(await api.create(remarks="r"), "createThread")
    join = {"accountId": ADA, "accountIds": [BOB]}
    fits(await api.post(base + "/administrator-ids/join", join), "joinAdministratorIds")
    fits(await api.post(base + "/administrator-ids/leave", join), "leaveAdministratorIds")
    fits(await api.post(base + "/member-ids/join", join), "joinMemberIds")
    added = await api.add("a", "b")
    fits(added, "addMessages")
    removal = {"accountId": BOB, "messageIds": added.json["messageIds"][:1]}
    fits(await api.post(base + "/messages/remove", removal), "removeMessages")
    for tail, operation_id in (
        ("", "getThread"),
        ("/administrator-ids", "getAdministratorIds"),
        ("/member-ids", "getMemberIds"),
        ("/messages", "getMessages"),
    ):
        fits(await api.get(f"{base}{tail}?account_id={ADA}"), operation_id)
    fits(await api.post(base + "/member-ids/leave", join), "leaveMemberIds")
    fits(await api.post(base + "/destroy", {"accountId": ADA}), "destroyThread")


def test_the_file_in_docs_is_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/openapi.json is generated: `make docs`, which runs the module as a program."""
    written = (ROOT / "docs" / "openapi.json").read_text()
    assert written == openapi_text()
    assert json.loads(written) == API
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # that the module is imported already
        runpy.run_module("shard_worker.gateway.public.openapi", run_name="__main__")
    assert capsys.readouterr().out == written


async def test_the_document_and_its_page_are_served(api: Served) -> None:
    """The page needs nothing from the internet."""
    served = await api.get("/openapi.json")
    assert json.loads(served.body) == API
    page = await api.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert b"ThreadCluster" in page.body
    assert b"http://" not in page.body
    assert b"https://" not in page.body


SWAGGER_UI = {
    SCRIPT_PATH: "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    STYLE_PATH: "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
}
"""Of the pinned version, as its package on npm has them."""


async def test_the_page_is_made_of_what_this_port_serves(api: Served) -> None:
    """Swagger UI as it was packed, under addresses that change with its version, with its licence."""
    page = await api.get("/docs")
    named = re.findall(r'(?:src|href)="([^"]+)"', page.body.decode())
    assert sorted(named) == sorted(["openapi.json", *(path[1:] for path in SWAGGER_UI)])
    for path, digest in SWAGGER_UI.items():
        served = await api.get(path)
        assert served.headers["content-encoding"] == "gzip"
        assert "immutable" in served.headers["cache-control"]
        assert sha256(gzip.decompress(served.body)).hexdigest() == digest
    licence = files("shard_worker.gateway.public").joinpath("swagger_ui")
    assert "Apache License" in licence.joinpath("LICENSE").read_text()
    assert "SmartBear" in licence.joinpath("NOTICE").read_text()


async def test_the_page_without_scripts_lists_every_operation(api: Served) -> None:
    """With its parameters, the fields of its body and its codes; no markdown is left."""
    plain = (await api.get("/docs")).body.decode().partition("<noscript>")[2].partition("</noscript>")[0]
    for path, methods in API["paths"].items():
        for method, operation in methods.items():
            section = plain.partition(f"<h2><code>{method.upper()} {path}</code></h2>")[2].partition("<h2>")[0]
            assert escape(operation["summary"]) in section.replace("<code>", "`").replace("</code>", "`")
            for status in operation["responses"]:
                assert f"<dt>{status}</dt>" in section
            if "requestBody" in operation:
                name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
                for field in API["components"]["schemas"][name]["properties"]:
                    assert f"<code>{field} (body)</code>" in section
    assert "<code>validation-failed</code>" in plain
    assert "maxLength" in plain
    assert "**" not in plain
    assert "`" not in plain


def test_markdown_of_descriptions_is_rendered_and_nothing_else_is() -> None:
    """Paragraphs, lists, bold words and code; a text with tags stays a text."""
    assert rendered("**a** `b` <i>\n\ntwo:\n- c\n- `d`\n  more") == (
        "<p><b>a</b> <code>b</code> &lt;i&gt;</p><p>two:\n</p><ul><li>c\n</li><li><code>d</code>\n  more</li></ul>"
    )


async def test_a_setting_turns_both_off(threads: MemoryThreads) -> None:
    """Then they are not there at all."""
    async with serving(threads, GatewayOptions(documentation=False)) as api:
        for path in ("/openapi.json", "/docs", *SWAGGER_UI):
            check(await api.get(path), 404, "route-not-found")
