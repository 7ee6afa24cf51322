"""The headroom that a namespace's quotas leave, and whether it has grown: pure.

A controller whose pods a quota refuses asks less and less often, after minutes only.  The operator has it asked again at once
when the quotas leave more headroom than before.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from threadcluster_operator.controller.diagnosis import diagnose
from threadcluster_operator.controller.reasons import Reason
from threadcluster_operator.controller.snapshot import ClusterSnapshot
from threadcluster_operator.render.quantities import amount

Headroom = Mapping[tuple[str, str], Decimal]
"""By quota and resource, what is left."""


def refused_by_quota(seen: ClusterSnapshot) -> bool:
    """Whether a quota refuses pods of the migration or of the workers."""
    trouble = diagnose(seen._replace(pods=())) if seen.warnings else None
    return trouble is not None and trouble.reason in (Reason.QUOTA_EXCEEDED, Reason.MIGRATION_QUOTA_EXCEEDED)


def headroom_of(quotas: Iterable[Mapping[str, Any]]) -> Headroom:
    """The headroom by the status of the quotas, which is what the API server judges by."""
    headroom = {}
    for quota in quotas:
        status = quota.get("status", {})
        for resource, hard in (status.get("hard") or {}).items():
            limit, used = amount(hard), amount((status.get("used") or {}).get(resource, "0"))
            if limit is not None and used is not None:
                headroom[quota["metadata"]["name"], resource] = limit - used
    return headroom


def has_grown(before: Headroom, after: Headroom) -> bool:
    """Whether a limit is gone, or leaves more than before."""
    return any(limit not in after or after[limit] > left for limit, left in before.items())
