import pytest
import torch

from cdl_d2.transfer import coverage_mask, feature_transfer_loss

STRIDES = {"p2": 4, "p3": 8}


def pyramid(seed: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {
        "p2": torch.randn(2, 3, 8, 8, generator=rng, requires_grad=True),
        "p3": torch.randn(2, 3, 4, 4, generator=rng, requires_grad=True),
    }


@pytest.mark.parametrize("distance", ["mse", "l2norm"])
def test_feature_loss_is_zero_with_finite_gradient_for_equal_features(distance):
    student = pyramid(0)
    loss = feature_transfer_loss(student, pyramid(0), distance=distance)
    loss.backward()
    assert loss == 0
    assert all(f.grad.isfinite().all() for f in student.values())


def test_mse_is_the_mean_squared_error_summed_over_levels():
    student, teacher = pyramid(0), pyramid(1)
    expected = sum((student[k] - teacher[k]).square().mean() for k in student)
    assert torch.isclose(feature_transfer_loss(student, teacher), expected)


def test_l2norm_is_the_norm_of_formula_3_averaged_over_images():
    student, teacher = pyramid(0), pyramid(1)
    expected = sum((student[k] - teacher[k]).flatten(1).norm(dim=1).mean() for k in student)
    assert torch.isclose(feature_transfer_loss(student, teacher, distance="l2norm"), expected)


@pytest.mark.parametrize("distance", ["mse", "l2norm"])
def test_padding_changes_nothing_when_it_is_left_out(distance):
    student, teacher = pyramid(0), pyramid(1)
    sizes = [(32, 32), (13, 20)]
    options = {"distance": distance, "image_sizes": sizes, "strides": STRIDES}
    before = feature_transfer_loss(student, teacher, **options)
    with torch.no_grad():
        teacher["p2"][1, :, 4:, :] += 100
        teacher["p3"][1, :, :, 3:] -= 100
    assert torch.equal(feature_transfer_loss(student, teacher, **options), before)
    assert feature_transfer_loss(student, teacher, distance=distance) > before


def test_a_cell_is_covered_if_the_image_reaches_into_it():
    covered = coverage_mask([(5, 8), (16, 1)], 4, (4, 4))
    assert covered.shape == (2, 1, 4, 4)
    assert covered[0, 0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert covered[1, 0].tolist() == [[1, 0, 0, 0]] * 4


def test_levels_of_another_shape_are_named():
    teacher = pyramid(1) | {"p3": torch.zeros(2, 3, 5, 4)}
    with pytest.raises(ValueError, match="pyramid level p3"):
        feature_transfer_loss(pyramid(0), teacher)
    with pytest.raises(ValueError, match="missing in the teacher"):
        feature_transfer_loss(pyramid(0), {"p2": teacher["p2"]})


def test_an_unknown_distance_is_named():
    with pytest.raises(ValueError, match="distance 'cosine'"):
        feature_transfer_loss(pyramid(0), pyramid(1), distance="cosine")
