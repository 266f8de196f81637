"""The simulation of the mesh: what can be worked out by hand, it must say too."""

from __future__ import annotations

import pytest

from benchmarks.mesh import (
    HEADERS,
    PING,
    PONG,
    Mesh,
    Nonce,
    Traffic,
    all_at_once,
    death,
    framed,
    idle,
    join,
    subscribe,
    subscription,
)
from raiden.backbone.frames import BEATS


def test_frames() -> None:
    assert [framed(size) for size in (0, 255, 256)] == [2, 257, 265]
    assert subscription(20) == 23


def test_traffic_adds_up() -> None:
    assert Traffic(1, 2, 3).plus(Traffic(1, 1, 1), 2.0) == Traffic(3, 4, 5)
    assert Traffic(1, 2, 3).times(0.5) == Traffic(0.5, 1, 1.5)


@pytest.mark.parametrize("nodes", [2, 3, 7])
def test_an_idle_node_says_four_things_a_second_to_each_other(nodes: int) -> None:
    """A beat, an echo, a ping, a pong; and three acknowledgements."""
    found = idle(nodes)
    peers = nodes - 1
    assert found.a_second.messages == pytest.approx(4 * peers, rel=0.02)
    assert found.a_second.packets == pytest.approx(7 * peers, rel=0.02)
    beat = framed(len(BEATS) + 1 + found.beat)
    least = peers * (7 * HEADERS + beat + PING + PONG)
    assert least < found.a_second.bytes < least + peers * 100  # the echo is shorter than that


def test_a_beat_grows_by_an_id_for_each_node_and_an_address_for_some() -> None:
    sizes = {nodes: idle(nodes, seconds=1.0).beat for nodes in (2, 3, 30, 31)}
    told = len('["10.77.0.1:9989",""],')
    assert sizes[3] - sizes[2] == pytest.approx(19 + told, abs=2)
    assert sizes[31] - sizes[30] == pytest.approx(19, abs=20)  # whom it tells of is drawn


def test_sent_is_received() -> None:
    mesh = Mesh.formed(4)
    mesh.start(mesh.add(), mesh.peers[0])
    mesh.run(2.0)
    assert mesh.connected()
    sent, received = Traffic(), Traffic()
    for peer in mesh.peers:
        sent, received = sent.plus(peer.out), received.plus(peer.in_)
    assert sent == received != Traffic()


def test_a_round_is_a_subscription_an_answer_and_two_cancellations_for_each_other_node() -> None:
    near = subscribe(5)
    assert near.sent.messages == 4 * 4
    assert near.received.messages == 4  # who is asked answers once where the cancellation is faster than a repetition
    far = subscribe(5, delay=0.02)
    assert 0.04 < far.seconds < 0.05
    # 1, 3, 7, 15, 31 ms after the first one; the cancellation comes after 41.
    assert far.received.messages == 4 * 6


def test_a_cancelled_nonce_is_answered_no_more() -> None:
    mesh = Mesh.formed(3, beating=False)
    nonce = Nonce(mesh, mesh.peers[0], lambda _: None)
    mesh.run(1.0, lambda: nonce.complete)
    nonce.cancel()
    mesh.run(0.1)
    mesh.forget_traffic()
    mesh.run(5.0)
    assert mesh.sent().total() == 0


def test_a_node_that_joins_is_linked_both_ways_with_all() -> None:
    mesh = Mesh.formed(6)
    new = mesh.add()
    mesh.start(new, mesh.peers[3])
    assert mesh.run(3.0, mesh.connected) < 0.5
    assert new.hears == new.heard_by == set(mesh.peers[:-1])
    assert not any(peer.proofs for peer in mesh.peers)


def test_a_join_costs_each_change_of_state_a_beat_to_all() -> None:
    """Each node that is there adds it, links to it and sees it connected; and the new one does so with each."""
    changes = 3
    for nodes in (5, 10):
        beats = join(nodes).beats
        assert changes * nodes * (nodes - 1) * 0.8 < beats < 2 * changes * nodes * (nodes + 1)


def test_a_death_costs_two_beats_of_all_to_all_and_is_over_when_silence_is() -> None:
    found = death(6)
    assert 10.0 < found.seconds < 11.5
    assert found.beats == pytest.approx(2 * 5 * 4, abs=5)
    # The proof that can't succeed is answered four times a second by all but two.
    answers = 4 * 10 * 4
    assert found.sent.messages > answers


def test_all_at_once_find_each_other() -> None:
    seconds, beats = all_at_once(6)
    assert seconds < 1.0 and beats >= 3 * 6 * 5 / 2


def test_the_same_seed_says_the_same() -> None:
    assert join(5, seed=7) == join(5, seed=7)
