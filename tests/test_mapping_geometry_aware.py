"""GACM and the two-layer mappers: pulled through any mixing, gradients, number types, and input that does not fit."""
import pytest
import torch

from mmad_nb.core.runtime import DataError
from mmad_nb.features.extract import Mixing
from mmad_nb.mapping import GeometryAwareMapper, TwoLayerMapper, create_geometry_mappers, crossmodal_loss, distance_maps, map_pixels
from mmad_nb.mapping.geometry_aware import gate_map, override_gate


def random_mixing(pixels, patches, seed=0):
    "Rows of 0 to 4 entries whose weights sum to anything between 0 and 1."
    draw = torch.Generator().manual_seed(seed)
    count = torch.randint(0, 5, (pixels,), generator=draw)
    start = torch.cat([torch.zeros(1, dtype=torch.long), count.cumsum(0)])
    entries = int(start[-1])
    return Mixing(start, torch.randint(0, patches, (entries,), generator=draw), torch.rand(entries, generator=draw) / 4, patches)


def dense(mixing):
    full = torch.zeros(len(mixing.start) - 1, mixing.patches, dtype=mixing.weight.dtype)
    for row in range(len(full)):
        for entry in range(mixing.start[row], mixing.start[row + 1]):
            full[row, mixing.patch[entry]] += mixing.weight[entry]
    return full


@pytest.mark.parametrize("kind", [GeometryAwareMapper, TwoLayerMapper])
@pytest.mark.parametrize("pixels", [3, 300])  # fewer pixels than patches takes the plain order, more takes the other
@pytest.mark.parametrize("dims", [(12, 20), (20, 12)])
def test_linear_parts_commute_with_any_mixing(kind, pixels, dims):
    mapper, patches, mixing = kind(*dims), torch.randn(40, dims[0]), random_mixing(pixels, 40)
    with torch.no_grad():
        assert torch.allclose(map_pixels(mapper, patches, mixing), mapper(dense(mixing) @ patches), atol=1e-5)


@pytest.mark.parametrize("kind", [GeometryAwareMapper, TwoLayerMapper])
def test_gradients_are_those_of_the_plain_order(kind):
    mapper, patches, mixing = kind(6, 4).double(), torch.randn(30, 6).double(), random_mixing(90, 30)
    mixing = Mixing(mixing.start, mixing.patch, mixing.weight.double(), 30)
    one = torch.autograd.grad(map_pixels(mapper, patches, mixing).square().sum(), mapper.parameters())
    two = torch.autograd.grad(mapper(dense(mixing) @ patches).square().sum(), mapper.parameters())
    assert all(torch.allclose(a, b) for a, b in zip(one, two))
    assert all(g.any() for g in one)  # every weight has a say


def test_equations_written_out():
    mapper, x = GeometryAwareMapper(5, 7), torch.randn(9, 5)
    p = {name: value.detach() for name, value in mapper.named_parameters()}
    apply = lambda name, x: x @ p[f"{name}.weight"].T + p[f"{name}.bias"]
    semantic, geometric = apply("semantic", x), apply("geometric", x)
    gate = 1 / (1 + (-apply("gate", geometric)).exp())
    fused = geometric * gate + semantic * (1 - gate)
    normed = (fused - fused.mean(1, keepdim=True)) / (fused.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    gelu = normed * (1 + torch.erf(normed / 2 ** .5)) / 2
    with torch.no_grad(): assert torch.allclose(mapper(x), apply("residual", x) + gelu, atol=1e-5)


def test_bfloat16_stays_near():
    mapper, x = GeometryAwareMapper(32, 48), torch.randn(100, 32)
    with torch.no_grad():
        exact, rough = mapper(x), mapper.to(torch.bfloat16)(x.bfloat16())
    assert rough.dtype == torch.bfloat16 and (rough.float() - exact).abs().max() < .2


@pytest.mark.parametrize("kind", [GeometryAwareMapper, TwoLayerMapper])
def test_wrong_width_is_named(kind):
    mapper = kind(5, 7)
    for call in (mapper, mapper.linear):
        with pytest.raises(DataError, match=f"{kind.__name__}: found features of 6 channels; expected 5"):
            call(torch.ones(4, 6))


def test_created_from_one_seed_without_touching_the_global_generator():
    state = torch.get_rng_state()
    one, two, other = (create_geometry_mappers(6, 8, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in one.state_dict().items(): assert torch.equal(value, two.state_dict()[name])
    assert not torch.equal(one["rgb_to_xyz"].gate.weight, other["rgb_to_xyz"].gate.weight)


def test_override_gate_leaves_the_original_and_refuses_nonsense():
    mapper = GeometryAwareMapper(4, 6)
    before = {name: value.clone() for name, value in mapper.state_dict().items()}
    with torch.no_grad():
        x = torch.randn(3, 4)
        fixed = override_gate(mapper, 0)
        assert torch.allclose(fixed.fuse(mapper.semantic(x), mapper.geometric(x), fixed.gate(mapper.geometric(x))), mapper.semantic(x), atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in mapper.state_dict().items())
    for value in (-.1, 1.5, float("nan")):
        with pytest.raises(DataError, match="a number from 0 to 1"): override_gate(mapper, value)


def test_stands_in_for_the_crossmodal_mappers():
    from mmad_nb.forge import forge_sample
    from mmad_nb.features.extract import extract
    from mmad_nb.features.zoo import encoder_pair
    from mmad_nb.data import prepare
    from mmad_nb.mapping import TrainingItem, choose_pixels, feature_distance
    one = extract([prepare(forge_sample("gear", size=224), size=224)], *encoder_pair("tiny", "random"))[0]
    mappers = create_geometry_mappers(one.image.shape[0], one.points.shape[1])
    pixels = choose_pixels(one, 60)
    total, count = crossmodal_loss(mappers, [TrainingItem(one, pixels)])
    assert count == 60 and total.isfinite()
    maps = distance_maps(mappers, one)
    with torch.no_grad(): wanted = feature_distance(mappers["rgb_to_xyz"](one.image_at(pixels)), one.point_at(pixels))
    assert torch.allclose(maps["xyz"].flatten()[pixels], wanted, atol=1e-4)
    assert gate_map(mappers["rgb_to_xyz"], one).shape == (one.points.shape[1], *one.image.shape[1:])
    with pytest.raises(DataError, match="gate_map"): gate_map(create_geometry_mappers(7, 8)["rgb_to_xyz"], one)
