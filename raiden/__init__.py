"""Raiden: a realtime pub/sub messaging server."""

__version__ = "0.1.0"
