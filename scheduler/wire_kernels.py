"""The compiled twin of :mod:`scheduler.name_table`: one pass over the bytes of thousands of names, or of thousands of Node
objects, in and out.

Importing this needs numba; :mod:`scheduler.name_table` does so only if it is there, and works with NumPy otherwise. Both
give the same answers; every test of the codec runs with both.

The global interpreter lock is kept: a pass takes less than a thread of ours may hold the lock once it has it.
Memory is read by address, through intrinsics: NumPy's indexing knows no unaligned words and looks for negative indices,
and an array that is handed to a function may be counted, which takes longer than to look a name up. So every address
must be in bounds by construction, and the arrays are held by whoever calls.
"""

from __future__ import annotations

from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from placement.machine_code import HAS_NUMBA, compiled
from scheduler.name_groups import MAX_LENGTH, MIX, NUM_FIELDS, SHIFT, WORD

if not HAS_NUMBA:
    raise ImportError("numba is told not to compile")

QUOTE = 0x22
BACKSLASH = 0x5C
COMMA = 0x2C
OPEN = 0x7B
CLOSE = 0x7D
SMALL = 0x20
"""What a square bracket lacks to be a brace."""
ZERO = 0x30
VECTOR = 32
SHIFT_BYTES = 2
"""Of a bucket."""
BLOCK = 64
FACTOR = np.uint64(MIX)
BITS = np.uint64(SHIFT)
ONE = np.uint64(1)

_jit = partial(compiled, nogil=False, error_model="numpy")
_inline = partial(compiled, nogil=False, error_model="numpy", forceinline=True)


def _load(result: Any, bits: int) -> Any:
    """An intrinsic that reads one integer at an address."""

    def read(typing_context: Any, address: Any) -> Any:
        def generate(context, builder, signature, arguments):
            load = builder.load(builder.inttoptr(arguments[0], ir.IntType(bits).as_pointer()))
            load.align = 1
            return load

        return result(types.int64), generate

    return intrinsic(read)


_byte = _load(types.uint8, 8)
_short = _load(types.uint16, 16)
_word = _load(types.uint64, 64)
_number = _load(types.int64, 64)


def _store(kind: Any, bits: int) -> Any:
    """An intrinsic that writes one integer at an address."""

    def write(typing_context: Any, address: Any, value: Any) -> Any:
        def generate(context, builder, signature, arguments):
            builder.store(arguments[1], builder.inttoptr(arguments[0], ir.IntType(bits).as_pointer())).align = 1
            return context.get_dummy_value()

        return types.void(types.int64, kind), generate

    return intrinsic(write)


_put_byte = _store(types.uint8, 8)
_put_word = _store(types.uint64, 64)
_put_number = _store(types.int64, 64)


