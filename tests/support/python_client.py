"""The client that openapi-python-client generates from the document, and a conversation through it."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

ADA, BOB, DAN = (f"01ARZ3NDEKTSV4RRFFQ69G5FA{last}" for last in "ABD")
UNKNOWN_THREAD: Final = "01BX5ZZKBKACTAV9WEVGEMMVR1"

_WARNINGS_FAIL: Final = ("--fail-on-warning", "--meta", "none")


def generate(document: Path, package: Path) -> str:
    """Generate the client as ``package``; what the generator says.  Fails on a warning."""
    programs = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    done = subprocess.run(
        [
            programs / "openapi-python-client",
            "generate",
            "--overwrite",
            "--path",
            document,
            "--output-path",
            package,
            *_WARNINGS_FAIL,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


class PythonClient:
    """A generated package, and the conversation that a new user would try with it."""

    def __init__(self, package: Path, url: str) -> None:
        sys.path.insert(0, str(package.parent))
        try:
            self._package = package.name
            self.models = self._module("models")
            self._client: Any = importlib.import_module(package.name).Client(base_url=url)
        finally:
            sys.path.remove(str(package.parent))

    def _module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{self._package}.{name}")

    async def ask(self, operation: str, *path: str, **given: object) -> Any:  # Any: of the generated package
        """The whole answer of one operation, such as ``queries.get_thread``."""
        return await self._module(f"api.{operation}").asyncio_detailed(*path, client=self._client, **given)

    async def chat(self) -> None:
        """Create, post, post again, page, and be refused, each with the types of the document."""
        async with self._client:
            thread_id = await self._create()
            posted = await self._post(thread_id)
            assert await self._pages(thread_id) == posted
            await self._refused(thread_id)

    async def _create(self) -> str:
        body = self.models.CreateThreadBody(
            account_id=ADA, title="generated", administrator_ids=[ADA], member_ids=[BOB]
        )
        answer = await self.ask("commands.create_thread", body=body)
        assert isinstance(answer.parsed, self.models.ThreadCreatedAnswer)
        assert answer.parsed.sequence_nr == 1
        thread_id: str = answer.parsed.thread_id
        read = await self.ask("queries.get_thread", thread_id, account_id=BOB, min_sequence_nr=1)
        assert (read.parsed.result.title, read.parsed.result.parent_thread_id) == ("generated", None)
        return thread_id

    async def _post(self, thread_id: str) -> list[str]:
        """Five messages, each request sent twice."""
        posted: list[str] = []
        for number in range(5):
            message = self.models.NewMessageBody(text=f"message {number}", to_account_ids=[ADA])
            body = self.models.AddMessagesBody(account_id=BOB, messages=[message])
            for replayed in (None, "true"):
                answer = await self.ask("commands.add_messages", thread_id, body=body, idempotency_key=f"key-{number}")
                assert isinstance(answer.parsed, self.models.MessagesChangedAnswer)
                assert answer.headers.get("Idempotent-Replayed") == replayed
            posted += answer.parsed.message_ids
        return posted

    async def _pages(self, thread_id: str) -> list[str]:
        """The ids of all messages, by pages of two."""
        found: list[str] = []
        more: dict[str, object] = {}
        while True:
            answer = await self.ask("queries.get_messages", thread_id, account_id=ADA, limit=2, **more)
            assert isinstance(answer.parsed, self.models.MessagesAnswer)
            found += [message.id for message in answer.parsed.result]
            if answer.parsed.next_cursor is None:
                return found
            more = {"cursor": answer.parsed.next_cursor}

    async def _refused(self, thread_id: str) -> None:
        """400 with its places, 403, and 404."""
        models = self.models
        empty = models.AddMessagesBody(account_id=BOB, messages=[models.NewMessageBody(text="", message_id="x")])
        for status, code, answer in (
            (400, "validation-failed", await self.ask("commands.add_messages", thread_id, body=empty)),
            (400, "validation-failed", await self.ask("queries.get_messages", thread_id, account_id=ADA, limit=1_001)),
            (
                403,
                "not-administrator",
                await self.ask("commands.destroy_thread", thread_id, body=models.DestroyThreadBody(account_id=BOB)),
            ),
            (404, "thread-not-found", await self.ask("queries.get_thread", UNKNOWN_THREAD, account_id=ADA)),
            (404, "thread-not-found", await self.ask("queries.get_thread", thread_id, account_id=DAN)),
        ):
            assert isinstance(answer.parsed, models.Problem)
            assert (answer.status_code, answer.parsed.status, answer.parsed.code) == (status, status, code)
            pointers = {error.pointer for error in answer.parsed.errors}
            assert pointers in ({"/messages/0/text", "/messages/0/messageId"}, {"limit"}, set())
            assert bool(pointers) == (status == 400)
