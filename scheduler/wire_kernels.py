"""The compiled twin of :mod:`scheduler.wire`: one pass over the bytes of thousands of names, in and out.

Importing this needs numba; :mod:`scheduler.wire` does so only if it is there, and works with NumPy otherwise. Both
give the same answers; every test of the codec runs with both.

The global interpreter lock is kept: a pass takes less than a thread of ours may hold the lock once it has it.
Arrays are read through intrinsics because NumPy's indexing knows no unaligned words and looks for negative indices,
a fifth of the time here. So every index must be in bounds by construction.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

WORD = 8
QUOTE = 0x22
COMMA = 0x2C
ZERO = 0x30
VECTOR = 32
MIX = np.uint64(0x9E3779B97F4A7C15)
SHIFT = np.uint64(29)

_jit = njit(cache=True, error_model="numpy")
_inline = njit(cache=True, error_model="numpy", forceinline=True)


@intrinsic
def _at(typing_context: Any, array: Any, at: Any) -> Any:
    """``array[at]`` of one contiguous axis."""

    def generate(context, builder, signature, arguments):
        source = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.load(builder.gep(source.data, [arguments[1]]))

    return array.dtype(array, types.int64), generate


@intrinsic
def _window(typing_context: Any, text: Any, at: Any) -> Any:
    """The 8 bytes of ``text (n,)`` uint8 at ``at``, as one uint64."""

    def generate(context, builder, signature, arguments):
        source = context.make_array(signature.args[0])(context, builder, arguments[0])
        load = builder.load(builder.bitcast(builder.gep(source.data, [arguments[1]]), ir.IntType(64).as_pointer()))
        load.align = 1
        return load

    return types.uint64(text, types.int64), generate


@intrinsic
def _put(typing_context: Any, text: Any, at: Any, word: Any) -> Any:
    """Write one uint64 as the 8 bytes of ``text (n,)`` uint8 at ``at``."""

    def generate(context, builder, signature, arguments):
        target = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.bitcast(builder.gep(target.data, [arguments[1]]), ir.IntType(64).as_pointer())
        builder.store(arguments[2], place).align = 1
        return context.get_dummy_value()

    return types.void(text, types.int64, types.uint64), generate


@intrinsic
def _differ(typing_context: Any, text: Any, at: Any, other: Any, there: Any) -> Any:
    """Not zero if the 32 bytes of ``text`` at ``at`` and of ``other`` at ``there`` differ; both uint8."""

    def generate(context, builder, signature, arguments):
        vector = ir.VectorType(ir.IntType(64), VECTOR // WORD)
        loads = []
        for k in (0, 2):
            source = context.make_array(signature.args[k])(context, builder, arguments[k])
            place = builder.bitcast(builder.gep(source.data, [arguments[k + 1]]), vector.as_pointer())
            loads.append(builder.load(place))
            loads[-1].align = 1
        bits = builder.xor(*loads)
        words = [builder.extract_element(bits, ir.IntType(32)(k)) for k in range(VECTOR // WORD)]
        return reduce(builder.or_, words)

    return types.uint64(text, types.int64, other, types.int64), generate


@_inline
def _is_same(text, start, size, known, row):
    """Whether ``size`` bytes, at least 8, are the same in ``text`` from ``start`` and in ``known`` from ``row``."""
    if size >= VECTOR:
        last = size - VECTOR
        differ = _differ(text, start + last, known, row + last)
        for k in range(0, last, VECTOR):
            differ |= _differ(text, start + k, known, row + k)
        return differ == 0
    last = size - WORD
    differ = _window(text, start + last) ^ _window(known, row + last)
    for k in range(0, last, WORD):
        differ |= _window(text, start + k) ^ _window(known, row + k)
    return differ == 0


@_inline
def _entry(text, quote, length, first, second, factor, second_factor, shift, slots, known, width):
    """Entry of the name whose opening quote is at ``quote`` if it is ``length`` bytes long, −1 if the table has none.

    Its slot comes from two windows of 8 bytes, each moved back to the name's end at most. Quotes are compared too, so
    an entry proves the length.
    """
    start, last = quote + 1, length - WORD
    mixed = np.uint64(length) * MIX
    mixed += _window(text, start + min(first, last)) * factor
    mixed += _window(text, start + min(second, last)) * second_factor
    mixed ^= mixed >> SHIFT
    mixed *= MIX
    slot = np.int64(mixed >> shift)
    while True:
        entry = np.int64(_at(slots, slot))
        if entry < 0 or _is_same(text, quote, length + 2, known, entry * width):
            return entry
        slot += 1


@_jit
def rows_of(text, begin, end, hashing, slots, known, width, rows, found, asked):
    """Rows of the names in ``text[begin:end]``, written as Go writes a list of strings, to ``found``; how many.

    ``asked (N,)`` bool becomes true at those rows. ``text (n,)`` uint8; ``hashing (5,)`` uint64: where the two windows
    begin, their factors, how many bits of the mix are not of the slot; ``known (N · width,)`` uint8 with each known
    name between its quotes; ``slots`` a linear-probing table of entries that ends in a free slot, −1. −1 if anything
    is not as expected: an unknown or short name, an escape, a space.
    """
    first, second, factor, second_factor, shift = (
        np.int64(hashing[0]), np.int64(hashing[1]), hashing[2], hashing[3], hashing[4],
    )  # fmt: skip
    at, count, length = begin, 0, np.int64(0)
    while at < end:
        entry = np.int64(-1)
        if length and at + length + 1 < end:  # names of one cluster mostly have one length
            entry = _entry(text, at, length, first, second, factor, second_factor, shift, slots, known, width)
        if entry < 0:
            close = at + 1
            while close < end and _at(text, close) != QUOTE:
                close += 1
            length = close - at - 1
            if close >= end or length < WORD or length + 2 > width:
                return -1
            entry = _entry(text, at, length, first, second, factor, second_factor, shift, slots, known, width)
            if entry < 0:
                return -1
        row = _at(rows, entry)
        found[count] = row
        asked[row] = True
        count += 1
        at += length + 2
        if at == end:
            return count
        if _at(text, at) != COMMA:
            return -1
        at += 1
    return -1


@_jit
def write_scores(fragments, width, rows, marks, answer, begin):
    """Write ``fragments (N · width,)`` uint8 of ``rows (n,)``, each with its row's of ``marks (N,)``, from ``begin`` on.

    A fragment is at least 8 bytes long and ends in two places for the mark, a brace and a comma.
    """
    at, last = begin, width - WORD
    for i in range(len(rows)):
        row = _at(rows, i)
        source = row * width
        for k in range(0, last, WORD):
            _put(answer, at + k, _window(fragments, source + k))
        _put(answer, at + last, _window(fragments, source + last))
        mark = _at(marks, row)
        if mark >= 10:
            answer[at + width - 4] = ZERO + 1
            mark -= 10
        answer[at + width - 3] = ZERO + mark
        at += width
