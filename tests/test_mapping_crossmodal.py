"""Mappers: the first layer pulled through an arbitrary sparse matrix, published files, and sums that add up."""
import pytest
import torch

from mmad_nb.core.runtime import WeightsError
from mmad_nb.features.extract import Mixing
from mmad_nb.mapping import FeatureMapper, create_mappers, feature_distance, load_mapper, map_pixels, masked_cosine_loss


def random_mixing(pixels, patches, seed=0):
    "Rows of 0 to 4 entries whose weights sum to anything between 0 and 1."
    draw = torch.Generator().manual_seed(seed)
    count = torch.randint(0, 5, (pixels,), generator=draw)
    start = torch.cat([torch.zeros(1, dtype=torch.long), count.cumsum(0)])
    entries = int(start[-1])
    return Mixing(start, torch.randint(0, patches, (entries,), generator=draw), torch.rand(entries, generator=draw) / 4, patches)


@pytest.mark.parametrize("pixels", [3, 500])  # fewer pixels than patches takes the plain order, more takes the other
def test_first_layer_commutes_with_any_mixing(pixels):
    mapper, patches, mixing = FeatureMapper(12, 20), torch.randn(40, 12), random_mixing(pixels, 40)
    full = torch.zeros(pixels, 40)
    for row in range(pixels):
        for entry in range(mixing.start[row], mixing.start[row + 1]):
            full[row, mixing.patch[entry]] += mixing.weight[entry]
    with torch.no_grad():
        assert torch.allclose(map_pixels(mapper, patches, mixing), mapper(full @ patches), atol=1e-5)


def test_gradients_are_those_of_the_plain_order():
    mapper, patches, mixing = FeatureMapper(6, 4).double(), torch.randn(30, 6).double(), random_mixing(90, 30)
    mixing = Mixing(mixing.start, mixing.patch, mixing.weight.double(), 30)
    one = torch.autograd.grad(map_pixels(mapper, patches, mixing).square().sum(), mapper.parameters())
    two = torch.autograd.grad(mapper(mixing @ patches).square().sum(), mapper.parameters())
    assert all(torch.allclose(a, b) for a, b in zip(one, two))


def test_loss_sums_add_up_and_ignore_masked_rows():
    predicted, target, mask = torch.randn(10, 5), torch.randn(10, 5), torch.rand(10) > .4
    whole = masked_cosine_loss(predicted, target, mask)
    parts = [masked_cosine_loss(predicted[s], target[s], mask[s]) for s in (slice(0, 3), slice(3, 10))]
    assert torch.allclose(whole[0], parts[0][0] + parts[1][0]) and whole[1] == parts[0][1] + parts[1][1] == int(mask.sum())
    target[~mask] = float("nan")
    assert torch.allclose(masked_cosine_loss(predicted, target, mask)[0], whole[0])


def test_distance_is_bounded_and_blind_to_length():
    a, b = torch.randn(50, 7), torch.randn(50, 7)
    assert (feature_distance(a, -a) - 2).abs().max() < 1e-5 and feature_distance(a, 3 * a).max() < 1e-5
    assert torch.allclose(feature_distance(a, b), feature_distance(b, a), atol=1e-6)


def test_published_files(tmp_path):
    mapper = create_mappers(8, 6, seed=1)["rgb_to_xyz"]
    torch.save(mapper.state_dict(), tmp_path / "linear.pth")
    as_convolution = {k: v[..., None, None] if v.ndim == 2 else v for k, v in mapper.state_dict().items()}
    torch.save(as_convolution, tmp_path / "convolution.pth")
    x = torch.randn(4, 8)
    for name in ("linear.pth", "convolution.pth"):
        assert torch.equal(load_mapper(tmp_path / name)(x), mapper(x))


def test_files_that_are_something_else(tmp_path):
    state = FeatureMapper(8, 6).state_dict()
    torch.save({**state, "projection2.weight": torch.ones(7, 7)}, tmp_path / "large.pth")
    with pytest.raises(WeightsError, match="large variant"): load_mapper(tmp_path / "large.pth")
    torch.save({**state, "projection.weight": torch.ones(5, 7)}, tmp_path / "narrow.pth")
    with pytest.raises(WeightsError, match="size mismatch for projection.weight"): load_mapper(tmp_path / "narrow.pth")
    whole = (tmp_path / "large.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(WeightsError, match="Download it again"): load_mapper(tmp_path / "cut.pth")
    with pytest.raises(WeightsError, match="no such file"): load_mapper(tmp_path / "absent.pth")
