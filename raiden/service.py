"""What an application's own services are made of, as a configuration imports it."""

from raiden.runtime.service import Service

__all__ = ["Service"]
