"""The attacks' own parts: what they send is what they say, and the report tells what exceeds its bound."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from benchmarks.attack import CONTINUED, frame, long_names, request
from benchmarks.attackers import ATTACKS
from benchmarks.attacks import BUSY, GAPS, Memory, Report, by_kind, latency
from benchmarks.bystanders import MACHINE, Sample
from raiden.protocols.limits import HttpLimits
from raiden.protocols.parser import RequestParser


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 200_000])
def test_frames_are_what_a_server_reads(size: int) -> None:
    server = Protocol(Side.SERVER)
    server.receive_data(frame(b"x" * size, last=False) + frame(b"y", CONTINUED))
    first, second = server.events_received()
    assert isinstance(first, Frame) and (first.opcode, len(first.data), first.fin) == (Opcode.TEXT, size, False)
    assert isinstance(second, Frame) and (second.opcode, second.data, second.fin) == (Opcode.CONT, b"y", True)


def test_requests_are_what_a_server_reads() -> None:
    [found] = RequestParser(HttpLimits(), "a").feed(request("POST", "/a", b"1", "Content-Type: application/json"))
    assert (found.method, found.path, found.raw_body) == ("POST", "/a", b"1")  # type: ignore[attr-defined]


def test_names_have_their_length_and_differ() -> None:
    names = long_names("a.", 1000)
    assert {len(name) for name in names} == {255} and len(set(names)) == 1000


def test_attacks_have_labels_of_their_own() -> None:
    assert len({attack.label for attack in ATTACKS.values()}) == len(ATTACKS)
    assert all(attack.__doc__ for attack in ATTACKS.values())


def test_a_report_tells_what_exceeds_its_bound() -> None:
    report = Report("", {"worker 0": 10.0, "history": 10.0})
    most = 10.0 * GAPS + BUSY
    report.memory = {"worker 0": Memory(40.0, 40.0 + most), "history": Memory(40.0, 41.0 + most)}
    assert report.exceeded() == ["history"]


def test_latencies_leave_the_machine_out() -> None:
    samples = [Sample("publish", 1.0, 0.001), Sample("stream", 2.0, 0.003), Sample(MACHINE, 2.0, 9.0)]
    samples.append(Sample("publish", 9.0, 5.0))
    found = by_kind(samples, 0.0, 9.0)
    assert latency(found).startswith("2.0 / ") and latency(found).endswith(" / 3")
    assert latency(found, MACHINE) == "-"  # one is none
