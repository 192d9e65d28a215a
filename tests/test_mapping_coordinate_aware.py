"The coordinate-aware mapper: published files, bad input, and what equations 4 to 9 must not do."
import numpy as np
import pytest
import torch

from mmad_nb.core.runtime import DataError, WeightsError
from mmad_nb.mapping.coordinate_aware import (SHARES, CoordinateAttention, CoordinateMapper, StreamItem, coordinate_loss,
                                              create_coordinate_mappers, kept_bytes, layer_distances, layer_losses, load_coordinate_mapper,
                                              on_grid, pixel_distances, selector_shares, stream_loss, stream_maps, with_shares)

KEYS = {  # of the published files, with the shape for 16 channels a depth
    **{f"proc_l{n}.{k}": shape for n in (4, 7, 11) for k, shape in {"0.weight": (16, 16, 1, 1), "0.bias": (16,), "1.weight": (16,), "1.bias": (16,)}.items()},
    "coord_att.conv1.weight": (8, 48, 1, 1), "coord_att.conv1.bias": (8,), "coord_att.bn1.weight": (8,), "coord_att.bn1.bias": (8,),
    "coord_att.bn1.running_mean": (8,), "coord_att.bn1.running_var": (8,), "coord_att.bn1.num_batches_tracked": (),
    "coord_att.conv_h.weight": (48, 8, 1, 1), "coord_att.conv_h.bias": (48,), "coord_att.conv_w.weight": (48, 8, 1, 1), "coord_att.conv_w.bias": (48,),
    "spatial_selector.0.weight": (8, 48, 3, 3), "spatial_selector.0.bias": (8,), "spatial_selector.2.weight": (3, 8, 1, 1), "spatial_selector.2.bias": (3,),
    "fusion_head.0.weight": (16, 16, 3, 3), "fusion_head.0.bias": (16,), "fusion_head.1.weight": (16,), "fusion_head.1.bias": (16,),
    "fusion_head.3.weight": (48, 16, 1, 1), "fusion_head.3.bias": (48,)}


def published(seed=0, drop=(), prefix=""):
    draw = torch.Generator().manual_seed(seed)
    state = {prefix + k: torch.rand(shape, generator=draw) - .4 * (k != "coord_att.bn1.running_var") for k, shape in KEYS.items() if k not in drop}
    if prefix + "coord_att.bn1.num_batches_tracked" in state: state[prefix + "coord_att.bn1.num_batches_tracked"] = torch.tensor(5)
    return state


