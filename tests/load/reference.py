"""The reference's load scenario: create a thread, pause, get it.

Each virtual user repeats: a fresh random account, POST create with a random title and itself as administrator
and member, a pause, GET of the new thread.  The checks are the reference's: status 200, ``$['thread_id']`` present in
the first answer, ``$.result.id`` in the second; and, beyond it, that the two are the same thread.  Users start evenly
over the ramp; the run ends at ramp + hold.
"""

import asyncio
import random
from collections.abc import Sequence

import msgspec

from tests.support.load.chat import random_ulid
from tests.support.load.client import Client, Outcome
from tests.support.load.figures import Figures
from tests.support.load.target import Target


async def _user(client: Client, figures: Figures, rng: random.Random, pause_s: float, end_at: float) -> None:
    loop = asyncio.get_running_loop()
    while loop.time() < end_at and not figures.is_spent():
        account_id = random_ulid(rng)
        body = {
            "accountId": account_id,
            "title": f"thread {rng.getrandbits(32):08x}",
            "administratorIds": [account_id],
            "memberIds": [account_id],
        }
        created = await client.send("create", "POST", "/v1/threads/create", msgspec.json.encode(body))
        await asyncio.sleep(min(pause_s if created.outcome is not Outcome.NOT_SENT else 0.2, end_at - loop.time()))
        if created.outcome is not Outcome.ACCEPTED:
            figures.check(created.outcome is Outcome.NOT_SENT, "create: status is 200")
            continue
        thread_id = created.document.get("thread_id")
        if not figures.check(isinstance(thread_id, str), "create: $['thread_id'] is present"):
            continue
        if figures.is_spent():
            return
        got = await client.send("get", "GET", f"/v1/threads/{thread_id}?account_id={account_id}")
        if not figures.check(got.outcome is Outcome.ACCEPTED, "get: status is 200"):
            continue
        result = got.document.get("result")
        found = result.get("id") if isinstance(result, dict) else None
        if figures.check(found is not None, "get: $.result.id is present"):
            figures.check(found == thread_id, "get: $.result.id is the created thread")


async def simulate(
    targets: Sequence[Target],
    figures: Figures,
    *,
    users: int = 10,
    ramp_s: float = 10.0,
    pause_s: float = 10.0,
    hold_s: float = 30.0,
    timeout_s: float = 10.0,
) -> None:
    """Run the scenario to its end; what happened is in ``figures``.  The defaults are the reference's local ones."""
    loop = asyncio.get_running_loop()
    end_at = loop.time() + ramp_s + hold_s
    rng = random.SystemRandom()

    async def live(number: int) -> None:
        client = Client(targets, figures, first=number, timeout_s=timeout_s)
        try:
            await asyncio.sleep(ramp_s * number / users)
            await _user(client, figures, rng, pause_s, end_at)
        finally:
            client.close()

    async with asyncio.TaskGroup() as group:
        for number in range(users):
            group.create_task(live(number), name=f"reference user {number}")
    figures.end()
