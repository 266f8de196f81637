"""The history of channels: the promises of a store, whatever its engine.

A store appends messages and gives out their offsets, and reads them again. A store knows no sockets, routers or
clients; its calls block, so they are for a thread.

- The offsets of a channel begin at 1 and have no holes. Each message has a proof, which covers all before it, and an
  epoch, which is the life of the store that it was appended in (`raiden.model.chain`). A cursor of a message that the
  store has lost is a `Gap`. When the channel's history is cleared or forgotten as a whole, offsets begin anew.
- A channel that has come to its end takes no more messages until its history is cleared, or it is forgotten.
- An append is done when `Store.append` returns: its messages survive the failures that their `Durability` names. If it
  raises `StoreFailed`, none of them was appended, as far as anybody can know.
- Messages that were appended under a key are not appended again under that key within `KEY_WINDOW` seconds, on any
  node: the first answer is given again.
- A durable is a place in a channel's history that many consumers share. Each message after it is claimed by one of
  them, and again if that one did not acknowledge it in time: at least once, for as long as the history has it.
- A store also keeps values under a name for a while, for clients that come back. A value has one holder, who alone may
  change it, until another holder takes it. Each of these calls is one step: no other call comes between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from raiden.history.conditions import Unmet
from raiden.history.streams import Outcome, Streams, Terms
from raiden.model.chain import Lives, Past
from raiden.model.message import PROOF_DIGITS, UNPROVED, Cursor, Message
from raiden.model.options import Durability, Options
from raiden.model.page import Gap, Page, Record, Stand
from raiden.model.refusals import Unavailable

KEY_WINDOW = 300.0  # seconds
# Seconds after which a channel that nothing was appended to, and that has no messages left, is forgotten; until then
# its offsets go on.
FORGET = 7 * 86400.0
# Seconds that a channel, or a durable, may be forgotten later than that, so that not each use of it must write the
# time.
TOUCH = 3600.0
MAX_KEPT = 1 << 18  # bytes of a kept value
MAX_PENDING = 10_000  # messages of a durable that are claimed and not acknowledged
LOOKED = 250  # claims whose time is over that one call of `Store.claim` looks at


# The end of a `StoreFailed`'s text where the append may have been done.
NOBODY_KNOWS = (
    "nobody knows whether the message was stored. With a key (Idempotency-Key) it is safe to publish it again"
)


class StoreFailed(Unavailable):
    """The store can't be used now; the text says why. Nothing was appended, unless the connection to a shared store
    ended before its answer came: then nobody knows, the text says so (`NOBODY_KNOWS`), and only a key makes it safe to
    ask again. ``detail`` is the text for clients, where they may know less: it has no file and no address."""

    def __init__(self, why: str, detail: str = "") -> None:
        super().__init__(why)
        self.detail = detail or why


class TooLargeToKeep(StoreFailed):
    """A value has more than `MAX_KEPT` bytes."""

    status = 413


@dataclass(slots=True)
class Append:
    """Messages ``(kind, payload)`` for one channel, all or none. At most ``size`` messages are kept, each for ``ttl``
    seconds. While no other message follows, the last one is there for ``retain`` seconds, if that is longer; also where
    the size is 0. ``key`` is the publisher's: the messages are appended once under it. ``ends``: the last one is the
    channel's end.

    Conditions: no message is appended to a channel that has come to its end. ``at``: they are appended only where the
    channel stands there. ``discard_new``: only where they push no message out of the history for which a durable still
    needs an acknowledgement. ``terms`` are those of an append to a stream (`raiden.history.streams`).
    ``hollow``: the end says nothing besides."""

    channel: str
    messages: Sequence[tuple[int, bytes]]
    size: int = 100
    ttl: float = 300.0
    key: str | None = None
    durability: Durability = Durability.STORED
    retain: float = 0.0
    discard_new: bool = False
    at: Cursor | None = None
    ends: bool = False
    hollow: bool = False
    terms: Terms | None = None

    @classmethod
    def by(
        cls, options: Options, channel: str, messages: Sequence[tuple[int, bytes]], key: str | None = None, *,
        at: Cursor | None = None, ends: bool = False, hollow: bool = False, terms: Terms | None = None,
    ) -> Append:  # fmt: skip
        """An append to a channel with these options."""
        return cls(
            channel, messages,
            size=options.history_size, ttl=options.history_ttl, key=key, durability=options.durability,
            retain=options.retain, discard_new=options.discard == "new", at=at, ends=ends,
            hollow=hollow, terms=terms,
        )  # fmt: skip

    def limits(self) -> tuple[int, float, float]:
        """The number of messages that are kept, the seconds for which they are, and the seconds for the last one while
        it is the last."""
        if self.size == 0 and self.retain > 0:
            return 1, 0.0, self.retain
        return self.size, self.ttl, max(self.ttl, self.retain)


class Appended(NamedTuple):
    """The places of an `Append`'s messages, in their order. ``repeated``: they were appended before, under the same
    key. ``chain`` is the proof of the message before the first one, then theirs, as one text (`chain.chained`); "":
    they have none. ``unmet`` is the condition because of which nothing was appended; None: the messages were.
    ``outcome`` is that of an append to a stream; where nothing was appended, the offsets are empty, behind the last
    message."""

    epoch: str
    offsets: range
    repeated: bool = False
    chain: str = ""
    unmet: Unmet | None = None
    outcome: Outcome | None = None

    @property
    def before(self) -> str:
        """The proof of the message before the first one; "": there is none."""
        before = self.chain[:PROOF_DIGITS]
        return "" if before == UNPROVED else before

    def cursors(self) -> list[Cursor]:
        if not self.chain:
            return [Cursor(self.epoch, offset) for offset in self.offsets]
        ends = range(PROOF_DIGITS, len(self.chain), PROOF_DIGITS)
        return [
            Cursor(self.epoch, offset, self.chain[end : end + PROOF_DIGITS])
            for offset, end in zip(self.offsets, ends, strict=True)
        ]


class GiveUp(NamedTuple):
    """The limit after which a durable gives a message up: the message is claimed at most ``attempts`` times (0: any
    number). Then it is appended, as JSON that says where it comes from, to the channel of ``letters``, an append
    without messages; ``letters`` None: it is dropped."""

    attempts: int = 0
    letters: Append | None = None


NEVER = GiveUp()


class Letters(NamedTuple):
    """Messages that were appended to the dead-letter channel: their places, and their payloads."""

    appended: Appended
    payloads: list[bytes]


class Claimed(NamedTuple):
    """Records that are now the caller's, each with the number of its claims, in the order of their offsets: first those
    that come again. ``epoch`` is the channel's ("0": it has no history yet), ``past`` are its past epochs. ``gap`` has
    the messages that the durable lost since the last claim: from the lowest to the highest offset of messages that were
    gone before they were claimed or acknowledged (others between them may be fine); or, where its place is not in this
    history, all that was left of the old one (``first`` is 0). ``letters`` are the messages that were given up.
    ``ended``: there is no such durable, and this claim was not to make it. ``more``: there may be more to claim, which
    would have taken long to look at."""

    records: list[tuple[Record, int]]
    epoch: str
    gap: Gap | None = None
    past: Past = ()
    letters: Letters | None = None
    ended: bool = False
    more: bool = False

    def messages(self, channel: str) -> list[tuple[Message, int]]:
        """The claimed messages, each with the number of its claims."""
        lives = Lives(self.epoch, 0, self.past)
        return [(record.to_message(channel, lives.epoch_of(record.offset)), times) for record, times in self.records]


class Figures(NamedTuple):
    """Figures of a durable: ``lag`` messages of its channel's history are not acknowledged, and the oldest of them was
    published ``oldest`` seconds ago; ``in_flight`` of them are claimed, or put off. ``redelivered`` counts claims of
    messages that had been claimed before, ``dead`` messages that were given up, since the durable was made."""

    channel: str
    durable: str
    lag: int
    oldest: float
    in_flight: int
    redelivered: int
    dead: int


# The place before all durables: these are identified by channel and name, and ordered by the bytes of these.
FIRST = ("", "")


class FiguresAsked(NamedTuple):
    """A question for a page of figures: the durables behind ``after``, at most ``limit``; of a ``channel``, or of
    channels that begin with ``prefix``; of one name, ``durable``. "": of any."""

    after: tuple[str, str] = FIRST
    limit: int = 100
    prefix: str = ""
    channel: str = ""
    durable: str = ""


class FiguresPage(NamedTuple):
    """Figures, and the durable behind which there may be more."""

    rows: list[Figures]
    next: tuple[str, str] | None = None


class Store(Streams, Protocol):
    """An engine. Its methods block, may be called by one thread at a time, and raise `StoreFailed`."""

    @property
    def life(self) -> str:
        """The name of the store's life, as the last call found it."""

    def append(self, appends: Sequence[Append], calls: Sequence[int] | None = None) -> list[Appended]:
        """Append all in one go, in this order, with the strongest durability that one of them asks for. ``calls`` gives
        the number of appends in each call (None: one each). A call is done as a whole or, where a condition of one of
        its appends does not hold, not at all: then each `Appended` of it has that condition as ``unmet``. (A call has
        one append for each of its channels.) An append whose key was used before has no conditions."""

    def refused(self, channels: Sequence[str]) -> dict[str, str]:
        """The new channels among these for which there is no room, each with the reason: an append to one of them would
        fail, and with it all appends of the same call of `append`."""

    def after(self, channel: str, cursor: Cursor | None, limit: int) -> Page:
        """The first ``limit`` records after a cursor. `EARLIEST` and None stand for the earliest message: with
        `EARLIEST`, messages that are gone before it are a gap, with None they are not. Where the cursor is not in this
        history, or has another proof, the page says so (`Gap`), and begins with the first message that the cursor's
        owner can't have seen."""

    def before(self, channel: str, cursor: Cursor | None, limit: int) -> Page:
        """The last ``limit`` records before a cursor; None: the newest."""

    def positions(self, channels: Sequence[str]) -> dict[str, Stand]:
        """Where each channel stands that has a history."""

    def begin(self, channels: Sequence[str]) -> dict[str, Cursor]:
        """The places of channels that have no history, before their first message; a channel whose history has begun
        meanwhile is left out. A reader that goes on there misses nothing, unless the channel was deleted meanwhile, or
        the store's life has ended."""

    def clear(self, channel: str) -> str:
        """Forget a channel's history, and its end. Returns the epoch that ends with it; empty where there was none."""

    def claim(
        self, channel: str, durable: str, limit: int, wait: float, since: Cursor | None = None,
        give_up: GiveUp = NEVER, *, make: bool = True,
    ) -> Claimed:  # fmt: skip
        """Claim up to ``limit`` messages, or up to the one that goes over `PAGE_BYTES`, for ``wait`` seconds: first
        messages whose claim is over, of which it looks at `LOOKED` and says if there are ``more``; then new ones, while
        fewer than `MAX_PENDING` are claimed. The first claim makes the durable, after ``since`` (None: at the channel's
        end; a cursor that is not in this history is a gap, as in `after`); not so where ``make`` is False. A durable
        that nobody claims from for `FORGET` seconds is forgotten. Messages that would be claimed too often are given
        up, once: in the same step they become dead letters or are dropped. Those for which there is no room elsewhere
        stay, and are not claimed."""

    def acknowledge(
        self, channel: str, durable: str, epoch: str, claims: Sequence[tuple[int, int]],
        proofs: Sequence[str] = (),
    ) -> list[int]:  # fmt: skip
        """End claims, given by offset and attempt (0: any attempt), and return the offsets of those that the caller
        could acknowledge, in this order. It could not where a message was claimed again meanwhile, is done, or is
        another one than the message that is there now: of another epoch, or with another proof. ``proofs`` has one for
        each claim ("": any), or none at all."""

    def release(
        self, channel: str, durable: str, epoch: str, claims: Sequence[tuple[int, int]], delay: float = 0.0,
        proofs: Sequence[str] = (),
    ) -> list[int]:  # fmt: skip
        """Give claims back: they can be claimed again, ``delay`` seconds from now on. Returns the offsets of those that
        the caller could give back, as `acknowledge` does."""

    def forget(self, channel: str, durable: str) -> None:
        """End a durable, if there is one."""

    def figures(self, asked: FiguresAsked) -> FiguresPage:
        """A page of figures of durables. It may have fewer rows than the limit, and a ``next`` all the same."""

    def keep(self, name: str, value: bytes, ttl: float, holder: str) -> bool:
        """Keep a value under this name for ``ttl`` seconds, in place of an older one. Returns False, and changes
        nothing, where the older one has another holder."""

    def take(self, name: str, holder: str, only_from: str = "") -> tuple[bytes, str] | None:
        """Become the holder of the value under a name, if ``only_from`` holds it (empty: if anybody does). Returns the
        value and its holder before; None where there is no such value."""

    def tidy(self, limit: int) -> int:
        """Remove up to ``limit`` expired rows of each kind, and return how many were removed."""

    def now(self) -> int:
        """Microseconds since 1970, by the clock that gives messages their times: messages that are appended after this
        call have no earlier time, unless that clock is set back."""

    def check(self) -> None:
        """Raise StoreFailed if nothing can be written now."""

    def size(self) -> int:
        """The bytes of the data directory that the store takes."""

    def close(self) -> None: ...