def by_hand(state, x):
    "Equations 4 to 6 and the head, from the tensors of a file, with other operations than the mapper's."
    def one(x, name): return torch.einsum("oc,chw->ohw", state[name + ".weight"][:, :, 0, 0], x) + state[name + ".bias"][:, None, None]
    def three(x, name):
        H, W = x.shape[1:]
        padded = torch.zeros(len(x), H + 2, W + 2); padded[:, 1:-1, 1:-1] = x
        w = state[name + ".weight"]
        return sum(torch.einsum("oc,chw->ohw", w[:, :, i, j], padded[:, i:i + H, j:j + W]) for i in range(3) for j in range(3)) + state[name + ".bias"][:, None, None]
    def norm(x, name):
        groups = x.reshape(8, -1)
        groups = (groups - groups.mean(1, keepdim=True)) / (groups.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return groups.reshape(x.shape) * state[name + ".weight"][:, None, None] + state[name + ".bias"][:, None, None]
    gelu = lambda x: x * (1 + torch.erf(x / 2 ** .5)) / 2
    f = [gelu(norm(one(part, f"proc_l{n}.0"), f"proc_l{n}.1")) for n, part in zip((4, 7, 11), x.chunk(3))]                     # (4)
    cat = torch.cat(f)
    H, W = cat.shape[1:]
    z = torch.cat([cat.sum(2) / W, cat.sum(1) / H], 1)[..., None]                                                          # (5)
    y, bn = one(z, "coord_att.conv1"), "coord_att.bn1"
    y = (y - state[bn + ".running_mean"][:, None, None]) / (state[bn + ".running_var"][:, None, None] + 1e-5).sqrt()
    y = y * state[bn + ".weight"][:, None, None] + state[bn + ".bias"][:, None, None]
    y = y * (y + 3).clamp(0, 6) / 6
    a_h, a_w = 1 / (1 + (-one(y[:, :H], "coord_att.conv_h")).exp()), 1 / (1 + (-one(y[:, H:], "coord_att.conv_w")).exp())
    refined = cat * a_h * a_w.transpose(1, 2)
    logits = one(three(refined, "spatial_selector.0").clamp(min=0), "spatial_selector.2").exp()
    shares = logits / logits.sum(0)                                                                                        # (6)
    mixed = sum(share * part for share, part in zip(shares, f))                                                            # of the unweighed ones
    return shares, one(gelu(norm(three(mixed, "fusion_head.0"), "fusion_head.1")), "fusion_head.3")


@pytest.mark.parametrize("suffix, prefix", [(".pth", ""), (".pth", "module."), (".safetensors", "")])
def test_published_files_load_and_compute_the_equations(tmp_path, suffix, prefix):
    state, file = published(prefix=prefix), tmp_path / f"model_real_2d23d_final{suffix}"
    if suffix == ".pth": torch.save(state, file)
    else:
        from safetensors.torch import save_file
        save_file(state, file)
    mapper, x = load_coordinate_mapper(file), torch.randn(48, 5, 4, generator=torch.Generator().manual_seed(1))
    shares, guess = by_hand(published(), x)
    torch.testing.assert_close(selector_shares(mapper, x), shares, rtol=1e-3, atol=1e-4)
    with torch.no_grad(): torch.testing.assert_close(mapper(x[None])[0], guess, rtol=1e-3, atol=1e-3)
    assert not mapper.training


@pytest.mark.parametrize("state, found", [
    ({k: v for k, v in published().items() if not k.startswith("fusion_head")}, "fusion_head"), ({"input.weight": torch.zeros(3, 3)}, "input.weight"),
    (published() | {"coord_att.conv_h.weight": torch.zeros(48, 9, 1, 1)}, "conv_h")])
def test_files_of_another_network_are_refused(tmp_path, state, found):
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(WeightsError, match=found): load_coordinate_mapper(tmp_path / "m.pth")


def test_no_file(tmp_path):
    for path in (tmp_path / "absent.pth", tmp_path, None):
        with pytest.raises(WeightsError, match="no such file"): load_coordinate_mapper(path)


def test_attention_informs_the_selector_and_nothing_else():
    "With fixed shares the attention has no say, so it gets no gradient; with learned ones it has."
    mapper, x = CoordinateMapper(8), torch.randn(2, 24, 4, 4)
    mapper(x, torch.full((3, 1, 1), 1 / 3)).square().sum().backward()
    assert mapper.coord_att.conv_h.weight.grad is None and mapper.proc_l4[0].weight.grad.abs().sum() > 0
    mapper(x).square().sum().backward()
    assert mapper.coord_att.conv_h.weight.grad.abs().sum() > 0


def test_rows_and_columns_are_not_confused():
    "A picture that is not square, and its transpose, through an attention whose two directions have changed places."
    one, x = CoordinateAttention(4).eval(), torch.randn(1, 4, 3, 5)
    other = CoordinateAttention(4).eval()
    other.load_state_dict(one.state_dict())
    other.conv_h, other.conv_w = one.conv_w, one.conv_h
    with torch.no_grad(): torch.testing.assert_close(other(x.transpose(2, 3)), one(x).transpose(2, 3))
    assert [z.shape for z in one.encode(x)] == [(1, 4, 3), (1, 4, 5)]


def test_loss_counts_measured_pixels_in_the_real_stream_alone():
    mappers, draw = create_coordinate_mappers(8), torch.Generator().manual_seed(0)
    for m in mappers.values(): m.eval()
    rgb, normals, other = (torch.randn(24, 2, 2, generator=draw) for _ in range(3))
    left = torch.zeros(16, 16, dtype=torch.bool); left[:, :4] = True     # pixels that mix patches of the left column alone
    changed = torch.cat([normals[:, :, :1], other[:, :, 1:]], 2)
    value = lambda stream, target, mask: coordinate_loss(mappers, stream, [StreamItem(rgb, target, mask, rgb, normals)])[0].item()
    def forth(stream, target, mask): return stream_loss(mappers[f"rgb_to_xyz_{stream}"](rgb[None]), target[None], None if mask is None else mask[None]).item()
    assert forth("real", normals, left) == pytest.approx(forth("real", changed, left), abs=1e-5)
    assert value("est", normals, None) != pytest.approx(value("est", changed, None), abs=1e-3)
    back = stream_loss(mappers["xyz_to_rgb_real"](normals[None]), rgb[None], left[None]).item()
    assert value("real", normals, left) == pytest.approx(forth("real", normals, left) + back, rel=1e-5)   # both directions, added


def test_guesses_are_made_from_the_noisy_side_and_judged_on_the_clean_one():
    mappers, draw = create_coordinate_mappers(8, ("est",)).eval(), torch.Generator().manual_seed(0)
    rgb, normals, r, n = (torch.randn(24, 2, 2, generator=draw) for _ in range(4))
    with torch.no_grad():
        wanted = stream_loss(mappers["rgb_to_xyz_est"](r[None]), normals[None]) + stream_loss(mappers["xyz_to_rgb_est"](n[None]), rgb[None])
        found, count = coordinate_loss(mappers, "est", [StreamItem(rgb, normals, None, r, n)] * 3)
    assert count == 3 and found.item() == pytest.approx(3 * wanted.item(), rel=1e-5)


def test_a_sample_weighs_the_same_whatever_its_mask():
    "Equation 8 divides by the pixels of each sample, not of the batch."
    d = torch.zeros(2, 3, 4, 4); d[0] += 1
    mask = torch.ones(2, 4, 4, dtype=torch.bool); mask[0, 1:] = False
    torch.testing.assert_close(layer_losses(d, mask), torch.tensor([[1.] * 3, [0.] * 3]))


def test_streams_and_directions_are_independent():
    both, alone = create_coordinate_mappers(8, seed=3), create_coordinate_mappers(8, ("est",), seed=3)
    same = lambda a, b: all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))
    assert same(both["xyz_to_rgb_est"], alone["xyz_to_rgb_est"]) and not same(both["xyz_to_rgb_est"], both["xyz_to_rgb_real"])
    assert not same(both["xyz_to_rgb_est"], both["rgb_to_xyz_est"]) and not same(alone["rgb_to_xyz_est"], create_coordinate_mappers(8, ("est",), 4)["rgb_to_xyz_est"])


