import pytest
import torch
from compressai.entropy_models import GaussianConditional

from cdl_d2.codec.entropy.tables import EntropyTables, ScaleRows
from tests.conftest import small_network

DENSE = [0.11 * 1.0005**i for i in range(300)]  # many scales an interval


def gaussian(scale_table=None):
    if scale_table is None:
        return small_network("bmshj2018-hyperprior").gaussian_conditional
    model = GaussianConditional(scale_table)
    model.update()
    return model


@pytest.mark.parametrize("scale_table", [None, DENSE, [0.5]], ids=["usual", "dense", "one"])
def test_rows_are_those_of_compressai(scale_table):
    model = gaussian(scale_table)
    limits = model.scale_table
    below, above = (limits.nextafter(torch.tensor(end)) for end in (0.0, 1e9))
    some = torch.empty(10_000).log_normal_(0, 3)
    special = torch.tensor([0.0, -0.0, -1.0, 1e-45, 3e38, float("inf"), -float("inf")])
    scales = torch.cat((limits, below, above, some, -some, special))
    assert torch.equal(ScaleRows(model)(scales).int(), model.build_indexes(scales))


def test_a_scale_that_is_no_number_has_a_row():
    """A hostile stream can make such scales, of either sign."""
    nan = torch.tensor([float("nan"), -float("nan")])
    rows = ScaleRows(gaussian())(nan)
    assert ((rows >= 0) & (rows < 64)).all()


def test_rows_do_not_depend_on_the_order_in_memory():
    scales = torch.rand(5, 7) * 9
    rows = ScaleRows(gaussian())
    assert torch.equal(rows(scales.T), rows(scales).T)


@pytest.mark.parametrize("largest", [0, 100, 127, 128, 5000, 10**6])
def test_symbols_of_any_size_survive(largest):
    tables = EntropyTables(gaussian())
    symbols = torch.randint(-largest - 1, largest + 1, (4, 50), dtype=torch.int32)
    symbols[0, 0], symbols[0, 1] = largest, -largest - 1
    indexes = torch.randint(0, 64, symbols.shape)
    read = tables.reader(tables.encode(symbols, indexes), symbols.numel())
    assert torch.equal(torch.cat((read(indexes[:1]), read(indexes[1:]))), symbols)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_symbols_survive(count):
    """CompressAI's coder writes past its buffer for one: the process would end here."""
    tables = EntropyTables(gaussian())
    indexes = torch.full((count,), 63)
    for value in range(-200, 200):
        symbols = torch.full((count,), value, dtype=torch.int32)
        assert torch.equal(tables.decode(tables.encode(symbols, indexes), indexes), symbols)


@pytest.mark.parametrize("largest", [0, 127, 5000, 10**6])
def test_the_compiled_coder_writes_and_reads_the_strings_of_compressai(largest):
    pytest.importorskip("numba")
    compiled, plain = EntropyTables(gaussian()), EntropyTables(gaussian())
    plain._compiled = None
    symbols = torch.randint(-largest - 1, largest + 1, (9, 50), dtype=torch.int32)
    indexes = torch.randint(0, 64, symbols.shape)
    string = plain.encode(symbols, indexes)
    assert compiled.encode(symbols, indexes) == string
    read = compiled.reader(string, symbols.numel())
    assert torch.equal(torch.cat((read(indexes[:1]), read(indexes[1:]))), symbols)
    corrupted = bytes(torch.randint(0, 256, (500,), dtype=torch.uint8).numpy())
    assert compiled.decode(corrupted, indexes).shape == symbols.shape
