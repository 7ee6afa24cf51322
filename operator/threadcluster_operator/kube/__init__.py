"""Kubernetes as the operator uses it."""
