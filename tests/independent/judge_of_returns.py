"""The judge of trials in which the store goes back. It is pure, and each promise is a sentence of history.md:

order      A life of the store goes on with the next number, in a new epoch; messages keep their cursors, and the
           offsets of a history have no holes. (When the store went back; zeromq.md, SUB)
once       What is published once is stored once. Who publishes again under a key may do it twice, where the first one
           was lost. (Publish once, When the store went back)
kept       What was acknowledged in a life is there, and so is what the data had that the life began with. (What an
           acknowledgement means, Backup)
prefix     A life begins with what its data had, and with nothing else: "It goes on from there". (When the store went
           back)
whole      A batch is stored as a whole or not at all. (What an acknowledgement means)
refused    503: "Nothing was published, and nothing will be, unless it says that nobody knows". (When the store fails)
recovered  A cursor is good up to where its epoch ended: true. One beyond that is of a message that was lost: false.
           A node may know the answer without the store "if the store has answered it within the last three seconds";
           then the gap follows. (When the store went back, Cursors)
sequence   A subscriber gets each message after its position, once and in order; after a gap, "all that was published
           since the store went back, once". (When the store went back, What is guaranteed)
told       A subscriber that is connected is told of what it has and was lost, within `position_check`. (the same)
reached    An acknowledged message reaches every connected subscriber, within `position_check`. (What is guaranteed)
gap        A gap is told where something was lost, and then nobody knows how much. (What can't be recovered)
durable    It goes on from its place, and hands out what is there; "what a consumer has of the lost messages can't be
           acknowledged any more". What was acknowledged comes not again, unless the place went back. (the same)
answer     4xx and 500 are for mistakes, and there were none. (http.md, Errors, Close codes)

What channels lose by size or age, and channels without history, are the affair of the other judge.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

from tests.independent.events import (
    Bad,
    Began,
    Done,
    Ended,
    Event,
    Got,
    Handed,
    Missed,
    Moved,
    Page,
    Published,
    Violation,
    WentBack,
)
from tests.independent.forks import Forks, lives
from tests.independent.truth import NOWHERE, Place, matches, place

NOWHERE_YET = Place(NOWHERE, 0)
# For how many seconds a node trusts the store's last answer; and within how many its workers hear one that another got.
TRUSTED, HEARD = 3.0, 1.0
# Seconds that a machine with much to do may be late, where the documents name a time; and in which a message that is on
# its way arrives.
LATE, ARRIVES, SOON = 3.0, 3.0, 0.5


class _Walk:
    """Where a subscriber is in a channel; ``at`` is None before the first message of a pattern's channel. ``due``: the
    head has told that something is missing, and the gap has not come yet. ``told``: it has, and nothing since."""

    def __init__(self, began: Began, at: Place | None) -> None:
        self.began, self.at = began, at
        self.due = began.recovered is False
        self.told = False
        self.told_in = -1  # the life in which a gap was told last
        self.since = began.at  # it came to where it is


class Finding:
    """What the judge has found, and how often what it looked for happened."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.counts: Counter[str] = Counter()

    def say(self, promise: str, channel: str, at: float, text: str) -> None:
        self.violations.append(Violation(promise, channel, at, text))


def judge(channels: Collection[str], log: Sequence[Event], position_check: float) -> Finding:
    """The log has a whole page (``last``) of each channel from each life, and ends with one of each; channels keep all.
    ``position_check`` is the nodes' setting."""
    found = Finding()
    returns = [event for event in log if isinstance(event, WentBack)]
    known = {channel: Forks(lives(returns)) for channel in channels}
    _learn(known, log)
    for channel, forks in known.items():
        _Histories(channel, forks, found).judge(log)
    walks = _Walks(known, found, position_check)
    walks.know(log)
    for event in log:
        walks.hear(event)
    for who in list(walks.walks):
        walks.ended(who[0], log[-1].at)
    for channel, forks in known.items():
        _durable(channel, forks, found, [event for event in log if isinstance(event, Handed | Done)])
    return found


def _learn(known: dict[str, Forks], log: Sequence[Event]) -> None:
    for event in log:
        match event:
            case Published(outcome="stored"):
                for message, cursor in zip(event.ids, event.cursors, strict=True):
                    where = known[event.channel].put(cursor, message, event.at)
                    known[event.channel].acknowledged.append((event, message, where))
            case Got(cursor=str() as cursor) | Handed(cursor=cursor):
                known[event.channel].put(cursor, event.id, event.at)
            case Page(last=True):
                known[event.channel].page(event)
            case Page():
                for cursor, message in event.messages:
                    known[event.channel].put(cursor, message, event.at)
    for forks in known.values():
        forks.seal()


