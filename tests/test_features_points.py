"features.points and features.normals: exactness against brute force, published names, chunks, devices, errors, real captures."
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmad_nb.core.runtime import DataError
from mmad_nb.data.clouds import read_pcd
from mmad_nb.data.neighbours import _knn_chunks, cloud_normals, knn
from mmad_nb.features import points as P
from mmad_nb.features.normals import relight, surface_normals, window_sums
from mmad_nb.features.points import (GroupEncoder, PointEncoder, PointMAE, covering_radius, farthest_point_sampling, group_counts,
                                     group_points, interpolation, tiny_point_mae)
from real_data import shared


@pytest.fixture
def cloud():
    return torch.rand(3000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 0.1, 0.02])


def plain_sampling(points, count, start=0):
    chosen, nearest = [start], np.full(len(points), np.inf)
    for _ in range(count - 1):
        nearest = np.minimum(nearest, ((points.double() - points[chosen[-1]].double()) ** 2).sum(1).numpy())
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen)


def plain_tokens(encoder, offsets):
    local = encoder.first_conv(offsets.transpose(1, 2))
    return encoder.second_conv(torch.cat([local.amax(2, keepdim=True).expand_as(local), local], 1)).amax(2)


# ---- sampling

@pytest.mark.parametrize("start", [0, 17])
def test_sampling_equals_the_plain_loop_in_double(cloud, start):
    wanted = plain_sampling(cloud, 200, start)
    assert torch.equal(farthest_point_sampling(cloud, 200, start), wanted)
    assert torch.equal(P._sample_torch(cloud, 200, start), wanted)


def test_sampling_takes_all_points_once_when_count_is_n():
    points = torch.rand(50, 3)
    assert sorted(farthest_point_sampling(points, 50).tolist()) == list(range(50))


def test_sampling_with_duplicates_takes_distinct_places_first():
    points = torch.tensor([[0.0, 0, 0]] * 5 + [[1.0, 0, 0]] * 5)
    assert farthest_point_sampling(points, 4).tolist() == [0, 5, 0, 0]


def test_sampling_ties_go_to_the_first_index():
    square = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
    assert farthest_point_sampling(square, 4).tolist() == [0, 3, 1, 2]


def test_sampling_reads_numpy_float64_and_leaves_its_input_alone(cloud):
    array = cloud.double().numpy()
    before = array.copy()
    assert torch.equal(farthest_point_sampling(array, 20), farthest_point_sampling(cloud, 20))
    assert (array == before).all()


@pytest.mark.parametrize("points, count, message", [
    (torch.rand(5, 3), 6, "count 6 and start 0 for 5 points"), (torch.rand(5, 3), 0, "1 <= count <= N"), (torch.rand(5, 2), 2, r"\(N, 3\)"),
    (torch.zeros(0, 3), 1, "at least one point"), (torch.tensor([[0.0, 0, 0], [math.inf, 0, 0]]), 1, "1 points with NaN or infinite")])
def test_sampling_refuses(points, count, message):
    with pytest.raises(DataError, match=message):
        farthest_point_sampling(points, count)


# ---- neighbours

@pytest.mark.parametrize("k", [1, 3, 40])
def test_neighbours_equal_brute_force_on_both_paths(cloud, k):
    queries = cloud[::60] + 0.001
    brute = torch.cdist(queries.double(), cloud.double()).sort(1)
    for distance, index in (knn(queries, cloud, k), _knn_chunks(queries, cloud, k, chunk=7)):
        assert distance.shape == index.shape == (50, k) and distance.dtype == torch.float32 and index.dtype == torch.int64
        torch.testing.assert_close(distance, brute.values[:, :k].float(), atol=1e-7, rtol=1e-5)
        torch.testing.assert_close((cloud[index] - queries[:, None]).norm(dim=2), distance, atol=1e-7, rtol=1e-5)
        assert all(len(row.unique()) == k for row in index)


