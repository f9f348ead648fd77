"""Failures that may pass."""

from deployments.errors import MediaHostError


class TransientError(MediaHostError):
    """Worth another try; never leaves this room."""
