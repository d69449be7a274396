"""Waiting in tests for what runs by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(holds: Callable[[], object]) -> None:
    """Wait for an effect, on however busy a machine; pytest ends what hangs."""
    while not holds():
        await asyncio.sleep(0.01)