def test_neighbours_far_from_the_origin_keep_their_millimetres(cloud):
    far = cloud + torch.tensor([0.0, 0, 100.0])          # the fast formula |q|^2 - 2 q p + |p|^2 has 1e-3 of rounding here
    distance, _ = _knn_chunks(far[:20], far, 5, chunk=20)
    exact = torch.cdist(far[:20].double(), far.double()).topk(5, largest=False).values
    torch.testing.assert_close(distance.double(), exact, atol=1e-6, rtol=1e-4)


def test_neighbours_refuse(cloud):
    with pytest.raises(DataError, match="k = 3001 for 3000 points"):
        knn(cloud, cloud, 3001)
    with pytest.raises(DataError, match="queries.*NaN"):
        knn(torch.full((1, 3), math.nan), cloud, 1)


def test_groups_cover_and_counts_add_up(cloud):
    centers, offsets = group_points(cloud, 64, 50)
    assert torch.equal(offsets[:, 0], torch.zeros(64, 3))
    assert group_counts(cloud, centers, 50).sum() == 64 * 50
    assert group_counts(cloud, centers, 3000).min() == 64
    brute = torch.cdist(cloud.double(), centers.double()).amin(1).max().item()
    assert covering_radius(cloud, centers) == pytest.approx(brute, abs=1e-6)
    with pytest.raises(DataError, match="10 points.*group_size = 50"):
        group_points(cloud[:10], 64, 50)


# ---- the network

@pytest.mark.parametrize("batch_statistics", [True, False])
@pytest.mark.parametrize("chunk", [33, 4096])
def test_tokens_equal_the_plain_layers(batch_statistics, chunk):
    torch.manual_seed(1)
    encoder = GroupEncoder(48, batch_statistics, chunk)
    for norm in (encoder.first_conv[1], encoder.second_conv[1]):
        torch.nn.init.uniform_(norm.weight, -1, 2), torch.nn.init.uniform_(norm.bias, -1, 1)
        norm.running_mean.uniform_(-1, 1), norm.running_var.uniform_(0.5, 2)
    offsets = torch.randn(40, 33, 3) * torch.tensor([0.02, 0.005, 0.001]) + 0.003
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    ours = encoder(offsets)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items()), "stored statistics were changed"
    torch.testing.assert_close(ours, plain_tokens(encoder.train(batch_statistics), offsets), atol=1e-4, rtol=1e-3)


def test_gradients_equal_those_of_the_plain_layers():
    torch.manual_seed(2)
    encoder, offsets = GroupEncoder(24, chunk=64), torch.randn(30, 16, 3)
    wanted = torch.autograd.grad(plain_tokens(encoder, offsets).square().sum(), [p for p in encoder.parameters()])
    ours = torch.autograd.grad(encoder(offsets).square().sum(), [p for p in encoder.parameters()], allow_unused=True)
    for (name, _), a, b in zip(encoder.named_parameters(), ours, wanted):
        if a is None:   # a bias right before batch normalisation has no effect
            assert b.abs().max() < 1e-2, name
        else:
            torch.testing.assert_close(a, b, atol=1e-2, rtol=1e-3, msg=name)


def test_published_file_loads_once_its_prefix_is_gone(tmp_path):
    model = PointMAE(depth=12)
    published = {f"module.MAE_encoder.{name}": value for name, value in model.state_dict().items()}
    published |= {"module.mask_token": torch.zeros(1, 1, 384), "module.MAE_decoder.norm.weight": torch.ones(384)}
    torch.save({"base_model": published}, tmp_path / "pretrain.pth")
    read = torch.load(tmp_path / "pretrain.pth", weights_only=True)["base_model"]
    prefix = "module.MAE_encoder."
    assert not any(PointMAE().load_state_dict({n[len(prefix):]: v for n, v in read.items() if n.startswith(prefix)}))
    names = set(model.state_dict())
    for name in ("encoder.first_conv.1.running_var", "encoder.second_conv.3.bias", "pos_embed.2.weight", "blocks.blocks.11.attn.qkv.weight",
                 "blocks.blocks.0.mlp.fc2.bias", "blocks.blocks.5.norm2.weight", "norm.weight"):
        assert name in names
    assert "blocks.blocks.0.attn.qkv.bias" not in names and model.state_dict()["encoder.first_conv.0.weight"].shape == (128, 3, 1)


