"""The router and its backend, with a real backbone in a process of their own."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import zmq
from gevent.event import Event

from raiden.backbone.addresses import Addresses
from raiden.backbone.frames import from_frame
from raiden.backend import TURN_BYTES, TURN_FRAMES, BackboneFull, Backend, NotInForce
from raiden.delivery.sends import LAG, SLICE
from raiden.delivery.table import Subscription, TooManyChannels
from raiden.model import encoding
from raiden.model.encoding import Encoding
from raiden.model.filters import Filters
from raiden.model.message import Kind, Message
from raiden.model.page import Gap
from raiden.router import TURN_TIME, Router
from raiden.runtime.service import READY
from raiden.runtime.stats import Stats
from tests.daemons import ROOT, wait_for
from tests.states import state

BACKBONE = """
import socket, sys
from pathlib import Path
from raiden.node import backbone
from raiden.node.settings import Settings
from raiden.backbone.addresses import Addresses
folder = sys.argv[1]
backbone.run(Settings(backend_port=0), Addresses.within(folder, "node"), socket.socket(fileno=0), Path(folder))
"""
SIZE = 65_536  # bytes of a large message
LINE = encoding.line(False, False)
WRAPPED = encoding.line(True, False)

MakeRouter = Callable[..., Router]


class Client:
    """A sink and the owner of its subscriptions: keeps what is sent, one item a send."""

    lasts = False
    own_id = b""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.pending: list[bytes] = []
        self.sent: list[bytes] = []
        self.gone: list[Subscription] = []
        self._changed = Event()

    def flush(self) -> None:
        if self.pending:
            self.sent.append(b"".join(self.pending))
            self.pending = []
            self._changed.set()

    def ended(self, subscription: Subscription) -> None:
        self.gone.append(subscription)
        self._changed.set()

    def connections(self) -> tuple[()]:
        return ()

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        raise AssertionError("there is no history here")

    def at_end(self, *_: object) -> None:
        raise AssertionError("there is no history here")

    def subscribe(self, name: str, encoding: Encoding = LINE, filters: Filters | None = None) -> Subscription:
        subscription = self.router.subscribe(name, self, self, encoding, filters)
        self.router.attach(subscription)
        return subscription

    def lines(self) -> list[bytes]:
        return b"".join(self.sent).splitlines()

    def wait(self, condition: Callable[[], object]) -> None:
        with gevent.Timeout(10):
            while not condition():
                self._changed.wait()
                self._changed.clear()

    def receives(self, *lines: bytes) -> None:
        """Wait for so many lines; they are these, in this order."""
        self.wait(lambda: len(self.lines()) >= len(lines))
        assert self.lines() == list(lines)


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    folder = tmp_path_factory.mktemp("ipc")
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", BACKBONE, str(folder)]
    with ours, subprocess.Popen(command, cwd=ROOT, stdin=theirs.fileno()) as process:
        theirs.close()
        assert ours.recv(64) == READY
        yield Addresses.within(folder, "node")
        ours.close()  # which ends it
        assert process.wait(10) == 0


@pytest.fixture
def make(addresses: Addresses) -> Iterator[MakeRouter]:
    """Routers as workers have them, each with its own connection to the forwarders."""
    routers: list[Router] = []

    def make(*, to: Addresses = addresses, max_channels: int = 100_000, **options: Any) -> Router:
        stats = Stats(len(routers))
        router = Router(Backend(to, **options), stats=stats, max_channels=max_channels)
        router.start()
        routers.append(router)
        return router

    yield make
    for router in routers:
        router.stop()
        router.backend.close()


@pytest.fixture
def router(make: MakeRouter) -> Router:
    return make()


def rows(router: Router) -> dict[str, dict[str, int]]:
    """The channels and patterns that have subscribers."""
    found, more = router.table.page("", "", 1000)
    assert more is None
    return found


def publish(router: Router, channel: str, *payloads: bytes) -> None:
    router.publisher.publish_now([Message(channel, Kind.JSON, payload) for payload in payloads])


def end(router: Router, channel: str) -> None:
    router.publisher.publish_now([Message(channel, Kind.DELETION, b"")])


def test_a_message_reaches_every_subscriber_of_its_channel(make: MakeRouter) -> None:
    router, other = make(), make()
    clients = [Client(router), Client(router), Client(other)]
    for client in clients:
        client.subscribe("a")
    stranger = Client(router)
    stranger.subscribe("a.b")
    router.in_force()
    other.in_force()
    publish(router, "a", b"1")
    publish(router, "a.b", b"2")
    for client in clients:
        client.receives(b"1")
    stranger.receives(b"2")
    assert (router.stats.published, router.stats.delivered, router.stats.bytes_in) == (2, 3, 2)
    assert other.stats.delivered == 1


def test_the_first_in_and_the_last_out_drive_the_backbone(make: MakeRouter, tmp_path: Path) -> None:
    addresses = Addresses.within(tmp_path, "uplink")
    with zmq.Context() as context, context.socket(zmq.XPUB) as uplink:
        uplink.bind(addresses.uplink)
        router = make(to=addresses)
        client, other = Client(router), Client(router)

        def told(marker: str) -> list[bytes]:
            """What the backbone was told, up to a subscription to the marker."""
            client.subscribe(marker)
            frames = []
            while uplink.poll(10_000) and (frame := uplink.recv())[1:] != marker.encode() + b"\0":
                frames.append(frame)
            return [frame for frame in frames if frame[1:2] == b"a"]

        subscriptions = [client.subscribe("a"), client.subscribe("a", WRAPPED), other.subscribe("a")]
        pattern = other.subscribe("a*")
        assert told("x") == [b"\1a\0", b"\1a"]
        assert rows(router)["a"] == {"subscribers": 3, "messages": 0}
        assert rows(router)["a*"] == {"subscribers": 1, "messages": 0}
        for subscription in subscriptions[:-1]:
            router.unsubscribe(subscription)
            router.unsubscribe(subscription)  # is not there any more
        assert told("y") == []
        router.unsubscribe(subscriptions[-1])
        router.unsubscribe(pattern)
        assert told("z") == [b"\0a\0", b"\0a"]
        assert rows(router).keys() == {"x", "y", "z"}


def test_who_has_left_gets_nothing_and_others_do(router: Router) -> None:
    leaver, stayer = Client(router), Client(router)
    subscription = leaver.subscribe("a")
    stayer.subscribe("a")
    router.in_force()
    publish(router, "a", b"1")
    stayer.receives(b"1")
    router.unsubscribe(subscription)
    publish(router, "a", b"2")
    stayer.receives(b"1", b"2")
    assert leaver.lines() == [b"1"]


def test_patterns(router: Router) -> None:
    narrow, wide, everything = Client(router), Client(router), Client(router)
    narrow.subscribe("a.b*", WRAPPED)
    wide.subscribe("a*", WRAPPED)
    everything.subscribe("*", WRAPPED)
    both = Client(router)
    both.subscribe("a.bc")
    both.subscribe("a.*")
    router.in_force()
    channels = ["a", "a.b", "b", "ä", "a.bc"]
    for channel in channels:
        publish(router, channel, b"1")
    lines = {channel: b'{"channel":"%b","data":1}' % channel.encode() for channel in channels}
    everything.receives(*lines.values())
    wide.receives(lines["a"], lines["a.b"], lines["a.bc"])
    narrow.receives(lines["a.b"], lines["a.bc"])
    both.receives(b"1", b"1", b"1")  # one of a.b, and one for each subscription of a.bc


def test_filters(router: Router) -> None:
    some, all_of_them = Client(router), Client(router)
    some.subscribe("a", filters=Filters([("kind", "x")]))
    all_of_them.subscribe("a")
    router.in_force()
    payloads = [b'{"kind":"x"}', b'{"kind":"y"}', b"1", b'{"kind":"x","n":2}']
    publish(router, "a", *payloads)
    all_of_them.receives(*payloads)
    some.receives(payloads[0], payloads[3])
    assert router.stats.delivered == 6


def test_order(make: MakeRouter) -> None:
    """What one worker publishes arrives in this order at another, over all channels."""
    publisher, router = make(), make()
    client = Client(router)
    for name in "abc":
        client.subscribe(name)
    router.in_force()
    for i in range(3000):
        publish(publisher, "abc"[i % 3] if i < 1500 else "a", b"%d" % i)
    client.receives(*[b"%d" % i for i in range(3000)])


def test_a_run_is_one_send(router: Router) -> None:
    first, second = Client(router), Client(router)
    for client in (first, second):
        client.subscribe("a")
        client.subscribe("b", WRAPPED)
    router.in_force()
    publish(router, "a", *[b"%d" % i for i in range(100)])  # they come in one frame
    first.receives(*[b"%d" % i for i in range(100)])
    assert len(first.sent) == len(second.sent) == 1
    assert rows(router)["a"] == {"subscribers": 2, "messages": 100}


def test_the_end_of_a_channel_ends_its_subscriptions(router: Router) -> None:
    client, other, watcher = Client(router), Client(router), Client(router)
    ended = [client.subscribe("a"), client.subscribe("a", WRAPPED)]
    other.subscribe("b")
    watcher.subscribe("*")
    router.in_force()
    publish(router, "a", b"1")
    end(router, "a")
    publish(router, "a", b"2")
    publish(router, "b", b"3")
    other.receives(b"3")
    client.wait(lambda: len(client.gone) == 2)
    assert client.gone == ended and other.gone == watcher.gone == []
    assert sorted(client.lines()) == [b"1", b'{"channel":"a","data":1}']  # what came before is sent before
    watcher.receives(b"1", b"2", b"3")
    assert rows(router).keys() == {"b", "*"}
    again = Client(router)
    again.subscribe("a")
    router.in_force()
    publish(router, "a", b"4")
    again.receives(b"4")


def test_subscriptions_in_force_miss_nothing(make: MakeRouter) -> None:
    router, publisher = make(), make()
    client = Client(router)
    for i in range(200):
        name = f"in-force-{i}{'*' if i % 2 else ''}"
        subscription = client.subscribe(name)
        router.in_force()
        publish(publisher, f"in-force-{i}", b"%d" % i)
        client.receives(b"%d" % i)
        client.sent.clear()
        router.unsubscribe(subscription)


def test_in_force_for_many_at_once(router: Router) -> None:
    clients = [Client(router) for _ in range(50)]

    def run(i: int) -> None:
        clients[i].subscribe(f"many-{i}")
        router.in_force()
        publish(router, f"many-{i}", b"%d" % i)

    greenlets = [gevent.spawn(run, i) for i in range(50)]
    gevent.joinall(greenlets, timeout=10, raise_error=True)
    for i, client in enumerate(clients):
        client.receives(b"%d" % i)
    router.backend.check()
    assert 0 < router.backend.round_trip < 10


def test_without_a_backbone_nothing_comes_into_force(make: MakeRouter, tmp_path: Path) -> None:
    router = make(to=Addresses.within(tmp_path, "nowhere"))
    with pytest.raises(NotInForce):
        router.backend.in_force(timeout=0.05)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Callable[..., Backend]]:
    """Makes backends where nobody has a backbone. They are closed whatever happens: what waits in them would keep the
    process from ending."""
    made: list[Backend] = []

    def make(high_water: int = 1000) -> Backend:
        made.append(Backend(Addresses.within(tmp_path, "nowhere"), high_water=high_water, sole=True))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def test_news_of_the_roster_do_not_say_that_the_backbone_passes_messages(alone: Callable[..., Backend]) -> None:
    backend = alone()
    news = gevent.spawn(backend.hear_roster, state(1, alone=False))
    with pytest.raises(NotInForce):
        backend.check(timeout=0.05)
    assert news.successful()


def test_a_turn_of_who_is_alone_has_so_many_messages_and_bytes(alone: Callable[..., Backend]) -> None:
    backend = alone(high_water=100_000)
    backend.hear_roster(state(1, alone=True))

    def turns() -> Iterator[int]:
        """How many messages each brings."""
        more = True
        while more:
            yield sum(len(received[1]) for received in backend.receive(local=True) if isinstance(received, tuple))
            more = backend.more

    for size, count in ((TURN_BYTES // 4, 12), (0, 3 * TURN_FRAMES)):
        for _ in range(count):
            backend.publish([Message("a", Kind.BYTES, b"." * size)])
        found = list(turns())
        assert sum(found) == count and len(found) >= 3, found


class Slow(Client):
    """A subscriber to whom it takes long to send."""

    count = 0

    def flush(self) -> None:
        if self.pending:
            Slow.count += 1
            until = time.monotonic() + SLICE
            while time.monotonic() < until:
                pass
        super().flush()


@pytest.fixture
def lone(alone: Callable[..., Backend]) -> Iterator[Router]:
    """The router of a worker that is alone."""
    backend = alone()
    backend.hear_roster(state(1, alone=True))
    router = Router(backend, stats=Stats())
    router.start()
    Slow.count = 0
    yield router
    router.stop()


def test_a_sink_sends_once_a_turn(lone: Router) -> None:
    """However many runs and subscriptions put something before it; each encoding is called once a message."""
    encoded: list[Message] = []

    def encode(message: Message) -> bytes:
        encoded.append(message)
        return message.channel.encode() + b"\n"

    clients = [Client(lone) for _ in range(3)]
    shared = Encoding("test", encode)
    for client in clients:
        client.subscribe("a", shared)
        client.subscribe("*", shared)
    for name in ("a", "a", "b", "a"):
        publish(lone, name, b"1")
    for client in clients:
        client.receives(b"a", b"a", b"a", b"a", b"b", b"a", b"a")
        assert client.sent == [b"a\na\na\na\nb\na\na\n"]
    assert len(encoded) == 4


def slow_ones(router: Router, count: int = 50) -> list[Slow]:
    clients = [Slow(router) for _ in range(count)]
    for client in clients:
        client.subscribe("many")
    return clients


def test_what_is_sent_to_many_does_not_hold_up_what_is_sent_to_one(lone: Router) -> None:
    clients, one = slow_ones(lone), Client(lone)
    one.subscribe("one")
    with gevent.Timeout(20):
        lone.backend.publish([Message("many", Kind.JSON, b"1" * SIZE)])
        while not Slow.count:
            gevent.sleep(0)
        lone.backend.publish([Message("one", Kind.JSON, b"2")])
        while not one.sent:
            gevent.sleep(0)
        assert Slow.count < len(clients) // 2
        lone.backend.publish([Message("many", Kind.JSON, b"3" * SIZE)])
        while sum(sum(map(len, client.sent)) for client in clients) < len(clients) * 2 * SIZE:
            gevent.sleep(0)
    for client in clients:
        sent = b"".join(client.sent)
        assert sent.index(b"3") == sent.rindex(b"1") + 2, "in their order, a line each"


def test_what_is_unsent_can_be_sent_at_once(lone: Router) -> None:
    """As it must be before a door closes its connections; what comes after that is sent as always."""
    clients = slow_ones(lone)
    with gevent.Timeout(20):
        for _ in range(5):
            lone.backend.publish([Message("many", Kind.JSON, b"1" * SIZE)])
        while not Slow.count:
            gevent.sleep(0)
        assert clients[-1].pending
        lone.sends.send_all()
        assert not any(client.pending for client in clients)
        lone.backend.publish([Message("many", Kind.JSON, b"1")])
        while {sum(map(len, client.sent)) for client in clients} != {5 * (SIZE + 1) + 2}:
            gevent.sleep(0)


def test_what_is_behind_is_bounded(lone: Router) -> None:
    """Where those who take long get more than can be sent, what comes for them waits in the backbone: nobody gets more
    in one go than a turn brings, and what may be on its way before it is seen that this is too much."""
    many, few = slow_ones(lone, 20), [Slow(lone) for _ in range(3)]
    for client in few:
        client.subscribe("few")
    count, most = 200, 0
    with gevent.Timeout(60):
        for number in range(count):
            while lone.backend._alone.count > 10:
                gevent.sleep(0)
                most = max(most, *(sum(map(len, clients[-1].pending)) for clients in (many, few)))
            lone.backend.publish([Message("few" if number % 8 else "many", Kind.JSON, b"1" * SIZE)])
        while sum(map(len, few[-1].sent)) < count * 7 // 8 * SIZE:
            gevent.sleep(0)
            most = max(most, *(sum(map(len, clients[-1].pending)) for clients in (many, few)))
    assert most <= LAG + TURN_BYTES + 2 * (SIZE + 1)
    assert LAG <= TURN_BYTES
    assert {sum(map(len, client.sent)) for client in few} == {count * 7 // 8 * (SIZE + 1)}


def test_a_turn_takes_so_long(lone: Router) -> None:
    """What is much for each message, as many patterns are, is shared out over several turns, and each sends."""

    def encode(message: Message) -> bytes:
        until = time.monotonic() + TURN_TIME
        while time.monotonic() < until:
            pass
        return message.payload + b"\n"

    client = Client(lone)
    for name in ("a", "b"):
        client.subscribe(name, Encoding("slow", encode))
    payloads = [b"%d" % number for number in range(20)]
    for number, payload in enumerate(payloads):
        lone.backend.publish([Message("ab"[number % 2], Kind.BYTES, payload)])
    client.receives(*payloads)
    assert len(client.sent) > len(payloads) // 4


def test_a_batch_is_refused_whole_when_the_backbone_is_full(alone: Callable[..., Backend], tmp_path: Path) -> None:
    backend = alone(high_water=10)
    batch = [Message("a", Kind.JSON, b"%d" % n) for n in range(5)]
    taken = 0
    with pytest.raises(BackboneFull):
        while True:
            backend.publish(batch)
            taken += 1
    with zmq.Context() as context, context.socket(zmq.PULL) as pull:
        pull.bind(Addresses.within(tmp_path, "nowhere").publish)
        got = [from_frame(b"a", pull.recv()) for _ in range(taken) if pull.poll(5000)]
        assert [len(messages) for messages in got] == [5] * taken and 0 < taken <= 20

        def goes() -> bool:
            try:
                backend.publish(batch)
            except BackboneFull:  # the socket has not heard yet that there is room
                return False
            return True

        wait_for(goes, "there is room again")
        assert pull.poll(5000) and len(from_frame(b"a", pull.recv())) == 5, "the refused one left nothing behind"


def test_what_a_turn_publishes_to_a_channel_is_one_frame(make: MakeRouter, tmp_path: Path) -> None:
    """As far as it is of one kind; what is published at once comes behind it, also to other channels."""
    router, told = make(to=Addresses.within(tmp_path, "nowhere")), list[tuple[str, object]]()

    def soon(channel: str, payload: bytes, kind: int = Kind.JSON) -> None:
        router.publisher.publish_one(Message(channel, kind, payload), lambda *said: told.append(said), payload.decode())

    with zmq.Context() as context, context.socket(zmq.PULL) as pull:
        pull.bind(Addresses.within(tmp_path, "nowhere").publish)
        for payload in (b"1", b"2", b"3"):
            soon("a", payload)
        soon("b", b"4")
        soon("a", b"5")
        soon("a", b"6", Kind.BYTES)
        assert told == []
        gevent.idle()
        assert told == [(number, None) for number in "123564"]
        soon("a", b"7")
        publish(router, "b", b"8")
        frames = [pull.recv() for _ in range(5) if pull.poll(5000)]
        got = [[each.payload for each in from_frame(*split)] for split in ((f.partition(b"\0")[0], f) for f in frames)]
        assert got == [[b"1", b"2", b"3", b"5"], [b"6"], [b"4"], [b"7"], [b"8"]]
        router.backend.close()  # what waits in it would keep the process from ending


def test_each_publish_of_a_turn_hears_that_the_backbone_is_full(alone: Callable[..., Backend]) -> None:
    router, told = Router(alone(high_water=10), stats=Stats()), list[object]()
    for channel in range(30):
        for _ in range(2):
            router.publisher.publish_one(
                Message(f"{channel}", Kind.JSON, b"1"), lambda _, outcome: told.append(outcome), None
            )
    gevent.idle()
    taken = [outcome is None for outcome in told]
    assert len(taken) == 60 and 0 < sum(taken) < 60 and taken == sorted(taken, reverse=True)
    assert all(outcome is None or isinstance(outcome, BackboneFull) for outcome in told)


def test_what_is_published_by_who_was_just_told_overtakes_nothing(make: MakeRouter) -> None:
    router = make()
    client = Client(router)
    client.subscribe("b")
    router.in_force()
    told: list[object] = []

    def publish_more(asker: object, outcome: object) -> None:
        told.append(outcome)
        publish(router, "b", b"2")

    router.publisher.publish_one(Message("a", Kind.JSON, b"0"), publish_more, None)
    router.publisher.publish_one(Message("b", Kind.JSON, b"1"), lambda _, outcome: told.append(outcome), None)
    client.receives(b"1", b"2")
    assert told == [None, None]


# A worker that is alone.


@pytest.fixture
def sole(make: MakeRouter) -> Router:
    """The one worker of a node that is alone."""
    router = make(sole=True)
    router.in_force()
    assert router.backend.alone
    return router


def test_what_is_published_alone_does_not_go_by_the_backbone(sole: Router) -> None:
    client, pattern = Client(sole), Client(sole)
    client.subscribe("a")
    pattern.subscribe("*", WRAPPED)
    assert sole.in_force() == ()
    for number in (b"1", b"2"):
        publish(sole, "a", number)
    publish(sole, "b", b"3")
    client.receives(b"1", b"2")
    pattern.receives(*(b'{"channel":"%b","data":%b}' % each for each in ((b"a", b"1"), (b"a", b"2"), (b"b", b"3"))))
    assert sole.backend.pushed == 0 and sole.stats.delivered == 5
    end(sole, "a")
    client.wait(lambda: client.gone)


def test_who_published_by_the_backbone_goes_on_so(make: MakeRouter) -> None:
    """Or what comes later would overtake it."""
    router = make(sole=True)
    publish(router, "a", b"1")
    router.in_force()
    assert not router.backend.alone


def test_what_waits_alone_is_bounded(make: MakeRouter) -> None:
    sole = make(sole=True, high_water=10)
    sole.in_force()
    with pytest.raises(BackboneFull):
        for _ in range(11):
            publish(sole, "a", b"1")
    gevent.idle()
    publish(sole, "a", b"2")


def test_when_others_come_the_backbone_brings_what_was_subscribed_to_alone(sole: Router) -> None:
    clients = [Client(sole) for _ in range(2500)]
    subscriptions = [client.subscribe(f"many-{number}") for number, client in enumerate(clients)]
    pattern = Client(sole)
    pattern.subscribe("many-1*")
    sole.unsubscribe(subscriptions[7])
    sole.backend.hear_roster(state(99, alone=False))
    sole.unsubscribe(subscriptions[8])
    late = Client(sole)
    late.subscribe("late")
    gevent.sleep(0)
    sole.unsubscribe(subscriptions[9])
    with gevent.Timeout(10):
        while sole.backend.alone:
            gevent.sleep(0.001)
    for number in range(2500):
        publish(sole, f"many-{number}", b"%d" % number)
    publish(sole, "late", b'"late"')
    assert sole.backend.pushed == 2501
    late.receives(b'"late"')
    for number, client in enumerate(clients):
        if number in (7, 8, 9):
            assert not client.sent
        else:
            client.receives(b"%d" % number)
    pattern.receives(*(b"%d" % number for number in range(2500) if str(number).startswith("1")))


# Subscriptions that hold already, topics that linger, turns that are put off.


def test_a_subscription_that_holds_already_needs_no_round(make: MakeRouter) -> None:
    router = make()
    first, second = Client(router), Client(router)
    first.subscribe("a")
    assert not router.is_in_force(["a"])
    assert router.in_force(["a"]) == () and router.is_in_force(["a"])
    rounds = router.backend.rounds
    second.subscribe("a")
    assert router.in_force(["a"]) == () and router.backend.rounds == rounds
    second.subscribe("b")
    assert not router.is_in_force(["a", "b"])
    assert router.in_force(["a", "b"]) == () and router.backend.rounds == rounds + 1


def test_a_topic_lingers_for_who_comes_back(make: MakeRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    router = make(max_channels=2)
    client = Client(router)
    subscription = client.subscribe("a")
    router.in_force(["a"])
    router.unsubscribe(subscription, linger=True)
    assert router.is_in_force(["a"]) and rows(router) == {}
    subscription = client.subscribe("a")
    publish(router, "a", b"1")
    client.receives(b"1")
    router.unsubscribe(subscription, linger=True)
    client.subscribe("b")
    client.subscribe("c")  # for which there is room once nothing lingers
    assert set(rows(router)) == {"b", "c"} and not router.is_in_force(["a"])


def test_a_topic_does_not_linger_for_ever(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raiden.router.LINGER", 0.0)
    for name in ("a", "a*"):
        router.unsubscribe(Client(router).subscribe(name), linger=True)
    with gevent.Timeout(10):
        while router.carried:
            gevent.sleep(0.01)


def test_a_turn_is_put_off_when_messages_should_gather(alone: Callable[..., Backend]) -> None:
    backend = alone()
    backend.hear_roster(state(1, alone=True))
    router = Router(backend, stats=Stats(), max_gather=0.2)
    router.start()
    client = Client(router)
    client.subscribe("a")
    for number in range(100):  # turns that each take a second, one after the other
        router.pace.turn(float(number), number + 1.0, 1)
    publish(router, "a", b"1")
    gevent.sleep(0)
    publish(router, "a", b"2")
    client.receives(b"1", b"2")
    assert len(client.sent) == 1
    for number in range(100, 200):  # turns that take no time
        router.pace.turn(float(number), float(number), 1)
    publish(router, "a", b"3")
    gevent.idle()
    assert len(client.sent) == 2
    router.stop()


def test_too_many_channels(make: MakeRouter) -> None:
    router = make(max_channels=2)
    client, other = Client(router), Client(router)
    first = client.subscribe("a")
    client.subscribe("b*")
    second = other.subscribe("a")  # is no further channel
    with pytest.raises(TooManyChannels):
        client.subscribe("c")
    with pytest.raises(TooManyChannels):
        client.subscribe("c*")
    assert rows(router).keys() == {"a", "b*"}
    router.unsubscribe(first)
    with pytest.raises(TooManyChannels):
        client.subscribe("c")
    router.unsubscribe(second)
    client.subscribe("c")


def test_a_bad_frame_is_counted_and_skipped(router: Router) -> None:
    client = Client(router)
    client.subscribe("a")
    router.in_force()
    router.backend._line.send(b"a\0nonsense")
    publish(router, "a", b"1")
    client.receives(b"1")
    assert router.stats.bad_frames == 1


def test_every_worker_answers_a_question(make: MakeRouter) -> None:
    routers = [make(workers=3) for _ in range(3)]
    for i, router in enumerate(routers):
        Client(router).subscribe(f"c{i}")
    for router in routers:
        router.in_force()
    answers = routers[0].backend.ask(b'channels [["","",9]]', timeout=10)
    assert sorted(answers) == [b'[[{"c%d":{"subscribers":1,"messages":0}},null]]' % i for i in range(3)]
    answers = routers[0].backend.ask(b'channel ["c0","c1"]', timeout=10)
    one, none = b'{"subscribers":1,"messages":0}', b'{"subscribers":0,"messages":0}'
    assert sorted(answers) == sorted([b"[%b,%b]" % (one, none), b"[%b,%b]" % (none, one), b"[%b,%b]" % (none, none)])
    assert len(routers[1].backend.ask(b"stats", timeout=10)) == 3


def test_who_subscribes_to_all_takes_no_answers_of_others(make: MakeRouter) -> None:
    router, other = make(), make()  # of one worker each: the first answer completes a question
    Client(router).subscribe("*")
    for each in (router, other):
        each.in_force()
        each.in_force()
    asked_by_other = gevent.spawn(other.backend.ask, b"stats", 10)
    asked = gevent.spawn(router.backend.ask, b'channels [["","",9]]', 10)
    gevent.joinall([asked_by_other, asked], timeout=10, raise_error=True)
    assert all(answer.startswith((b'[[{"*":', b"[[{}")) for answer in asked.value), asked.value
