import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cdl_d2.nn.bridge.regression import Regression


def data(rows=300, rank=3):
    """Return inputs, one of them always zero, and targets: an affine map of rank 3 of them."""
    generator = torch.Generator().manual_seed(0)
    inputs, left, right, bias = (
        torch.randn(*shape, generator=generator)
        for shape in ((rows, 6), (6, rank), (rank, 10), (10,))
    )
    inputs[:, 5] = 0
    return inputs, inputs @ left @ right + bias


def solved(pairs, rank):
    regression = Regression()
    for inputs, targets in pairs:
        regression.add(inputs, targets)
    return regression.sum_over_processes().solve(rank)


def predicted(solution, inputs):
    return inputs.double() @ solution.reduce @ solution.expand + solution.bias


def test_a_map_of_the_rank_is_found_again():
    inputs, targets = data()
    solution = solved([(inputs, targets)], rank=3)
    assert torch.allclose(predicted(solution, inputs), targets.double(), atol=1e-3)
    assert solution.explained == pytest.approx(1, abs=1e-4)


def test_a_lower_rank_explains_what_it_says_and_no_other_map_explains_more():
    inputs, targets = data()
    solution = solved([(inputs, targets)], rank=1)
    centered = (targets - targets.mean(0)).double()
    error = (targets - predicted(solution, inputs)).square().sum()
    assert 1 - error / centered.square().sum() == pytest.approx(solution.explained, abs=1e-4)
    values = torch.linalg.svdvals(centered)  # all of the targets is a map of the inputs
    assert solution.explained == pytest.approx(
        float(values[0] ** 2 / values.square().sum()), abs=1e-3
    )


def test_what_the_map_reads_is_reduced_to_numbers_of_unit_variance_without_correlation():
    inputs, targets = data()
    reduced = inputs.double() @ solved([(inputs, targets)], rank=3).reduce
    assert torch.allclose(torch.cov(reduced.T, correction=0), torch.eye(3).double(), atol=1e-3)


def test_what_cannot_be_fitted_is_named():
    inputs, targets = data()
    with pytest.raises(ValueError, match="without data"):
        solved([], rank=1)
    inputs[0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        solved([(inputs, targets)], rank=1)


def fit_half(rank: int, rendezvous: str, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=2)
    inputs, targets = (rows[rank::2] for rows in data())
    torch.save(vars(solved([(inputs, targets)], rank=2)), f"{folder}/{rank}.pth")
    dist.destroy_process_group()


def test_processes_that_share_the_rows_find_one_map_that_of_all_rows(tmp_path):
    arguments = (str(tmp_path / "rendezvous"), str(tmp_path))
    mp.start_processes(fit_half, arguments, nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    whole = solved([data()], rank=2)
    assert torch.equal(first["expand"], second["expand"])
    both = first["reduce"] @ first["expand"], whole.reduce @ whole.expand
    assert torch.allclose(*both, atol=1e-6)


def fit_or_not(rank: int, rendezvous: str, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=2)
    torch.save(vars(solved([data()] if rank else [], rank=2)), f"{folder}/{rank}.pth")
    dist.destroy_process_group()


def test_a_process_that_saw_no_rows_finds_the_map_of_the_others(tmp_path):
    arguments = (str(tmp_path / "rendezvous"), str(tmp_path))
    mp.start_processes(fit_or_not, arguments, nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    assert torch.equal(first["expand"], second["expand"])