def test_maps_compare_what_they_should():
    mappers, draw = create_coordinate_mappers(8).eval(), torch.Generator().manual_seed(0)
    rgb, normals, other = (torch.randn(24, 4, 4, generator=draw) for _ in range(3))
    valid = torch.rand(32, 32, generator=draw) > .3
    plain, against = stream_maps(mappers, "real", rgb, normals, valid), stream_maps(mappers, "real", rgb, normals, valid, against=other)
    assert torch.equal(plain["rgb"], against["rgb"]) and not torch.allclose(plain["xyz"], against["xyz"])
    with torch.no_grad(): guess = mappers["rgb_to_xyz_real"](rgb[None])
    stretch = lambda x: torch.nn.functional.interpolate(x, (32, 32), mode="bilinear")[0]
    wanted = (1 - torch.nn.functional.cosine_similarity(stretch(guess), stretch(normals[None]), dim=0)) * valid
    torch.testing.assert_close(plain["xyz"], wanted, rtol=1e-3, atol=1e-4)
    assert not plain["xyz"][~valid].any() and not plain["rgb"][~valid].any()
    fine = stream_maps(mappers, "real", rgb, normals, valid, side=32)
    assert fine["xyz"].shape == (32, 32) and not torch.allclose(fine["xyz"], plain["xyz"])
    assert on_grid(rgb[None], None) is not None and on_grid(rgb[None], 8).shape == (1, 24, 8, 8)


def test_one_cosine_or_three():
    P, T = torch.tensor([1., 0, 1, 0, 1, 0]).view(6, 1, 1), torch.tensor([1., 0, 0, 9, 1, 0]).view(6, 1, 1)
    valid = torch.ones(1, 1, dtype=torch.bool)
    assert pixel_distances(P, T, valid).item() == pytest.approx(1 - 2 / (3 * 83) ** .5, abs=1e-5)
    assert pixel_distances(P, T, valid, joined=False).item() == pytest.approx(1 / 3, abs=1e-5)


def test_bad_input():
    mapper = CoordinateMapper(8)
    for dim in (0, 7, 12, 8.0):
        with pytest.raises(DataError): CoordinateMapper(dim)
    with pytest.raises(DataError, match="24"): mapper(torch.zeros(1, 16, 2, 2))
    with pytest.raises(DataError, match="24"): mapper(torch.zeros(24, 2, 2))
    with pytest.raises(DataError, match="no sample"): coordinate_loss(create_coordinate_mappers(8), "real", [])
    with pytest.raises(DataError): layer_distances(torch.zeros(1, 6, 2, 2), torch.zeros(1, 6, 2, 3))
    with pytest.raises(DataError, match="One mask"): layer_losses(torch.zeros(2, 3, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool))
    with pytest.raises(DataError, match="selector"): selector_shares(torch.nn.Linear(2, 2), torch.zeros(24, 2, 2))
    with pytest.raises(DataError, match="learned"): with_shares(mapper, torch.zeros(24, 2, 2), torch.zeros(24, 2, 2), torch.ones(2, 2, dtype=torch.bool), "learnt")
    with pytest.raises(DataError, match="stream"): create_coordinate_mappers(8, ("reel",))
    assert list(SHARES)[0] == "learned"


def test_kept_bytes_grow_with_the_places():
    mapper = CoordinateMapper(8)
    small, large = (kept_bytes(mapper, torch.zeros(1, 24, side, side)) for side in (16, 32))
    assert 3.8 < large / small < 4.2
    assert np.isclose(kept_bytes(torch.nn.ReLU(), torch.zeros(5, 5, requires_grad=True)), 100)
