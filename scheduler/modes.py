"""Who is answered how: a global mode, namespaces with their own, and a kill switch. Switched while running."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from placement.errors import ConfigError
from placement.resources import DOMAIN
from scheduler.settings import MODES

log = logging.getLogger(__name__)

MODE_LABEL = f"{DOMAIN}/mode"
"""Label on a namespace: the mode of its pods, instead of the global one."""


@dataclass
class Modes:
    """The modes in force."""

    default: str
    is_killed: bool = False
    """The kill switch: everything is ``off``, whatever else is set."""
    by_namespace: dict[str, str] = field(default_factory=dict)

    def of(self, namespace: str) -> str:
        """The mode for pods of a namespace."""
        return "off" if self.is_killed else self.by_namespace.get(namespace, self.default)

    def switch(self, mode: str) -> None:
        """Set the global mode.

        Raises
        ------
        ConfigError : there is no such mode.
        """
        if mode not in MODES:
            raise ConfigError(f"mode {mode!r} does not exist; choose one of {', '.join(MODES)}")
        if mode != self.default:
            log.info("mode switched", extra={"from": self.default, "to": mode})
        self.default = mode

    def kill(self, is_killed: bool) -> None:
        """Throw the kill switch, or take it back."""
        if is_killed != self.is_killed:
            log.warning("kill switch", extra={"killed": is_killed})
        self.is_killed = is_killed

    def label(self, namespace: str, mode: str | None) -> None:
        """Set or clear a namespace's own mode; an unknown word counts as none and is reported."""
        if mode in MODES:
            self.by_namespace[namespace] = str(mode)
            return
        self.by_namespace.pop(namespace, None)
        if mode is not None:
            log.warning("namespace label is no mode", extra={"namespace": namespace, "mode": mode})
