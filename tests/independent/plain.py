"""The judge of channels without history: a message at most once, in order for each publisher that keeps to one
connection, and none lost between nodes that no fault touched."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tests.independent.events import Began, Ended, Event, Fault, Got, Published, Violation

# Seconds in which a message is surely there, and in which a subscription is in force again after a fault: the documents
# name none, so they are long.
ARRIVES, AGAIN = 3.0, 5.0


def plain(channels: Collection[str], log: Sequence[Event]) -> list[Violation]:
    found: list[Violation] = []
    faults = [event for event in log if isinstance(event, Fault)]
    open_: dict[str, tuple[Began, list[Got]]] = {}
    whole: list[tuple[Began, float, list[Got]]] = []
    for event in log:
        if isinstance(event, Began) and event.channel in channels:
            open_[event.who] = event, []
        elif isinstance(event, Got) and event.cursor is None and event.who in open_:
            open_[event.who][1].append(event)
        elif isinstance(event, Ended) and event.who in open_:
            began, got = open_.pop(event.who)
            whole.append((began, event.at, got))
    published = [event for event in log if isinstance(event, Published) and event.outcome == "taken"]
    for began, ended, got in whole:
        last: dict[str, int] = {}
        for each in got:
            publisher, _, number = each.id.rpartition(".")
            if int(number) <= last.get(publisher, -1):
                text = f"{each.who} got {each.id} after number {last[publisher]}"
                found.append(Violation("plain", each.channel, each.at, text))
            last[publisher] = int(number)
        had = {each.id for each in got}
        for event in published:
            if event.channel != began.channel or began.unconfirmed:
                continue
            if not (began.at < event.begun and event.at + ARRIVES < ended):
                continue
            touched = {event.node, began.node}
            blows = (f for f in faults if f.begun < event.at + ARRIVES and f.at + AGAIN > event.begun)
            if not set(event.ids) <= had and not any(fault.nodes & touched for fault in blows):
                text = f"{began.who} (node {began.node}) did not get {event}"
                found.append(Violation("plain", event.channel, event.at, text))
    return found