@intrinsic
def _differ(typing_context: Any, one: Any, other: Any, mask: Any) -> Any:
    """Not zero if 32 bytes at two addresses differ under the 32 of a mask."""

    def generate(context, builder, signature, arguments):
        vector = ir.VectorType(ir.IntType(64), VECTOR // WORD)
        loads = [builder.load(builder.inttoptr(address, vector.as_pointer())) for address in arguments]
        for load in loads:
            load.align = 1
        bits = builder.and_(builder.xor(loads[0], loads[1]), loads[2])
        words = [builder.extract_element(bits, ir.IntType(32)(k)) for k in range(VECTOR // WORD)]
        return reduce(builder.or_, words)

    return types.uint64(types.int64, types.int64, types.int64), generate


@intrinsic
def _any_differs(typing_context: Any, first: Any, stride: Any, count: Any, other: Any, mask: Any) -> Any:
    """Not zero if 32 bytes at one of ``count`` addresses ``stride`` apart differ from ``other`` under a mask."""

    def generate(context, builder, signature, arguments):
        first, stride, count, other, mask = arguments
        vector = ir.VectorType(ir.IntType(64), VECTOR // WORD)

        def load(address):
            value = builder.load(builder.inttoptr(address, vector.as_pointer()))
            value.align = 1
            return value

        expected, care = load(other), load(mask)
        total = cgutils.alloca_once_value(builder, vector([0] * (VECTOR // WORD)))
        with cgutils.for_range(builder, count) as loop:
            found = load(builder.add(first, builder.mul(loop.index, stride)))
            bits = builder.and_(builder.xor(found, expected), care)
            builder.store(builder.or_(builder.load(total), bits), total)
        bits = builder.load(total)
        words = [builder.extract_element(bits, ir.IntType(32)(k)) for k in range(VECTOR // WORD)]
        return reduce(builder.or_, words)

    return types.uint64(*[types.int64] * 5), generate


@intrinsic
def _marks(typing_context: Any, address: Any) -> Any:
    """Where 64 bytes are quotes, backslashes, opening and closing brackets: a bit each."""

    def generate(context, builder, signature, arguments):
        half, word, double = ir.VectorType(ir.IntType(8), VECTOR), ir.IntType(VECTOR), ir.IntType(64)
        masks: list[Any] = [double(0)] * 4
        for k in range(0, BLOCK, VECTOR):
            load = builder.load(builder.inttoptr(builder.add(arguments[0], double(k)), half.as_pointer()))
            load.align = 1
            folded = builder.or_(load, half([SMALL] * VECTOR))
            kinds = ((load, QUOTE), (load, BACKSLASH), (folded, OPEN), (folded, CLOSE))
            for i, (source, value) in enumerate(kinds):
                equal = builder.icmp_unsigned("==", source, half([value] * VECTOR))
                bits = builder.zext(builder.bitcast(equal, word), double)
                masks[i] = builder.or_(masks[i], builder.shl(bits, double(k)))
        return context.make_tuple(builder, signature.return_type, masks)

    return types.UniTuple(types.uint64, 4)(types.int64), generate


@intrinsic
def _count(typing_context: Any, word: Any) -> Any:
    """Number of bits of one uint64."""
    return types.int64(types.uint64), lambda context, builder, signature, arguments: builder.ctpop(arguments[0])


@intrinsic
def _first(typing_context: Any, word: Any) -> Any:
    """Which bit of one uint64 is the lowest that is set; there is one."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(types.uint64), generate


class _Group(NamedTuple):
    """Addresses and numbers of one group of a :class:`~scheduler.name_groups.Groups`; ``size`` is 0 for none."""

    size: Any
    template: Any
    num_windows: Any
    windows: Any
    first: Any
    no_bucket: Any
    shifts: Any
    no_place: Any
    entries: Any


@_inline
def _group(at, end, addresses):
    """Group of names as long as the one whose opening quote is at ``at``; none if there is none, or it does not end."""
    close = at + 1
    most = min(end, at + MAX_LENGTH + 2)
    while close < most and _byte(close) != QUOTE:
        close += 1
    group = _number(addresses[0] + (close - at - 1) * WORD) if close < most else np.int64(-1)
    fields = addresses[1] + max(group, 0) * (NUM_FIELDS * WORD)
    windows = addresses[2] + _number(fields + 3 * WORD) * WORD
    return _Group(
        _number(fields) if group >= 0 else np.int64(0),
        addresses[3] + _number(fields + WORD),
        _number(fields + 2 * WORD),
        windows,
        _number(windows),
        np.uint64(_number(fields + 4 * WORD)),
        addresses[4] + _number(fields + 5 * WORD) * SHIFT_BYTES,
        np.uint64(_number(fields + 6 * WORD)),
        addresses[5] + _number(fields + 7 * WORD) * WORD,
    )


@_inline
def _fits(at, size, template):
    """Whether ``size`` bytes, at least 10, are as the template says under its mask."""
    mask = template + size
    if size >= VECTOR:
        last = size - VECTOR
        differ = _differ(at + last, template + last, mask + last)
        for k in range(0, last, VECTOR):
            differ |= _differ(at + k, template + k, mask + k)
        return differ == 0
    last = size - WORD
    differ = (_word(at + last) ^ _word(template + last)) & _word(mask + last)
    for k in range(0, last, WORD):
        differ |= (_word(at + k) ^ _word(template + k)) & _word(mask + k)
    return differ == 0


@_inline
def _all_fit(at, end, group):
    """Whether all that is left is names of the group's length that are as its template says: many at once, block by
    block of the name."""
    size, stride = group.size, group.size + 1
    if size < VECTOR or (end + 1 - at) % stride != 0:
        return False
    count, last = (end + 1 - at) // stride, size - VECTOR
    mask = group.template + size
    differ = _any_differs(at + last, stride, count, group.template + last, mask + last)
    for k in range(0, last, VECTOR):
        differ |= _any_differs(at + k, stride, count, group.template + k, mask + k)
    return differ == 0


@_inline
def _row(at, group):
    """Row of the name whose opening quote is at ``at`` if it is one of the group, else −1. See :mod:`name_groups`."""
    return _row_of_alike(at, group) if _fits(at, group.size, group.template) else np.int64(-1)


@_inline
def _row_of_alike(at, group):
    """As :func:`_row`, of a name that is as the template says."""
    num, windows = group.num_windows, group.windows
    word = _word(at + group.first)  # most clusters need no other
    mixed = word * FACTOR
    mixed ^= mixed >> BITS
    for k in range(1, num):
        mixed = (mixed + _word(at + _number(windows + k * WORD))) * FACTOR
        mixed ^= mixed >> BITS
    mixed *= FACTOR
    shift = np.uint64(_short(group.shifts + np.int64(mixed >> group.no_bucket) * SHIFT_BYTES))
    entry = group.entries + np.int64(((mixed ^ shift) * FACTOR) >> group.no_place) * ((num + 1) * WORD)
    differ = _word(entry + WORD) ^ word
    for k in range(1, num):
        differ |= _word(at + _number(windows + k * WORD)) ^ _word(entry + (k + 1) * WORD)
    return _number(entry) if differ == 0 else np.int64(-1)


@_jit
def rows_of(text, begin, end, addresses, found, asked):
    """Rows of the names in ``text[begin:end]``, written as Go writes a list of strings, to ``found``; how many.

    ``asked (N,)`` bool becomes true at those rows. ``text (n,)`` uint8; the known names are those of the
    :class:`~scheduler.name_groups.Groups` with these ``addresses (6,)``. −1 if anything is not as expected: an unknown
    or short name, an escape, a space.
    """
    at, end = text.ctypes.data + begin, text.ctypes.data + end
    rows, mask = found.ctypes.data, asked.ctypes.data
    count = 0
    while at < end:
        group, before = _group(at, end, addresses), count
        if not group.size:
            return -1
        are_alike = _all_fit(at, end, group)
        while at + group.size <= end:  # names of one cluster mostly have one length
            row = _row_of_alike(at, group) if are_alike else _row(at, group)
            if row < 0:
                break
            _put_number(rows + count * WORD, row)
            _put_byte(mask + row, np.uint8(1))
            count += 1
            at += group.size
            if at == end:
                return count
            if _byte(at) != COMMA:
                return -1
            at += 1
        if count == before:
            return -1
    return -1


@_inline
def _escaped(slashes, first):
    """Which bytes stand behind a backslash that counts, ``first`` among them; and whether the next block's first does."""
    escaped, slashes = first, slashes & ~first
    while slashes:
        bit = slashes & (~slashes + ONE)
        if bit >> np.uint64(63):
            return escaped, ONE
        escaped |= bit << ONE
        slashes &= ~(bit | (bit << ONE))
    return escaped, np.uint64(0)


@_inline
def _inside(quotes):
    """Bits from each opening quote up to its closing one."""
    for shift in (1, 2, 4, 8, 16, 32):
        quotes ^= quotes << np.uint64(shift)
    return quotes


@_inline
def _named(at, end, prefix, size, addresses):
    """Row of the object at ``at`` if it begins with the ``size`` bytes of ``prefix`` and a known name, else −1."""
    differ = at + size >= end
    for k in range(min(size, end - at)):
        differ |= _byte(at + k) != _byte(prefix + k)
    group = _group(at + size - 1, end, addresses)
    return np.int64(-1) if differ or not group.size else _row(at + size - 1, group)


@_jit
def items_of(text, begin, end, prefix, addresses, starts, ends, found, asked):
    """Objects in ``text[begin:end]``, a list as Go writes it, each of which begins with ``prefix`` and a known name;
    how many.

    ``starts`` and ``ends`` get where each begins and ends, ``found`` its row; ``asked (N,)`` bool becomes true there.
    What is in the objects is not looked at but for brackets outside of strings, 64 bytes at a time. −1 if anything is
    not as expected, or if there are more than ``starts`` has room for.
    """
    address = text.ctypes.data
    depth, count, expected = 0, 0, begin
    quoted, first = np.uint64(0), np.uint64(0)
    last = len(text) - BLOCK
    if last < 0:
        return -1
    for at in range(begin, end, BLOCK):
        quotes, slashes, opens, closes = _marks(address + min(at, last))
        if at > last:
            shift = np.uint64(at - last)
            quotes, slashes, opens, closes = quotes >> shift, slashes >> shift, opens >> shift, closes >> shift
        if slashes | first:
            escaped, first = _escaped(slashes, first)
            quotes &= ~escaped
        inside = _inside(quotes) ^ quoted
        quoted = np.uint64(0) - (inside >> np.uint64(63))
        opens, closes = opens & ~inside, closes & ~inside
        down = _count(closes)
        if depth > down:  # no object ends here, in whatever order they come
            depth += _count(opens) - down
            continue
        both = opens | closes
        while both:
            bit = both & (~both + ONE)
            both ^= bit
            here = at + _first(bit)
            if here >= end:
                break
            if closes & bit:
                depth -= 1
                if depth == 0:
                    ends[count] = here + 1
                    count += 1
                    expected = here + 2
                elif depth < 0:
                    return -1
                continue
            if depth == 0:
                is_next = here == expected and (count == 0 or _byte(address + here - 1) == COMMA)
                if not is_next or count == len(starts):
                    return -1
                row = _named(address + here, address + end, prefix.ctypes.data, len(prefix), addresses)
                if row < 0:
                    return -1
                starts[count] = here
                found[count] = row
                asked[row] = True
            depth += 1
    is_whole = depth == 0 and (ends[count - 1] == end if count else begin == end)
    return count if is_whole else -1


@_jit
def write_scores(fragments, width, rows, marks, answer, begin):
    """Write ``fragments (N · width,)`` uint8 of ``rows (n,)``, each with its row's of ``marks (N,)``, from ``begin`` on.

    A fragment is at least 8 bytes long and ends in two places for the mark, a brace and a comma.
    """
    source, at, last = fragments.ctypes.data, answer.ctypes.data + begin, width - WORD
    asked, by_row = rows.ctypes.data, marks.ctypes.data
    for i in range(len(rows)):
        row = _number(asked + i * WORD)
        mark = _number(by_row + row * WORD)
        for k in range(0, last, WORD):
            _put_word(at + k, _word(source + row * width + k))
        _put_word(at + last, _word(source + row * width + last))
        if mark >= 10:
            _put_byte(at + width - 4, np.uint8(ZERO + 1))
            mark -= 10
        _put_byte(at + width - 3, np.uint8(ZERO + mark))
        at += width
