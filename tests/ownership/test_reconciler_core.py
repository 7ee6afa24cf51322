"""The order of the reconciler core's steps, on answers that a test gives."""
