"""The ThreadCluster resource, as people write it: one typed model for every platform."""

from threadcluster_operator.api.autoscaling import AutoscalingSpec, ScaleDownSpec, ScaleUpSpec
from threadcluster_operator.api.database import ConfigMapKeyRef, DatabaseSpec, SecretKeyRef, TLSSpec
from threadcluster_operator.api.fields import without_local_effect
from threadcluster_operator.api.network import (
    GatewaySpec,
    IngressSpec,
    IPBlock,
    NetworkPeer,
    NetworkPolicySpec,
    ServiceSpec,
)
from threadcluster_operator.api.parsing import (
    InvalidResource,
    InvalidSpec,
    Resources,
    parse_resources,
    parse_spec,
    read_resources,
)
from threadcluster_operator.api.pods import (
    ImagePullSecret,
    MonitoringSpec,
    PodMetadata,
    PodSpec,
    PodTemplateSpec,
)
from threadcluster_operator.api.rebalance import Mode, PinSpec, RebalanceSpec, Strategy
from threadcluster_operator.api.rollout import CanarySpec, DrainSpec, RolloutSpec
from threadcluster_operator.api.scheduling import AffinitySpec, Toleration, TopologySpreadConstraint
from threadcluster_operator.api.security_context import PodSecurityContext
from threadcluster_operator.api.selectors import LabelSelector
from threadcluster_operator.api.spec import (
    API_VERSION,
    KIND,
    KubernetesSpec,
    Metadata,
    ThreadCluster,
    ThreadClusterSpec,
)
from threadcluster_operator.api.status import (
    Condition,
    PlanStatus,
    ShardsStatus,
    ThreadClusterStatus,
    WorkerStatus,
)
from threadcluster_operator.api.worker import (
    DataKeySelector,
    EnvSource,
    EnvVar,
    FieldSelector,
    PassivationSpec,
    ResourcesSpec,
    WorkerSpec,
)

__all__ = [
    "API_VERSION",
    "KIND",
    "AffinitySpec",
    "AutoscalingSpec",
    "CanarySpec",
    "Condition",
    "ConfigMapKeyRef",
    "DataKeySelector",
    "DatabaseSpec",
    "DrainSpec",
    "EnvSource",
    "EnvVar",
    "FieldSelector",
    "GatewaySpec",
    "IPBlock",
    "ImagePullSecret",
    "IngressSpec",
    "InvalidResource",
    "InvalidSpec",
    "KubernetesSpec",
    "LabelSelector",
    "Metadata",
    "Mode",
    "MonitoringSpec",
    "NetworkPeer",
    "NetworkPolicySpec",
    "PassivationSpec",
    "PinSpec",
    "PlanStatus",
    "PodMetadata",
    "PodSecurityContext",
    "PodSpec",
    "PodTemplateSpec",
    "RebalanceSpec",
    "Resources",
    "ResourcesSpec",
    "RolloutSpec",
    "ScaleDownSpec",
    "ScaleUpSpec",
    "SecretKeyRef",
    "ServiceSpec",
    "ShardsStatus",
    "Strategy",
    "TLSSpec",
    "ThreadCluster",
    "ThreadClusterSpec",
    "ThreadClusterStatus",
    "Toleration",
    "TopologySpreadConstraint",
    "WorkerSpec",
    "WorkerStatus",
    "parse_resources",
    "parse_spec",
    "read_resources",
    "without_local_effect",
]
