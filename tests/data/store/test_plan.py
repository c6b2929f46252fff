import contextlib
import dataclasses
import multiprocessing

import pytest

from cdl_d2.data import Plan, Variant
from cdl_d2.data.store.image_source import ImageSource


@pytest.mark.parametrize("size", [[0, 5], [5, 2**30], [5], "ab", [1.5, 2]])
def test_an_invalid_size_of_an_image_is_an_error(size):
    content = {"size": 1, "time": 1, "sha256": "", "image_size": size}
    with pytest.raises((TypeError, ValueError)):
        ImageSource.from_dict(content)


def test_of_plans_that_are_written_at_once_one_is(plan, tmp_path):
    """Repeated, since a race is a matter of luck."""
    plans, trials = [plan, dataclasses.replace(plan, form="bitstreams")], range(20)
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    saved = [context.Array("i", len(trials)) for _ in plans]

    def save(plan, is_saved):
        for trial in trials:
            barrier.wait()
            with contextlib.suppress(ValueError):
                plan.save(tmp_path / str(trial))
                is_saved[trial] = 1

    processes = [context.Process(target=save, args=pair) for pair in zip(plans, saved, strict=True)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    for trial in trials:
        [winner] = [i for i in range(2) if saved[i][trial]]
        assert Plan.load(tmp_path / str(trial)) == plans[winner]


def test_a_plan_is_written_once(plan, tmp_path):
    plan.save(tmp_path)
    plan.save(tmp_path)
    assert Plan.load(tmp_path) == plan
    with pytest.raises(ValueError, match=r"form .*arrays.*bitstreams"):
        dataclasses.replace(plan, form="bitstreams").save(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{}", "no json", '{"format": 99}'])
def test_an_invalid_plan_file_is_named(content, tmp_path):
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(ValueError, match=r"plan\.json"):
        Plan.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "files"}, "form 'files'"),
        ({"images": ()}, "images"),
        ({"images": ("a", "a")}, "same image"),
        ({"images": ("lat\udce9.png",)}, "is not UTF-8"),
        ({"variants": (Variant(0, 5), Variant(0, 9))}, "same variant"),
    ],
)
def test_an_invalid_plan_is_an_error(plan, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(plan, **change)


def test_a_plan_of_rounded_bitstreams_is_an_error(plan):
    identity = dataclasses.replace(plan.codec, quantization="rounded")
    with pytest.raises(ValueError, match="dequantized"):
        dataclasses.replace(plan, codec=identity, form="bitstreams")