@pytest.mark.parametrize("depth, taps", [(12, (3, 7, 11)), (8, (1, 4, 7)), (4, (1, 2, 3)), (5, (4,))])
def test_taps_and_width(depth, taps):
    model = PointMAE(24, 3, depth, groups=10, group_size=8)
    encoder = PointEncoder("t", model, "random", device="cpu")
    centers, features = encoder.encode(torch.rand(100, 3))
    assert model.taps == taps and features.shape == (10, 24 * len(taps)) and encoder.dim == 24 * len(taps) and centers.shape == (10, 3)


def test_position_is_added_before_every_block():
    model = PointMAE(24, 3, 4).requires_grad_(False)
    for block in model.blocks["blocks"]:     # blocks that do nothing: the token must have met the position four times
        for layer in (block.attn.proj, block.mlp.fc2):
            torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    tokens, centers = torch.randn(1, 5, 24), torch.randn(1, 5, 3)
    wanted = [model.norm(tokens + times * model.pos_embed(centers)) for times in (2, 3, 4)]   # after blocks 1, 2, 3
    torch.testing.assert_close(model.transform(tokens, centers), torch.cat(wanted, -1), atol=1e-5, rtol=1e-4)


def test_features_do_not_depend_on_training_mode_calls_or_global_seed(cloud):
    encoder = PointEncoder("t", tiny_point_mae(), "random", device="cpu")
    first = encoder.encode(cloud)[1]
    encoder.train(), torch.manual_seed(99)
    for other in encoder, PointEncoder("t", tiny_point_mae(), "random", device="cpu"):
        torch.testing.assert_close(other.encode(cloud)[1], first)
    assert not first.requires_grad


def test_fingerprint_changes_with_whatever_changes_features():
    base = PointEncoder("t", tiny_point_mae(), "random", device="cpu")
    same = PointEncoder("t", tiny_point_mae(), "other words", device="cpu")
    others = [PointEncoder("t", tiny_point_mae(1), "", device="cpu"), PointEncoder("t", tiny_point_mae(), "", groups=64, device="cpu"),
              PointEncoder("t", tiny_point_mae(), "", group_size=16, device="cpu"),
              PointEncoder("t", tiny_point_mae(), "", device="cpu", dtype=torch.bfloat16),
              PointEncoder("t", PointMAE(batch_statistics=False, **P.TINY_POINT_MAE), "", device="cpu")]
    prints = [encoder.fingerprint for encoder in others]
    assert same.fingerprint == base.fingerprint and re.fullmatch("[0-9a-f]{16}", base.fingerprint)
    assert len({base.fingerprint, *prints}) == 6


@pytest.mark.parametrize("pays", [False, True])
def test_how_it_multiplies_changes_the_fingerprint_and_not_the_identity(pays, monkeypatch):
    from mmad_nb.features import image
    make = lambda heads=4: PointEncoder("t", tiny(heads), "", device="cpu", dtype=torch.bfloat16)
    def tiny(heads):
        torch.manual_seed(0)
        return PointMAE(**{**P.TINY_POINT_MAE, "heads": heads})
    monkeypatch.setattr(image, "bfloat16_pays", lambda device: pays)
    here = make()
    monkeypatch.setattr(image, "bfloat16_pays", lambda device: not pays)
    there = make()
    assert here.identity == there.identity and here.fingerprint != there.fingerprint
    assert there.fingerprint == make().fingerprint and make(8).identity != there.identity


