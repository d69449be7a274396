"""A scorer with its weight: what strategies are made of, and what a program adds up."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from placement.scorers import SCORERS, Scorer


@dataclass(frozen=True, slots=True)
class Weighted:
    """A scorer and how loud it is; negative turns it round."""

    scorer: Scorer
    weight: int = 1

    @property
    def name(self) -> str:
        """The scorer as a TOML calls it."""
        return next((name for name, kind in SCORERS.items() if kind is type(self.scorer)), type(self.scorer).__name__)

    @property
    def parameters(self) -> dict[str, Any]:
        """The scorer's parameters by name."""
        return asdict(self.scorer)

    def __str__(self) -> str:
        return f"{self.name}*{self.weight}{sorted(self.parameters.items())}"
