"""The compiled twin of the name look-up in :mod:`scheduler.wire`: one pass over the bytes of thousands of names.

Importing this needs numba; :mod:`scheduler.wire` does so only if it is there, and looks names up with NumPy
otherwise. Both give the same rows; a property test holds them equal.
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
MIX = np.uint64(0x9E3779B97F4A7C15)
SHIFT = np.uint64(29)

_jit = njit(cache=True, nogil=True, error_model="numpy")
_inline = njit(cache=True, nogil=True, error_model="numpy", forceinline=True)


@intrinsic
def _window(typing_context: Any, text: Any, at: Any) -> Any:
    """The 8 bytes of ``text (n,)`` uint8 at ``at``, as one uint64; NumPy's indexing has no unaligned loads."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        word = ir.IntType(64)
        load = builder.load(builder.bitcast(builder.gep(array.data, [arguments[1]]), word.as_pointer()))
        load.align = 1
        return load

    return types.uint64(text, types.int64), generate


@_inline
def _slot_of(text, start, last, keys, factors, shift):
    """Where the table looks for the name whose bytes begin at ``start`` and whose last window is at ``last``."""
    mixed = np.uint64(last - start + WORD) * MIX
    for k in range(len(keys)):
        mixed += _window(text, min(start + WORD * keys[k], last)) * factors[k]
    mixed ^= mixed >> SHIFT
    mixed *= MIX
    return np.int64(mixed >> shift)


@_inline
def _entry(text, start, last, keys, factors, shift, slots, known):
    """Entry of the name at ``start``, −1 if the table has none."""
    slot = _slot_of(text, start, last, keys, factors, shift)
    tail, length = _window(text, last), np.uint64(last - start + WORD)
    while slots[slot] >= 0:
        entry = slots[slot]
        differ = (known[entry, 0] ^ length) | (known[entry, 1] ^ tail)
        if differ == 0:
            k = 2
            for at in range(start, last, WORD):
                differ |= known[entry, k] ^ _window(text, at)
                k += 1
            if differ == 0:
                return np.int64(entry)
        slot += 1
    return np.int64(-1)


@_jit
def rows_of(text, begin, end, keys, factors, shift, slots, known, rows, found):
    """Rows of the names in ``text[begin:end]``, written as Go writes a list of strings, to ``found``; how many.

    ``text (n,)`` uint8; ``known (N, 2 + W)`` uint64 with each known name's length, its last 8 bytes and its windows
    of 8 bytes; ``slots`` a linear-probing table of entries that ends in a free slot. −1 if anything is not as
    expected: an unknown or short name, an escape, a space.
    """
    at, count, length = begin, 0, np.int64(0)
    while at < end:
        if text[at] != QUOTE:
            return -1
        at += 1
        # names of one cluster mostly have one length: a quote there is not yet proof, but the table's name is
        close, entry = at + length, np.int64(-1)
        if length and close < end and text[close] == QUOTE:
            entry = _entry(text, at, close - WORD, keys, factors, shift, slots, known)
        if entry < 0:
            close = at
            while close < end and text[close] != QUOTE:
                close += 1
            length = close - at
            if close >= end or length < WORD:
                return -1
            entry = _entry(text, at, close - WORD, keys, factors, shift, slots, known)
            if entry < 0:
                return -1
        found[count] = rows[entry]
        count += 1
        at = close + 1
        if at == end:
            return count
        if text[at] != COMMA:
            return -1
        at += 1
    return -1