def _is_doubtful(at: Place, since: Sequence[int]) -> bool:
    """Whether this is the place of a channel without a message, of a life of the store that is over: nobody can tell
    whether messages came behind it, and were lost (docs/history.md, positions)."""
    return at.offset == 0 and at.epoch != NOWHERE and since[-1] > 0


class _Histories:
    """What the store did with a channel."""

    def __init__(self, channel: str, forks: Forks, found: Finding) -> None:
        self.channel, self.forks, self.found = channel, forks, found

    def say(self, promise: str, at: float, text: str) -> None:
        self.found.say(promise, self.channel, at, text)

    def judge(self, log: Sequence[Event]) -> None:
        published = [event for event in log if isinstance(event, Published) and event.channel == self.channel]
        for conflict in self.forks.conflicts:
            self.say("order", *conflict)
        self.acknowledged_in_time(published)
        self.published_once(published)
        for number, page in self.forks.pages:
            self.page(number, page, published)
        for number in range(1, len(self.forks.lives)):
            self.found.counts["acknowledged, and lost by the store"] += len(
                {where for _, _, where in self.forks.acknowledged} & set(self.forks.lost(number))
            )

    def acknowledged_in_time(self, published: Sequence[Published]) -> None:
        """A new life has a new epoch; only a key's first answer may come again."""
        begun: dict[str, float] = {}
        for event in published:
            for message in event.ids:
                begun[message] = min(event.begun, begun.get(message, event.begun))
        for event, message, where in self.forks.acknowledged:
            life = self.forks.began_in(where.epoch)
            if life + 1 < len(self.forks.lives) and begun[message] > self.forks.lives[life + 1].at:
                self.say("order", event.at, f"{message} is at {where}, of an epoch that ended with life {life}")

    def published_once(self, published: Sequence[Published]) -> None:
        times = Counter(message for event in published for message in event.ids)
        refused = {message for event in published if event.outcome == "refused" for message in event.ids}
        for message, places in self.forks.places.items():
            if message not in times:
                self.say("sequence", 0.0, f"{message} at {places} was never published there")
            if len(places) > times[message]:
                self.say("once", 0.0, f"{message} was published {times[message]} times, and is at {places}")
            if message in refused:
                self.say("refused", 0.0, f"{message} was refused, and is at {places}")

    def page(self, number: int, page: Page, published: Sequence[Published]) -> None:
        life = self.forks.lives[number]
        ids = [message for _, message in page.messages]
        there = {place(cursor) for cursor, _ in page.messages}
        if len(set(ids)) != len(ids):
            twice = [message for message, times in Counter(ids).items() if times > 1]
            self.say("once", page.at, f"{twice[:5]} are there twice in life {number}")
        for event, message, where in self.forks.acknowledged:
            here = life.at <= event.begun or self.forks.began_in(where.epoch) == number
            if here and event.at < page.begun and where not in there:
                self.say("kept", page.at, f"{message}, acknowledged at {where} in life {number}, is not there")
            elif (
                number and life.copied is not None and event.at < life.copied
                and self.forks.has(life.source, where) and where not in there
            ):  # fmt: skip
                self.say("kept", page.at, f"{message} at {where} was in the data of life {number}, and is not there")
        for where in there:
            began = self.forks.began_in(where.epoch)
            if began != number and not self.forks.has(life.source, where):
                self.say("prefix", page.at, f"life {number} has {where} of life {began}, which {life.source} had not")
        had = set(ids)
        for event in published:
            if any(message in had for message in event.ids) and not had.issuperset(event.ids) and event.at < page.begun:
                self.say("whole", page.at, f"of {event.ids} life {number} has only a part")


