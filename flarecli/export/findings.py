"""What a look at a file or folder found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Level = Literal["ok", "warn", "bad"]


@dataclass
class Report:
    """Counts and checks of one thing.

    Attributes:
        kind: scene, archive, colmap, transforms, points, gaussians, mesh.
        path: what was looked at.
        counts: JSON values that depend on the kind.
        findings: each with level, check and message.
    """

    kind: str
    path: Path
    counts: dict[str, Any]
    findings: list[dict[str, str]]

    def add(self, check: str, problem: str | None, level: Level = "bad") -> None:
        """Record a check: fine when there is no problem."""
        self.findings.append({"level": level if problem else "ok", "check": check, "message": problem or "ok"})

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values, with the worst level of the findings."""
        levels = [finding["level"] for finding in self.findings]
        worst = next((level for level in ("bad", "warn") if level in levels), "ok")
        return {"kind": self.kind, "path": str(self.path), "level": worst, **self.counts, "findings": self.findings}
