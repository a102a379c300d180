"""Which views learn together."""

import pytest
import torch

from flarecli.adapt.sets import MAX_CONTEXT, choose_set, overlaps


def test_overlaps_tell_near_from_far_views(exact):
    shared = overlaps(exact.study)
    assert shared.shape == (5, 5) and torch.equal(shared, shared.T)
    assert shared[0, 1] > shared[0, 3]
    assert ((shared > 0.2) & (shared <= 1)).all()


@pytest.mark.parametrize("count", [2, 3, 9])
def test_sets_are_disjoint_learned_and_repeatable(count):
    shared, learned = torch.full((12, 12), 0.5), list(range(1, count + 1))
    seen = set()
    for seed in range(60):
        context, targets = choose_set(shared, learned, torch.Generator().manual_seed(seed))
        again = choose_set(shared, learned, torch.Generator().manual_seed(seed))
        assert (context, targets) == again
        assert 2 <= len(context) <= MAX_CONTEXT and len(targets) == (1 if count > 2 else 0)
        assert len({*context, *targets}) == len(context) + len(targets)
        assert {*context, *targets} <= set(learned)
        seen |= {*context}
    assert seen == set(learned)


def test_views_that_see_something_else_come_last():
    shared = torch.zeros(6, 6)
    shared[:3, :3] = shared[3:, 3:] = 0.6
    for seed in range(40):
        context, _ = choose_set(shared, list(range(6)), torch.Generator().manual_seed(seed))
        assert context[0] // 3 == context[1] // 3
