"""The memory bank's parts: exact neighbours whatever the chunks, a coreset that covers, and what they refuse."""
import itertools

import pytest
import torch

from mmad_nb.core.runtime import DataError
from mmad_nb.mapping import greedy_coreset, nearest, random_projection, reweight
from mmad_nb.mapping.memory import choose_rows, covering_radius, random_choice


def rows(n, width=24, seed=0, offset=50.0):
    "Rows far from the origin, where multiplied-out distances lose digits."
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) + offset


def exact(queries, bank, k):
    return (queries.double()[:, None] - bank.double()).norm(dim=2).topk(k, largest=False)


@pytest.mark.parametrize("chunk, bank_chunk", [(1024, 16384), (7, 13), (1, 1), (100, 3)])
@pytest.mark.parametrize("k", [1, 4])
def test_neighbours_are_exact(chunk, bank_chunk, k):
    queries, bank = rows(60), rows(150, seed=1)
    distance, index = nearest(queries, bank, k, chunk, bank_chunk)
    truth = exact(queries, bank, k)
    assert torch.equal(index, truth.indices) and torch.allclose(distance.double(), truth.values, atol=1e-4)


def test_kept_rows_are_at_distance_zero():
    bank = rows(300, offset=1000.)
    distance, index = nearest(bank, bank)
    assert not distance.any() and torch.equal(index[:, 0], torch.arange(300))


def test_half_precision_bank_is_computed_with_in_full():
    bank = rows(80, offset=3.).half()
    distance, index = nearest(rows(20, seed=4, offset=3.), bank)
    truth = exact(rows(20, seed=4, offset=3.), bank, 1)
    assert distance.dtype == torch.float32 and torch.allclose(distance.double(), truth.values, atol=1e-5)
    assert torch.equal(index, truth.indices)


def test_fewer_rows_than_neighbours():
    distance, index = nearest(rows(5), rows(2, seed=1), k=9)
    assert distance.shape == index.shape == (5, 2)


def test_greedy_is_within_twice_the_best_radius():
    some = rows(11, 2)
    for count in (2, 3):
        best = min(covering_radius(some, torch.tensor(c)) for c in itertools.combinations(range(11), count))
        for seed in range(5): assert covering_radius(some, greedy_coreset(some, count, seed)) <= 2 * best + 1e-5


def test_greedy_chooses_each_row_once_and_from_a_seed():
    some = torch.cat([rows(30), rows(30)])            # every row twice
    for dim in (None, 8):
        chosen = greedy_coreset(some, 60, dim=dim)
        assert sorted(chosen.tolist()) == list(range(60))
        assert len(set((chosen[:30] % 30).tolist())) == 30    # twins come last
        in_pieces = greedy_coreset(some, 60, dim=dim, chunk=7)    # which twin comes first is a matter of rounding
        assert torch.equal(chosen[:30] % 30, in_pieces[:30] % 30)
    assert {greedy_coreset(some, 1, seed=s).item() for s in range(12)} != {0}
    state = torch.get_rng_state()
    greedy_coreset(some, 5, 3, 8); random_choice(60, 5)
    assert torch.equal(state, torch.get_rng_state())


def test_projection_changes_the_choice_not_the_count():
    some = rows(200)
    a, b = greedy_coreset(some, 20), greedy_coreset(some, 20, dim=4)
    assert len(a) == len(b) == 20 and not torch.equal(a, b)
    assert torch.equal(random_projection(some, 24), some) and random_projection(some.half(), 8).dtype == torch.float32


def test_choose_rows():
    assert len(choose_rows(rows(9), 99, "random")) == 9 and len(choose_rows(rows(9), 4)) == 4
    with pytest.raises(DataError, match="Did you mean 'greedy'"): choose_rows(rows(9), 4, "gredy")


def test_reweight_is_a_share():
    bank = rows(50)
    for scale in (0, .01, 1, 1000): assert 0 <= reweight(bank[:3] + scale, bank) <= 1
    assert abs(reweight(torch.zeros(1, 4), torch.eye(4), b=4) - .75) < 1e-6    # all rows equally far: 1 - 1/4
    assert 0 <= reweight(bank[:2] + 1, bank[:2], b=5) <= 1                        # fewer rows than b


@pytest.mark.parametrize("call, message", [
    (lambda: nearest(rows(3), rows(3, 5)), "at least one row of 5 numbers"),
    (lambda: nearest(rows(3), rows(3)[:0]), "memory bank: found shape"),
    (lambda: nearest(rows(3)[:0], rows(3)), "queries: found shape"),
    (lambda: nearest(rows(3) * float("nan"), rows(3)), "queries: found NaN"),
    (lambda: nearest(rows(3), rows(3) / 0), "memory bank: found NaN or infinite"),
    (lambda: greedy_coreset(rows(3), 0), "coreset count: found 0"),
    (lambda: greedy_coreset(rows(3)[:0], 2), "coreset: found shape"),
])
def test_refused_input(call, message):
    with pytest.raises(DataError, match=message): call()
