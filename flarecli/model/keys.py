"""Foreign checkpoints as data: rules that rename parameters or drop them with a reason, and what a file may lack."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyRule:
    r"""One row of a key map.

    Attributes:
        pattern: regular expression that must match the whole foreign name.
        target: our name, with ``\1`` for groups; None drops the parameter.
        reason: why a parameter is dropped.
    """

    pattern: str
    target: str | None
    reason: str = ""

    def __post_init__(self) -> None:
        if (self.target is None) == (not self.reason):
            raise ValueError(f"rule {self.pattern!r} needs either a target or a reason to drop")


@dataclass(frozen=True, slots=True)
class KeyMap:
    """How the weights of a checkpoint become those of a network, and in what they may differ from it.

    Attributes:
        rules: from foreign names to ours; names that no rule matches stay as they are.
        prefix: where foreign names begin with this, the others belong to the training and are not read.
        extra_names: whether weights that the network does not know are left out with a warning instead of refused.
        copies: (part, source) in our names: a part that is wholly absent has the weights of the source.
        padded: our names of weights that may have fewer rows; those at the end are then zero.
    """

    rules: tuple[KeyRule, ...] = ()
    prefix: str = ""
    extra_names: bool = False
    copies: tuple[tuple[str, str], ...] = ()
    padded: tuple[str, ...] = ()


OWN_KEYS = KeyMap()


def rule_for(key: str, rules: Sequence[KeyRule]) -> tuple[KeyRule, str | None] | None:
    """The first rule that matches a foreign name, with our name (None where dropped); None where no rule matches."""
    for rule in rules:
        match = re.fullmatch(rule.pattern, key)
        if match:
            return rule, None if rule.target is None else match.expand(rule.target)
    return None


def our_name(key: str, rules: Sequence[KeyRule]) -> str | None:
    """Our name of a parameter, or None where it is dropped; a name that no rule knows stays as it is."""
    found = rule_for(key, rules)
    return key if found is None else found[1]
