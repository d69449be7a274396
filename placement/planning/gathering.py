"""When a batch that gathers is closed: one rule for live batches and for those of a replay."""

QUIET_SHARE = 0.5
"""Of the window: after so long without a newcomer nobody more is waited for; controllers make 20 pods a second."""


def closes_s(oldest_s: float, newest_s: float, window_s: float) -> float:
    """When a batch is closed whose first and last pods came at ``oldest_s`` and ``newest_s``, if nobody else comes before.

    >>> closes_s(100, 100, 10), closes_s(100, 104, 10), closes_s(100, 109, 10)
    (105.0, 109.0, 110)
    """
    return min(oldest_s + window_s, newest_s + QUIET_SHARE * window_s)
