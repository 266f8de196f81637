"""Fossil deltas: a text, written as a change of another one (fossil-scm.org, "Fossil Delta Format"). Pure.

     delta    = size LF *command checksum ";"
     command  = count "@" offset ","        bytes of the other text, from there on
              / count ":" bytes             bytes that are new

Numbers are written in base 64, the highest digit first. The size is that of the result, and the checksum is the sum of
its words of 32 bits.

What both texts begin and end with is found by comparison. Between that, blocks of the other text are looked up: each
has `BLOCK` bytes, and a match is extended on both sides. The longer nothing is found, the larger are the steps, so that
texts without anything in common take little time. No character of UTF-8 is cut apart: what is new is UTF-8, if the text
is.
"""

from __future__ import annotations

import struct
from typing import Final

# Bytes of the blocks that are looked up, and of the shortest part that is copied.
BLOCK: Final = 16
LEAST: Final = 10
# Parts that are copied from between the ends, at most: what follows is new.
MOST_PARTS: Final = 256
# Blocks that are looked up without success until the steps grow by one byte.
PATIENCE: Final = 32
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"


def create(before: bytes, after: bytes) -> bytes:
    """The delta that makes ``after`` of ``before``. It may be larger than that."""
    ends = min(len(before), len(after))
    head = _whole(after, _alike(before, 0, after, 0, ends))
    tail = _tail(before, after, ends - head)
    out = [b"%b\n" % _number(len(after))]
    at = 0
    if head >= LEAST:
        out.append(b"%b@0," % _number(head))
        at = head
    behind = len(after) - tail
    end = behind if tail >= LEAST else len(after)
    if end - at >= BLOCK and len(before) >= BLOCK:
        at = _middle(before, head, len(before) - tail, after, at, end, out)
    if at < end:
        out.append(b"%b:%b" % (_number(end - at), after[at:end]))
    if end < len(after):
        out.append(b"%b@%b," % (_number(tail), _number(len(before) - tail)))
    out.append(b"%b;" % _number(checksum(after)))
    return b"".join(out)


def _middle(before: bytes, first: int, last: int, after: bytes, at: int, end: int, out: list[bytes]) -> int:
    """Write the commands for a part of ``after`` by what stands between two places of ``before``. Returns the place
    behind the last part that is copied."""
    blocks: dict[bytes, int] = {}
    for start in range(last - BLOCK, first - 1, -BLOCK):
        blocks[before[start : start + BLOCK]] = start
    look, missed, parts = at, 0, 0
    while look + BLOCK <= end and parts < MOST_PARTS:
        found = blocks.get(after[look : look + BLOCK])
        if found is None:
            missed += 1
            look += 1 + missed // PATIENCE
            continue
        missed = 0
        back = _alike(before, found, after, look, min(found - first, look - at), back=True)
        ahead = BLOCK + _alike(before, found + BLOCK, after, look + BLOCK, min(last - found, end - look) - BLOCK)
        begin, stop = look - back, look + ahead
        while begin < stop and after[begin] & 0xC0 == 0x80:
            begin += 1
        stop = begin if begin >= stop else _whole(after, stop)
        look += ahead
        if stop - begin < LEAST:
            continue
        if at < begin:
            out.append(b"%b:%b" % (_number(begin - at), after[at:begin]))
        out.append(b"%b@%b," % (_number(stop - begin), _number(found - (look - ahead - begin))))
        at = stop
        parts += 1
    return at


def _tail(before: bytes, after: bytes, most: int) -> int:
    """The number of bytes, at most so many, with which both texts end, in whole characters."""
    count = _alike(before, len(before), after, len(after), most, back=True)
    while count and after[len(after) - count] & 0xC0 == 0x80:
        count -= 1
    return count


def _whole(data: bytes, end: int) -> int:
    """A place, or the beginning of the character in which it is."""
    while 0 < end < len(data) and data[end] & 0xC0 == 0x80:
        end -= 1
    return end


def _alike(one: bytes, at_one: int, other: bytes, at_other: int, most: int, *, back: bool = False) -> int:
    """The number of bytes, at most so many, that are alike from two places on, or going ``back`` from them."""
    count, step = 0, 32
    while step:
        step = min(step, most - count)
        begin = -count - step if back else count
        first, second = at_one + begin, at_other + begin
        if one[first : first + step] == other[second : second + step]:
            count += step
            if count >= most:
                break
            step *= 2
        else:
            step //= 2
    return count


def checksum(data: bytes) -> int:
    """The sum of the text's words of 32 bits, the highest byte first, modulo 2^32; zeros follow the text."""
    padded = data + bytes(-len(data) % 4)
    return sum(struct.unpack(f">{len(padded) // 4}I", padded)) & 0xFFFFFFFF


def _number(value: int) -> bytes:
    digits = _DIGITS[value & 63]
    value >>= 6
    while value:
        digits = _DIGITS[value & 63] + digits
        value >>= 6
    return digits.encode()