class _Walks:
    """What each subscriber was told."""

    def __init__(self, known: dict[str, Forks], found: Finding, position_check: float) -> None:
        self.known, self.found, self.late = known, found, position_check + LATE
        self.walks: dict[tuple[str, str], _Walk] = {}
        self.patterns: dict[str, Began] = {}
        # When a node surely had an answer of the store in a life.
        self.knows: dict[tuple[int, int], float] = {}
        self.lossy = {
            channel: [number for number in range(len(forks.lives)) if forks.lost(number)]
            for channel, forks in known.items()
        }

    def say(self, promise: str, channel: str, at: float, text: str) -> None:
        self.found.say(promise, channel, at, text)

    def know(self, log: Sequence[Event]) -> None:
        """Who publishes at a node gets the store's answer."""
        for event in log:
            if isinstance(event, Published) and event.outcome == "stored":
                forks = self.known[event.channel]
                key = forks.began_in(place(event.cursors[0]).epoch), event.node
                self.knows[key] = min(event.at, self.knows.get(key, event.at))

    def hear(self, event: Event) -> None:
        match event:
            case Began():
                self.begin(event)
            case Got(cursor=str()) | Moved():
                self.moved(event)
            case Missed():
                self.missed(event)
            case Ended():
                self.patterns.pop(event.who, None)
                self.ended(event.who, event.at)
            case Bad():
                self.say("answer", event.channel, event.at, f"{event.who}: {event.what}")

    def begin(self, event: Began) -> None:
        if event.pattern:
            self.patterns[event.who] = event
            return
        forks = self.known[event.channel]
        at = place(event.cursor) if event.cursor and (event.asked is None or event.repeats) else NOWHERE_YET
        if event.asked not in (None, "earliest") and not (event.repeats and event.cursor):
            at = place(str(event.asked))
        self.walks[event.who, event.channel] = _Walk(event, at)
        if event.asked is None or event.repeats:
            return
        now = list(forks.possible(event.begun, event.at))
        lately = list(forks.possible(event.begun, event.at, self.late))
        if event.recovered and not any(forks.has(number, at) for number in now):
            if now[0] and forks.has(now[0] - 1, at) and event.begun < self.trusted_until(now[0], event.node, forks):
                self.found.counts["true, and the gap soon after"] += 1
            else:
                text = f"{event.who} asked for {event.asked}, which is lost, and was told that it is recovered: {event}"
                self.say("recovered", event.channel, event.at, text)
        if event.recovered is False:
            self.found.counts["told false"] += 1
            if all(forks.has(number, at) for number in lately) and not _is_doubtful(at, lately):
                self.say(
                    "recovered", event.channel, event.at, f"{event.who} was told false, and nothing is lost: {event}"
                )

    def trusted_until(self, number: int, node: int, forks: Forks) -> float:
        """Until when a node may tell what it knows of the life before this one."""
        answered = self.knows.get((number, node), float("inf"))
        return min(forks.lives[number].begun + TRUSTED, answered + HEARD) + SOON

    def walk(self, event: Got | Moved | Missed) -> _Walk | None:
        walk = self.walks.get((event.who, event.channel))
        if walk is None and event.who in self.patterns:
            walk = self.walks[event.who, event.channel] = _Walk(self.patterns[event.who], None)
        return walk

    def moved(self, event: Got | Moved) -> None:
        """A message, or a position behind what was hidden."""
        walk, forks = self.walk(event), self.known[event.channel]
        if walk is None or event.cursor is None:
            self.say("sequence", event.channel, event.at, f"{event} without a subscription")
            return
        to = place(event.cursor)
        if isinstance(event, Got) and walk.began.filtered and not matches(event.id):
            self.say("sequence", event.channel, event.at, f"{event.who} got {event.id}, which its filter hides")
        if walk.at is not None:
            self.step(walk, to, forks, event)
        walk.at, walk.since = to, event.at
        if isinstance(event, Got) or not walk.due:
            walk.told = walk.due = False

    def step(self, walk: _Walk, to: Place, forks: Forks, event: Got | Moved) -> None:
        assert walk.at is not None
        common = forks.common(walk.at, to)
        lost = walk.at.offset > common
        if lost and not (walk.told or walk.due):
            self.say(
                "sequence", event.channel, event.at, f"{event.who} is at {walk.at}, which is lost; untold: {event}"
            )
            return
        first, last = common + 1, to.offset - isinstance(event, Got)
        if isinstance(event, Got) and to.offset <= common:
            self.say("sequence", event.channel, event.at, f"{event.who} is at {walk.at}, and got {event} again")
            return
        if isinstance(event, Moved) and to.offset < common:
            self.say("sequence", event.channel, event.at, f"{event.who} has {common} of it, and was told {event}")
            return
        skipped = [Place(each.epoch, offset) for each in forks.line(to) if each.last >= first
                   for offset in range(max(first, each.first), min(last, each.last) + 1)]  # fmt: skip
        if walk.began.filtered:
            skipped = [where for where in skipped if where in forks.ids and matches(forks.ids[where])]
        if skipped and lost and self.is_unsure(walk.at, skipped[-1].offset, forks, to, event.at):
            self.found.counts["went on with a later life than the loss"] += 1
        elif skipped:
            text = f"{event.who} at {walk.at} did not get {skipped[:3]} ({len(skipped)}) before {event}"
            self.say("sequence", event.channel, event.at, text)
        if lost:
            self.found.counts["went on behind a gap"] += 1

    def is_unsure(self, has: Place, skipped: int, forks: Forks, to: Place, at: float) -> bool:
        """Where more than one epoch was lost nobody can know which life began with the loss: one is taken that began
        before the cursor's number, behind what was skipped."""
        line = forks.line(Place(to.epoch, max(to.offset, forks.begin(to.epoch))))
        left = {each.epoch for each in line}
        lost = [each for each in forks.line(has) if each.epoch not in left]
        begins = [each.first for each in line] + [forks.due(number) for number in forks.possible(at, at, self.late)]
        return len(lost) > 1 and any(skipped < begin <= min(has.offset, to.offset + 1) for begin in begins)

    def missed(self, event: Missed) -> None:
        walk, forks = self.walk(event), self.known[event.channel]
        if event.missing is not None:
            self.say("gap", event.channel, event.at, f"{event.who}: nothing is too old or too much: {event}")
            return
        if walk is None:
            self.say("gap", event.channel, event.at, f"{event} without a subscription")
            return
        number = max(number for number, life in enumerate(forks.lives) if life.at <= event.at)
        since = list(forks.possible(walk.began.begun, event.at, self.late))
        lossy = [each for each in self.lossy[event.channel] if {each - 1, each} <= set(since)]
        # Who asks for what follows its position is told when it does.
        lost = walk.at is not None and not walk.told and self.is_lost(walk.at, since, forks)
        lost = lost or (walk.at is not None and _is_doubtful(walk.at, since))
        if not walk.due and not lost and not any(each > walk.told_in for each in lossy):
            self.say("gap", event.channel, event.at, f"{event.who} was told of a gap, and nothing is lost: {event}")
        walk.due, walk.told, walk.told_in = False, True, number

    def is_lost(self, where: Place, since: Sequence[int], forks: Forks) -> bool:
        """One of these lives has it no more."""
        return any(not forks.has(number, where) for number in since if number >= forks.began_in(where.epoch))

    def ended(self, who: str, at: float) -> None:
        """It has stayed until now: what it has, and was lost for long, it must have been told of; and what was
        acknowledged long ago it must have got."""
        for key in [key for key in self.walks if key[0] == who]:
            walk, forks = self.walks.pop(key), self.known[key[1]]
            asks = walk.began.recovered is None and walk.began.asked is not None  # a client that must ask itself
            if walk.at is None or asks:
                continue
            for number, life in enumerate(forks.lives):
                if walk.told or walk.due or not walk.since < life.begun or min(at, life.over) <= life.at + self.late:
                    continue
                if not forks.has(number, walk.at):
                    text = f"{who} was at {walk.at} until the end of its stay, which life {number} has lost; untold"
                    self.say("told", key[1], at, text)
            if not walk.began.filtered and not walk.began.pattern:
                self.reached(key, walk.at, walk.began.at, at)

    def reached(self, key: tuple[str, str], has: Place, since: float, at: float) -> None:
        """A subscriber has this at the end of its stay."""
        who, channel = key
        forks, long_ago = self.known[channel], at - self.late
        number, life = max((n, life) for n, life in enumerate(forks.lives) if life.begun <= at)
        if max(life.at, since) > long_ago:
            return
        old = [where for event, _, where in forks.acknowledged
               if event.at < long_ago and forks.began_in(where.epoch) == number]  # fmt: skip
        newest = max(old, key=lambda where: where.offset, default=NOWHERE_YET)
        if forks.common(has, newest) < newest.offset:
            self.say("reached", channel, at, f"{who} is at {has}, {newest} was acknowledged before {long_ago:.3f}")


def _durable(channel: str, forks: Forks, found: Finding, log: Sequence[Handed | Done]) -> None:
    handed: dict[Place, float] = defaultdict(float)
    done: dict[Place, Done] = {}
    for event in log:
        where = place(event.cursor)
        if event.channel != channel:
            continue
        if isinstance(event, Done):
            done[where] = event
            if not any(forks.has(number, where) for number in forks.possible(event.begun, event.at)):
                found.say("durable", channel, event.at, f"what is lost was acknowledged: {event}")
            continue
        handed[where] = event.at
        if not any(forks.has(number, where) for number in forks.possible(event.at - ARRIVES, event.at)):
            found.say("durable", channel, event.at, f"what is lost was handed out: {event}")
        before = done.get(where)
        if before and not any(before.begun < life.at and life.begun < event.at for life in forks.lives):
            found.say("durable", channel, event.at, f"it was done, and was handed out again: {before}, {event}")
    if handed:
        _, page = forks.pages[-1]
        never = [message for cursor, message in page.messages if place(cursor) not in handed]
        if never:
            found.say("durable", channel, page.at, f"{never[:5]} ({len(never)}) were never handed out")