def test_what_are_no_points_is_refused():
    encoder = PointEncoder("t", tiny_point_mae(), "", device="cpu")
    for points in ("abc", None, [["a", "b", "c"]]):
        with pytest.raises(DataError, match="points for t"): encoder.encode(points)
    with pytest.raises(DataError, match="seed of random weights"): tiny_point_mae(2**64)


def test_bfloat16_stays_near_float32_also_far_from_the_origin(cloud):
    full = PointEncoder("t", tiny_point_mae(), "", device="cpu")
    half = PointEncoder("t", tiny_point_mae(), "", device="cpu", dtype=torch.bfloat16)
    near = F.cosine_similarity(full.encode(cloud + 0.5)[1], half.encode(cloud + 0.5)[1])
    assert near.min() > 0.99 and half.encode(cloud)[1].dtype == torch.float32


def test_metric_scale_trap():
    "Stored statistics of unit-sized shapes silence a cloud in metres; those of the sample do not."
    torch.manual_seed(4)
    encoder = GroupEncoder(96).requires_grad_(False)
    unit = torch.rand(4000, 3)
    for norm in (encoder.first_conv[1], encoder.second_conv[1]):
        norm.momentum = 1.0
    plain_tokens(encoder.train(), group_points(unit, 128, 32)[1])
    offsets = group_points(unit * 0.05, 128, 32)[1]
    spread = {}
    for encoder.batch_statistics in (True, False):
        spread[encoder.batch_statistics] = encoder(offsets).std(0).mean()
    assert spread[True] > 5 * spread[False]


# ---- interpolation

def test_interpolation_against_numpy(cloud):
    centers = cloud[farthest_point_sampling(cloud, 40)]
    index, weight = interpolation(cloud, centers)
    squared = ((cloud.double()[:, None] - centers.double()) ** 2).sum(2).numpy()
    order = np.argsort(squared, 1)[:, :3]
    share = 1 / (np.take_along_axis(squared, order, 1) + 1e-8)
    assert (index.numpy() == order).all()
    np.testing.assert_allclose(weight.numpy(), share / share.sum(1, keepdims=True), atol=1e-5)
    assert interpolation(cloud[:5], centers[:2])[0].shape == (5, 2)   # fewer centres than k


# ---- memory: a fresh process handles 256 groups, then 1024

