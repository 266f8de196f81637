"""The backbone process of a node: its forwarders, and its part in the cluster."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import time
from pathlib import Path

import gevent.socket
import zmq

from raiden import __version__
from raiden.access import keys
from raiden.backbone import discovery
from raiden.backbone.addresses import Addresses
from raiden.backbone.cluster import Cluster
from raiden.backbone.discovery import Address, NotFound, Source
from raiden.backbone.forwarder import Forwarders
from raiden.backbone.roster import Beat
from raiden.node.settings import Settings
from raiden.runtime import faults, log
from raiden.runtime.service import READY

logger = logging.getLogger(__name__)


def _kind_of_store(settings: Settings) -> str:
    if not settings.keeps_history:
        return "none"
    return settings.store if settings.store == "sqlite" else "redis"


def run(settings: Settings, addresses: Addresses, supervisor: socket.socket, folder: Path) -> None:
    """Be the backbone of a node: its forwarders, and its part in the cluster. Over the socket ``supervisor`` this
    process says that it is ready, or why it can't start. The supervisor says there when the node leaves, and closes it
    when the workers have ended."""
    log.setup("backbone", form=settings.log_format, level=settings.log_level)
    faults.install()
    door = Address(settings.backend_host, settings.backend_port)
    try:
        here = discovery.resolve(door)[0]  # ZeroMQ binds to no names
        own_keys = keys.load(Path(settings.node_key), settings.node_keys) if settings.node_key else None
        forwarders = Forwarders(
            addresses, bind=f"tcp://{here}", keys=own_keys, high_water=settings.backbone_high_water
        )  # fmt: skip
    except keys.InvalidKey as error:
        supervisor.sendall(str(error).encode())
        return
    except (zmq.ZMQError, NotFound) as error:
        supervisor.sendall(f"backbone: cannot listen on {door}: {error}; set backend_host or backend_port".encode())
        return
    door = door._replace(port=int(forwarders.endpoint.rpartition(":")[2]))
    own = Beat(
        addresses.node, settings.advertise or str(door), key=own_keys.public.decode() if own_keys else "",
        version=__version__, since=time.time(), workers=settings.routers,
        store=_kind_of_store(settings),
    )  # fmt: skip
    sources: list[Source] = [discovery.Static([Address.parse(peer) for peer in settings.peers])]
    sources += [discovery.source(text, default_port=door.port) for text in settings.discovery]
    forwarders.start()
    cluster = Cluster(forwarders, addresses, own=own, keys=own_keys, sources=sources)
    cluster.start()
    logger.info("backbone", extra={"address": own.address, "id": own.id, "encrypted": own_keys is not None})
    channel = gevent.socket.socket(fileno=supervisor.detach())
    channel.sendall(READY)
    while channel.recv(64):
        cluster.leave()
    cluster.say_goodbye()
    shutil.rmtree(folder, ignore_errors=True)  # where the supervisor is gone, and can't tidy up
    os._exit(0)
