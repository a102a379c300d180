"""`flare doctor`: is this machine ready?"""

from __future__ import annotations

import typer

from flarecli.cli.console import Talk
from flarecli.cli.options import TalkOptions, take_groups
from flarecli.errors import MissingDependency


@take_groups
def doctor(talking: TalkOptions) -> None:
    """Check device, driver, packages, weights and disk, and name the fix for what is missing."""
    from flarecli.doctor import examine

    with Talk(talking) as talk:
        checks = examine()
        code = MissingDependency.exit_code if any(check.status == "bad" for check in checks) else 0
        rows = [{"name": c.name, "status": c.status, "value": c.value, "fix": c.fix} for c in checks]
        talk.result({"command": "doctor", "exit_code": code, "checks": rows})
        if not talking.json:
            talk.table(("", "check", "found", "fix"), [(c.status, c.name, c.value, c.fix) for c in checks])
    raise typer.Exit(code)