GROWTH = """
import re, torch
from pathlib import Path
from mmad_nb.features.points import GroupEncoder
torch.set_num_threads(1)
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
encoder = GroupEncoder(384).requires_grad_(False)
encoder(torch.randn(256, 32, 3))
before = peak(); encoder(torch.randn(1024, 32, 3)); print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_of_the_group_encoder_is_flat():
    ran = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    assert float(ran.stdout) < 40      # MiB; the plain layers need 190 more for 1024 groups than for 256


# ---- normals

def test_window_sums_by_hand():
    maps = torch.arange(25.0).reshape(1, 5, 5)
    total, across, down = window_sums(maps, 3, [(0, 0), (1, 0), (0, 1)])[:, 0, 2, 2].tolist()
    assert (total, across, down) == (9 * 12, 6, 30)    # columns differ by 1, rows by 5


@pytest.mark.parametrize("window", [3, 9, 21])
def test_normals_of_a_tilted_plane_with_holes(window):
    slope = torch.linspace(-0.1, 0.1, 60)
    ray = torch.stack([slope.expand(60, 60), slope[:, None].expand(60, 60), torch.ones(60, 60)])
    tilt = F.normalize(torch.tensor([-0.5, 0.4, -1.0]), dim=0).view(3, 1, 1)
    plane = ray * (0.5 * tilt[2] / (ray * tilt).sum(0))
    seen = torch.rand(60, 60, generator=torch.Generator().manual_seed(0)) < 0.8
    normals = surface_normals((plane * seen).numpy(), seen.numpy(), window)
    known = normals.norm(dim=0) > 0.5
    assert known[seen].float().mean() > 0.99 and not known[~seen].any()
    torch.testing.assert_close(normals[:, known], tilt.flatten(1).expand(3, int(known.sum())), atol=2e-4, rtol=0)


def test_normals_equal_least_squares_in_a_window_with_holes():
    rng = np.random.default_rng(0)
    xyz, seen = rng.normal(size=(3, 7, 7)).astype(np.float32), rng.random((7, 7)) < 0.6
    seen[3, 3] = True
    v, u = np.nonzero(seen[1:6, 1:6])
    _, tu, tv = np.linalg.lstsq(np.stack([np.ones(len(u)), u, v], 1), xyz[:, 1:6, 1:6][:, v, u].T, rcond=None)[0]
    wanted = np.cross(tu, tv) / np.linalg.norm(np.cross(tu, tv))
    found = surface_normals(xyz * seen, seen, 5)[:, 3, 3].numpy()
    np.testing.assert_allclose(found * np.sign(found @ wanted), wanted, atol=1e-4)
    assert found @ xyz[:, 3, 3] < 0


def test_normals_refuse_and_survive_emptiness():
    with pytest.raises(DataError, match="odd window"):
        surface_normals(torch.zeros(3, 8, 8), torch.ones(8, 8, dtype=torch.bool), 4)
    with pytest.raises(DataError, match="Channels come first"):
        surface_normals(torch.zeros(8, 8, 3), torch.ones(8, 8, dtype=torch.bool))
    assert surface_normals(torch.zeros(3, 8, 8), torch.zeros(8, 8, dtype=torch.bool)).abs().max() == 0
    assert surface_normals(torch.ones(3, 8, 8), torch.ones(8, 8, dtype=torch.bool)).isfinite().all()   # one point, 64 times


def test_cloud_normals_in_chunks_and_by_viewpoint(cloud):
    flat = cloud * torch.tensor([1.0, 1, 0])
    for chunk in (100, 10**6):
        up = cloud_normals(flat, k=12, viewpoint=torch.tensor([0.0, 0, 5]), chunk=chunk)
        torch.testing.assert_close(up, torch.tensor([0.0, 0, 1]).expand_as(up), atol=1e-4, rtol=0)
    down = cloud_normals(flat, viewpoint=torch.tensor([0.0, 0, -5]))
    assert (down[:, 2] < -0.99).all()
    with pytest.raises(DataError, match="at least 3"):
        cloud_normals(flat, k=2)


def test_relight_lambert():
    tilted = F.normalize(torch.tensor([1.0, 0, -1]), dim=0).view(3, 1, 1)      # 45 degrees to the right
    assert relight(tilted, 0, 45).item() == pytest.approx(1, abs=1e-6)
    assert relight(tilted, 180, 45).item() == pytest.approx(0, abs=1e-6)


# ---- a real capture

def test_real_kinect_capture():
    cloud = read_pcd(shared("organised_rgbd", "test", "test0.pcd"))
    grid = cloud.points.reshape(cloud.height, cloud.width, 3)[::4, ::4].transpose(2, 0, 1)
    valid = np.isfinite(grid).all(0)
    with pytest.raises(DataError, match="NaN"):
        farthest_point_sampling(grid.reshape(3, -1).T, 10)
    points = torch.from_numpy(grid[:, valid].T.copy())
    encoder = PointEncoder("tiny_point_mae", tiny_point_mae(), "random", device="cpu")
    centers, features = encoder.encode(points)
    assert features.shape == (384, 288) and features.isfinite().all() and features.std(0).mean() > 0.01
    assert covering_radius(points, centers) < 0.2 * (points.amax(0) - points.amin(0)).norm()
    on_grid = surface_normals(np.where(valid, grid, 0), valid)[:, torch.from_numpy(valid)]
    free = cloud_normals(points, k=24, viewpoint=torch.zeros(3)).T
    known = on_grid.norm(dim=0) > 0.5
    angle = torch.rad2deg(torch.arccos((on_grid * free).sum(0).clamp(-1, 1)))[known]
    assert known.float().mean() > 0.9 and angle.median() < 12    # two methods, one room
