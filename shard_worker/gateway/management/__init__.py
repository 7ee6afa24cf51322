"""The management port: probes, metrics, the cluster view and ``/internal/v1``."""
