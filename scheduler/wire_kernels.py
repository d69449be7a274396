"""The compiled twin of :mod:`scheduler.wire`: one pass over the bytes of thousands of names, in and out.

Importing this needs numba; :mod:`scheduler.wire` does so only if it is there, and works with NumPy otherwise. Both
give the same answers; every test of the codec runs with both.

The global interpreter lock is kept: a pass takes less than a thread of ours may hold the lock once it has it.
Arrays are read through intrinsics because NumPy's indexing knows no unaligned words and looks for negative indices,
a fifth of the time here. So every index must be in bounds by construction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

WORD = 8
QUOTE = 0x22
COMMA = 0x2C
ZERO = 0x30
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


@_inline
def _slot_of(text, start, last, keys, factors, shift):
    """Where the table looks for the name whose bytes begin at ``start`` and whose last window is at ``last``."""
    mixed = np.uint64(last - start + WORD) * MIX
    for k in range(len(keys)):
        mixed += _window(text, min(start + WORD * _at(keys, k), last)) * _at(factors, k)
    mixed ^= mixed >> SHIFT
    mixed *= MIX
    return np.int64(mixed >> shift)


@_inline
def _entry(text, start, last, keys, factors, shift, slots, known, width):
    """Entry of the name at ``start``, −1 if the table has none."""
    slot = _slot_of(text, start, last, keys, factors, shift)
    tail, length = _window(text, last), np.uint64(last - start + WORD)
    while True:
        entry = np.int64(_at(slots, slot))
        if entry < 0:
            return np.int64(-1)
        word = entry * width
        differ = (_at(known, word) ^ length) | (_at(known, word + 1) ^ tail)
        if differ == 0:
            for at in range(start, last, WORD):
                differ |= _at(known, word + 2) ^ _window(text, at)
                word += 1
            if differ == 0:
                return entry
        slot += 1


@_jit
def rows_of(text, begin, end, keys, factors, shift, slots, known, width, rows, found):
    """Rows of the names in ``text[begin:end]``, written as Go writes a list of strings, to ``found``; how many.

    ``text (n,)`` uint8; ``known (N · width,)`` uint64 with each known name's length, its last 8 bytes and its windows
    of 8 bytes; ``slots`` a linear-probing table of entries that ends in a free slot. −1 if anything is not as
    expected: an unknown or short name, an escape, a space.
    """
    at, count, length = begin, 0, np.int64(0)
    while at < end:
        if _at(text, at) != QUOTE:
            return -1
        at += 1
        # names of one cluster mostly have one length: a quote there is not yet proof, but the table's name is
        close, entry = at + length, np.int64(-1)
        if length and close < end and _at(text, close) == QUOTE:
            entry = _entry(text, at, close - WORD, keys, factors, shift, slots, known, width)
        if entry < 0:
            close = at
            while close < end and _at(text, close) != QUOTE:
                close += 1
            length = close - at
            if close >= end or length < WORD:
                return -1
            entry = _entry(text, at, close - WORD, keys, factors, shift, slots, known, width)
            if entry < 0:
                return -1
        found[count] = _at(rows, entry)
        count += 1
        at = close + 1
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
