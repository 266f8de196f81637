"""The base class of an application's own services, for a configuration to import."""

from raiden.runtime.service import Service

__all__ = ["Service"]
