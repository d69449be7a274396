"""``ullage`` with a wall clock that a test can set: seconds to add stand in the file ``$JUMPING_CLOCK``.

Only the wall clock jumps, as when a machine's time is corrected; the monotonic clock goes on.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

_time, _time_ns = time.time, time.time_ns
_file = Path(os.environ["JUMPING_CLOCK"])


def offset_s() -> int:
    """Seconds that the wall clock is wrong by now."""
    return int(_file.read_text() or 0)


if __name__ == "__main__":
    time.time = lambda: _time() + offset_s()
    time.time_ns = lambda: _time_ns() + offset_s() * 1_000_000_000
    from scheduler.__main__ import main

    sys.exit(main())
