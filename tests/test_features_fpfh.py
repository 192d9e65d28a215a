"""FPFH against a slow version written as plain loops, and what it refuses."""
import math

import numpy as np
import pytest
import torch

from mmad_nb.core.runtime import DataError
from mmad_nb.features import FpfhEncoder, fpfh, pair_angles
from mmad_nb.features.fpfh import histograms, neighbourhood


def loop_angles(p, n, q, m):
    "alpha, phi, theta of one pair, from the Darboux frame."
    d = (q - p) / math.dist(p, q)
    if abs(np.dot(n, d)) < abs(np.dot(m, d)): n, m, d = m, n, -d
    v = np.cross(d, n)
    v /= math.sqrt(v @ v)
    w = np.cross(n, v)
    return v @ m, n @ d, math.atan2(w @ m, n @ m)


def loop_bin(value, low, high):
    edges = [low + (high - low) * i / 11 for i in range(12)]
    for i in range(11):
        if value < edges[i + 1]: return i
    return 10


def loop_fpfh(points, normals, k, radius=math.inf):
    "The two formulas, one pair at a time."
    simple, neighbours = [], []
    for i, p in enumerate(points):
        near = sorted((math.dist(p, q), j) for j, q in enumerate(points) if j != i)[:k]
        near = [(distance, j) for distance, j in near if 0 < distance <= radius]
        h = np.zeros((3, 11))
        for _, j in near:
            values = loop_angles(p, normals[i], points[j], normals[j])
            for row, (value, end) in enumerate(zip(values, (1, 1, math.pi))): h[row, loop_bin(value, -end, end)] += 1
        simple.append(h / max(len(near), 1)); neighbours.append(near)
    result = []
    for i, near in enumerate(neighbours):
        total = sum(1 / distance ** 2 for distance, _ in near)
        result.append(simple[i] + sum((simple[j] / distance ** 2 / total for distance, j in near), np.zeros((3, 11))))
    return np.stack(result).reshape(-1, 33)


def cloud(n=180, seed=0):
    "A bumpy sheet with its normals, which look up."
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 1, (2, n))
    normals = np.stack([-1.2 * np.cos(6 * x) * np.cos(5 * y), np.sin(6 * x) * np.sin(5 * y), np.ones(n)], 1)
    points = np.stack([x, y, .2 * np.sin(6 * x) * np.cos(5 * y)], 1)
    return points.astype(np.float32), (normals / np.linalg.norm(normals, axis=1)[:, None]).astype(np.float32)


@pytest.mark.parametrize("k, radius", [(12, None), (40, None), (40, .12), (500, .2)])
def test_same_as_plain_loops(k, radius):
    points, normals = cloud()
    ours = fpfh(torch.from_numpy(points), torch.from_numpy(normals), k, radius, chunk=37).numpy()
    slow = loop_fpfh(points.astype(float), normals.astype(float), k, radius or math.inf)
    assert ours.shape == slow.shape == (180, 33)
    assert (np.abs(ours - slow).max(1) < 1e-4).mean() > .95        # a value on the border of a bin may be rounded over it
    assert np.abs(ours - slow).mean() < 1e-3


def test_some_points_alone_and_chunks():
    points, normals = map(torch.from_numpy, cloud())
    whole, at = fpfh(points, normals, 20), torch.tensor([5, 170, 5])
    assert torch.allclose(fpfh(points, normals, 20, at=at, chunk=2), whole[at], atol=1e-6)
    assert torch.allclose(whole.reshape(-1, 3, 11).sum(2), torch.tensor(2.), atol=1e-4)


def test_turned_moved_and_enlarged():
    points, normals = map(torch.from_numpy, cloud())
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2))).Q
    turn = turn * torch.linalg.det(turn)
    whole = fpfh(points, normals, 20)
    for moved, turned in ((points @ turn.T, normals @ turn.T), (points + 2, normals), (points / 1000, normals)):
        assert (fpfh(moved, turned, 20) - whole).abs().mean() < 1e-3


def test_points_without_a_normal_do_not_count():
    points, normals = map(torch.from_numpy, cloud())
    holes = normals.clone()
    holes[::3] = 0
    index, distance, counts = neighbourhood(points, holes, 10)
    assert not counts[::3].any() and not counts[torch.isin(index, torch.arange(0, 180, 3))].any()
    some = fpfh(points, holes, 10)
    assert torch.isfinite(some).all() and not some[::3].any()


def test_points_at_one_place_and_a_point_alone():
    flat = torch.zeros(6, 3)
    up = torch.tensor([0., 0, 1]).expand(6, 3)
    assert not fpfh(flat, up, 3).any()
    assert not fpfh(flat[:1], up[:1], 3).any()
    assert not fpfh(torch.eye(3), up[:3], 2, radius=.1).any()


def test_a_normal_along_the_line_gives_no_nan():
    p, z = torch.zeros(3), torch.tensor([0., 0, 1])
    angles = pair_angles(p, z, z, z)
    assert torch.isfinite(angles).all() and angles[1] == 1


def test_ends_of_the_ranges_are_counted():
    ends = torch.tensor([[[1, 1, math.pi], [-1, -1, -math.pi]]])
    h = histograms(ends, torch.ones(1, 2, dtype=torch.bool)).reshape(3, 11)
    assert torch.equal(h[:, 0], torch.full((3,), .5)) and torch.equal(h[:, 10], torch.full((3,), .5))


@pytest.mark.parametrize("change, message", [
    (dict(normals=torch.ones(4, 3)), "One normal for each point"),
    (dict(points=torch.ones(5, 2)), r"points \(5, 2\)"),
    (dict(k=0), "k = 0"),
    (dict(points=torch.full((5, 3), float("nan"))), "NaN"),
])
def test_refused_input(change, message):
    good = dict(points=torch.rand(5, 3), normals=torch.ones(5, 3), k=2)
    with pytest.raises(DataError, match=message): fpfh(**{**good, **change})


def test_encoder_stands_in_for_a_point_network():
    points = torch.from_numpy(cloud()[0]) + torch.tensor([0, 0, 2.])
    encoder = FpfhEncoder(groups=24, k=15, device="cpu")
    centers, features = encoder.encode(points)
    assert centers.shape == (24, 3) and features.shape == (24, 33) and features.dtype == torch.float32
    assert all((points == c).all(1).any() for c in centers)
    assert len(FpfhEncoder(groups=999, device="cpu").encode(points)[0]) == 180
    prints = {FpfhEncoder(**o, device="cpu").fingerprint for o in ({}, {"groups": 9}, {"k": 9}, {"radius": .1}, {"normal_k": 9})}
    assert len(prints) == 5 and FpfhEncoder(device="cpu").fingerprint in prints
