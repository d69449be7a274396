"""The pure core: all that a decision needs."""

import time

BEGAN_S = time.time()
"""When the first of our modules was loaded. No answer reads it: it tells which sources have changed since then."""
