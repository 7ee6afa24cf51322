"""The gateway and the read model: lists, markers, and queries whose owner is not to be had."""

import pytest

from shard_worker.contract import Unavailable, UnavailableCode
from shard_worker.gateway.http.options import GatewayOptions
from tests.fakes.memory_threads import MemoryThreads
from tests.gateway.serving import ADA, BOB, DAN, THREAD, Served, serving
from tests.support.problem_checks import check

BASE = f"/v1/threads/{THREAD}"
MARK = f"{BASE}/read-markers/set"


async def test_lists_say_503_while_the_read_model_does_not_answer(api: Served) -> None:
    """With when to try again; no other answer depends on it."""
    await api.create()
    api.read_model.fault = ConnectionError("Postgres is away")
    for path in (f"/v1/threads?account_id={ADA}", f"/v1/accounts/{ADA}/mentions"):
        assert check(await api.get(path), 503, "shard-unavailable").headers["retry-after"] == "1"
    assert (await api.get(f"{BASE}?account_id={ADA}")).status == 200


@pytest.mark.parametrize("code", [UnavailableCode.SHARD_UNAVAILABLE, UnavailableCode.OUTCOME_UNKNOWN])
async def test_a_query_whose_owner_is_not_to_be_had_is_answered_by_the_read_model(
    api: Served, threads: MemoryThreads, code: UnavailableCode
) -> None:
    """Every query on a thread; but no thread is reported as absent on the word of tables that may be behind."""
    await api.create()
    await api.add("a")
    gone = [True]

    def away_once(_: object) -> Unavailable | None:
        return Unavailable(code, "its shard moves") if gone.pop() else None

    for page in ("", "/administrator-ids", "/member-ids", "/messages"):
        gone[:] = [False, True]  # the owner first, then the read model, which asks the same threads here
        threads.instead = away_once
        assert (await api.get(f"{BASE}{page}?account_id={ADA}")).status == 200
    gone[:] = [True, False, True]  # and then the owner again, which is still away
    # It may have let the account in a moment ago, and the read model not know yet: "not now" is certain, "not found" is not.
    check(await api.get(f"{BASE}?account_id={DAN}"), 503, "shard-unavailable")


@pytest.mark.parametrize("code", [UnavailableCode.OVERLOADED, UnavailableCode.LEAVING, UnavailableCode.THREAD_POISONED])
async def test_no_other_reason_leads_to_the_read_model(
    api: Served, threads: MemoryThreads, code: UnavailableCode
) -> None:
    """An overloaded worker must not be given more to do, and a thread that cannot be read is reported as one."""
    threads.instead = lambda _: Unavailable(code, "not now")
    check(await api.get(f"{BASE}?account_id={ADA}"), 503, code.value)
    assert len(threads.asked) == 1


async def test_by_the_setting_every_query_goes_to_the_read_model(threads: MemoryThreads) -> None:
    """The owner is not asked at all."""
    async with serving(threads, GatewayOptions(read_model_answers=True)) as api:
        await api.create()
        api.read_model.fault = ConnectionError("Postgres is away")
        check(await api.get(f"{BASE}?account_id={ADA}"), 503, "shard-unavailable")
        api.read_model.fault = None
        assert (await api.get(f"{BASE}?account_id={ADA}")).json["result"]["id"] == THREAD


async def test_an_unknown_outcome_of_a_marker_is_reported(api: Served) -> None:
    """It may be stored; to set it again does no harm."""
    await api.create()
    added = await api.add("a")
    message_id = added.json["messageIds"][0]
    assert (await api.post(MARK, {"accountId": ADA, "messageId": message_id})).status == 200
    api.read_model.fault = ConnectionError("Postgres went away")
    check(await api.post(MARK, {"accountId": ADA, "messageId": message_id}), 503, "outcome-unknown")
    # A message that is not live must be looked up first: of that nothing was stored.
    await api.post(f"{BASE}/messages/remove", {"accountId": BOB, "messageIds": [message_id]})
    check(await api.post(MARK, {"accountId": ADA, "messageId": message_id}), 503, "shard-unavailable")


async def test_a_marker_is_validated_like_a_command(api: Served) -> None:
    """All failures at once; a key is validated, and changes nothing."""
    await api.create()
    message_id = (await api.add("a")).json["messageIds"][0]
    body = {"accountId": ADA, "messageId": message_id}
    refused = check(await api.post(MARK, {"accountId": "x", "createAt": 5}), 400, "validation-failed")
    assert sorted(failure.split(":")[0] for failure in refused.json["error_messages"]) == [
        "accountId",
        "createAt",
        "messageId",
    ]
    for _ in range(2):
        answered = await api.post(MARK, body, ("Idempotency-Key", "k"))
        assert answered.status == 200
        assert "idempotent-replayed" not in answered.headers
    check(await api.post(MARK, body, ("Idempotency-Key", "a b")), 400, "validation-failed")
    check(await api.post("/v1/threads/x/read-markers/set", body), 400, "validation-failed")
    check(await api.get(MARK), 405, "method-not-allowed")
    assert (await api.add("b")).json["sequenceNr"] == 3, "a marker is no event"
