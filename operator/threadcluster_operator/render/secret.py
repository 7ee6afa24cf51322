"""The Secret by which workers and operator know each other."""

import base64

from threadcluster_operator.render.inputs import RenderInput
from threadcluster_operator.render.objects import Object, child
from threadcluster_operator.render.pod import SECRET_KEY


def internal_secret(wanted: RenderInput) -> Object | None:
    """The Secret with the cluster's secret, when that is known.

    It is not immutable: its owner may rotate it, and workers and operator read it again.
    """
    if wanted.internal_secret is None:
        return None
    encoded = base64.b64encode(wanted.internal_secret.encode()).decode()
    body: Object = {"type": "Opaque", "data": {SECRET_KEY: encoded}}
    return child(wanted, "v1", "Secret", wanted.secret, "worker", body)
