"""The command that a page shows: what repeats the result, without what a reader of the page has no business to know."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import PurePath

CLUSTER = ("--kubeconfig", "--context")
"""Options, each with a value, that say which cluster was asked. It is not as it was, whoever asks again."""
_URL = re.compile(r"(\w+://)(?:[^/?#]*@)?([^/?#]*)")
_PATH = re.compile(r"(?:^|(?<=^-\w)|(?<=[:=,]))(?:~|/|\.\.?/)[^:=,]*")


def shown_command(words: Sequence[str]) -> str:
    """The command line of ``words``: of a path its last part alone, of an address the host alone, and no cluster.

    >>> shown_command(["ullage", "plan", "batch", "--kubeconfig", "/home/ann/.kube/config", "--prices=../prices.csv"])
    'ullage plan batch --prices=prices.csv'
    >>> shown_command(["ullage", "compare", "openb:/data/openb/:default", "-p", "https://ann:secret@prom:9090/?token=1"])
    'ullage compare openb:openb:default -p https://prom:9090'
    >>> shown_command(["ullage", "record", "-phttps://ann:secret@prom:9090/?token=1", "-o/home/ann/out"])
    'ullage record -phttps://prom:9090 -oout'
    """
    return shlex.join(_shown(word) for word in _without_cluster(words))


def _without_cluster(words: Sequence[str]) -> Iterator[str]:
    is_value = False
    for word in words:
        option = word.partition("=")[0]
        if not is_value and option not in CLUSTER:
            yield word
        is_value = not is_value and word in CLUSTER


def _shown(word: str) -> str:
    option, sign, value = word.partition("=") if word.startswith("--") else ("", "", word)
    url = _URL.search(value)
    path, address = (value, "") if url is None else (value[: url.start()], url[1] + url[2])
    return option + sign + _PATH.sub(lambda found: PurePath(found[0]).name or ".", path) + address
