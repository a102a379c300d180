"""Rules that rename or drop parameters."""

from __future__ import annotations

import pytest

from flarecli.model.keys import KeyRule, our_name, rule_for

RULES = (KeyRule(r"old\.dead\..+", None, "unused"), KeyRule(r"old\.(\d+)\.(\w+)", r"new.\1.\2"))


def test_rules_rename_drop_and_leave_alone() -> None:
    assert our_name("old.3.weight", RULES) == "new.3.weight"
    assert our_name("old.dead.weight", RULES) is None
    assert our_name("other.weight", RULES) == "other.weight"


def test_a_rule_must_match_the_whole_name() -> None:
    assert rule_for("very.old.3.weight", RULES) is None
    assert rule_for("old.3.weight.more", RULES) is None


@pytest.mark.parametrize(("target", "reason"), [(None, ""), ("new", "unused")])
def test_a_rule_either_renames_or_says_why_it_drops(target: str | None, reason: str) -> None:
    with pytest.raises(ValueError, match="either a target or a reason"):
        KeyRule("x", target, reason)
