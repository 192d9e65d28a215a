"""Fusion: the blur against a loop over single pixels, sizes that are awkward, gradients, and what is refused."""
import numpy as np
import pytest
import torch

from mmad_nb.core.runtime import DataError
from mmad_nb.scoring import BLUR, RULES, box_blur, fuse_maps, image_score, scale_maps


def blur_by_loop(picture, passes):
    "Every pixel of every pass written out: the mean over a square, with zeros outside."
    for kernel, times in passes:
        for _ in range(times):
            wide = np.pad(picture, kernel // 2)
            picture = np.array([[wide[y:y + kernel, x:x + kernel].mean() for x in range(picture.shape[1])]
                                for y in range(picture.shape[0])])
    return picture


@pytest.mark.parametrize("size", [(7, 9), (1, 5), (60, 57), (113, 4)])  # below, at and above the block of 56 columns
@pytest.mark.parametrize("passes", [((3, 1),), ((5, 2), (7, 1))])
def test_blur_equals_the_loop(size, passes):
    picture = torch.rand(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = blur_by_loop(picture.numpy(), passes)
    assert np.allclose(box_blur(picture.float(), passes), expected, atol=1e-6)
    assert np.allclose(box_blur(picture.float()[None, None], passes)[0, 0], expected, atol=1e-6)


def test_blur_of_a_constant_reaches_one_inside():
    blurred = box_blur(torch.ones(1, 100, 100), BLUR)[0]
    assert torch.allclose(blurred[19:-19, 19:-19], torch.ones(62, 62), atol=1e-5)
    assert blurred[0, 0] < 0.1


def test_gradient_reaches_maps_and_share():
    rgb, xyz = torch.rand(2, 1, 8, 8).double().requires_grad_(), torch.rand(1, 8, 8).double().requires_grad_()
    alpha = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    for rule in ("mul", "add", "max"):
        assert torch.autograd.gradcheck(lambda a, b, c: fuse_maps(a + .1, b + .1, rule, c), (rgb[0], xyz, alpha))
    box_blur(xyz).sum().backward()
    assert (xyz.grad > 0).all()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rule", RULES)
def test_background_stays_zero(rule, alpha):
    rgb, xyz = torch.rand(2, 3, 5, 5) + .1
    rgb[:, 0], xyz[:, 0] = 0, 0
    fused = fuse_maps(rgb, xyz, rule, alpha)
    assert torch.isfinite(fused).all() and not fused[:, 0].any() and (fused[:, 1:] > 0).all()


def test_published_rules_at_one_half():
    rgb, xyz = torch.rand(2, 4, 6, 6)
    assert torch.equal(fuse_maps(rgb, xyz, "mul"), rgb * xyz)
    assert torch.equal(fuse_maps(rgb, xyz, "add"), rgb + xyz)
    assert torch.equal(fuse_maps(rgb, xyz, "max"), torch.maximum(rgb, xyz))
    assert torch.equal(fuse_maps(rgb, xyz, "single"), rgb) and torch.equal(fuse_maps(rgb, xyz, "single", .51), xyz)


def test_empty_maps_and_unknown_names():
    nothing = torch.zeros(2, 4, 4)
    assert not image_score(nothing, "release").any() and not scale_maps(nothing, "sqrt-mean").any()
    with pytest.raises(DataError, match="Did you mean 'release'"): image_score(nothing, "relase")
    with pytest.raises(DataError, match="Did you mean 'sqrt-mean'"): scale_maps(nothing, "sqrt_mean")
    with pytest.raises(DataError, match="one of add, max, mul, single"): fuse_maps(nothing, nothing, "product")
    with pytest.raises(DataError, match="a kernel of 6"): box_blur(nothing, ((6, 1),))
