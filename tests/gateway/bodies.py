"""Bodies of a given size, and where they are sent."""

import json

from tests.gateway.serving import ADA, THREAD

PATH = f"/v1/threads/{THREAD}/messages/add"


def body_of_size(size: int) -> bytes:
    """A valid body of exactly ``size`` bytes: white space fills it up."""
    body = json.dumps({"accountId": ADA, "messages": [{"text": "a"}]}).encode()
    return body + b" " * (size - len(body))
