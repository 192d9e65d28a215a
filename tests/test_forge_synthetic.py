"Synthetic anomalies: any size and object, pixels that keep their rays, untouched input, seeds, and input that cannot be damaged."
from dataclasses import replace

import numpy as np
import pytest

from mmad_nb.core.runtime import DataError
from mmad_nb.data import Sample
from mmad_nb.forge import synthetic_anomaly
from mmad_nb.forge.synthetic import (KINDS, LEAST, MOST, SyntheticTwins, anomaly_mask, displace, gradient_noise, moved_along_ray,
                                    object_length, perlin, texture)


def disc(size=(60, 80), radius=22, gaps=0.05, frozen=True):
    "A tilted disc half a metre away, 1 mm a pixel, with some pixels not measured."
    y, x = np.indices(size) - np.array(size)[:, None, None] // 2
    valid = (np.hypot(x, y) < radius) & (np.random.default_rng(0).random(size) >= gaps)
    xyz = (np.stack([x * .001, y * .001, .5 + .0002 * x]) * valid).astype(np.float32)
    rgb = np.random.default_rng(1).random((3, *size)).astype(np.float32)
    arrays = rgb, xyz, valid, np.zeros(size, bool)
    for array in arrays: array.flags.writeable = not frozen
    return Sample(*arrays, category="disc", id="disc/000")


def slow_noise(size, slopes):
    "The same sum of planes, pixel by pixel and corner by corner."
    rows, columns = slopes.shape[0] - 1, slopes.shape[1] - 1
    weight = lambda t: 3 * (1 - abs(t)) ** 2 - 2 * (1 - abs(t)) ** 3
    out = np.zeros(size)
    for r in range(size[0]):
        for c in range(size[1]):
            y, x = r * rows / size[0], c * columns / size[1]
            for i in (int(y), int(y) + 1):
                for j in (int(x), int(x) + 1):
                    out[r, c] += weight(y - i) * weight(x - j) * (slopes[i, j, 0] * (x - j) + slopes[i, j, 1] * (y - i))
    return 2 ** .5 * out


@pytest.mark.parametrize("size, cells", [((13, 9), (3, 2)), ((8, 8), (1, 1)), ((5, 20), (7, 3))])  # also cells smaller than a pixel
def test_noise_is_the_sum_of_planes(size, cells):
    slopes = np.random.default_rng(3).normal(size=(cells[0] + 1, cells[1] + 1, 2))
    np.testing.assert_allclose(gradient_noise(size, slopes), slow_noise(size, slopes), atol=1e-5)


def test_noise_stays_within_one():
    for seed in range(20): assert np.abs(perlin((64, 64), (8, 8), np.random.default_rng(seed))).max() <= 1


@pytest.mark.parametrize("seed", range(30))
def test_every_seed_and_kind_keeps_the_promises(seed):
    good = disc()                                                   # its arrays cannot be written: in-place changes raise
    for kind in KINDS:
        made = synthetic_anomaly(good, seed, kind)
        assert made.defect == "synthetic" and made.anomalous and made.category == "disc" and made.id == f"disc/000/synthetic/{seed}"
        assert made.mask.any() and not (made.mask & ~good.valid).any()
        assert made.mask.sum() <= (MOST + .02) * good.valid.sum() and made.mask.sum() >= LEAST / 2 * good.valid.sum()
        assert (made.valid == good.valid).all() and not made.xyz[:, ~made.valid].any()
        assert made.rgb.min() >= 0 and made.rgb.max() <= 1 and np.isfinite(made.xyz).all()
        for name in ("rgb", "xyz"): np.testing.assert_array_equal(getattr(made, name)[:, ~made.mask], getattr(good, name)[:, ~made.mask])
        if kind == "colour": np.testing.assert_array_equal(made.xyz, good.xyz)
        if kind == "shape": np.testing.assert_array_equal(made.rgb, good.rgb)
        unit = lambda p: p[:, good.valid] / np.linalg.norm(p[:, good.valid], axis=0)
        np.testing.assert_allclose(unit(made.xyz), unit(good.xyz), atol=1e-6)
        moved = moved_along_ray(good, made)
        assert (moved >= -1e-6).all() or (moved <= 1e-6).all()      # a dent or a bump, not both


def test_result_shares_no_memory_with_its_source():
    good = disc(frozen=False)
    made = synthetic_anomaly(good, kind="colour")
    for name in ("rgb", "xyz", "valid"): assert not np.shares_memory(getattr(made, name), getattr(good, name))


def test_strength_is_a_share_of_the_length_in_any_unit():
    good = disc()
    for scale in (1, 1000):
        one = replace(good, xyz=(good.xyz * np.float32(scale)))
        moved = moved_along_ray(one, synthetic_anomaly(one, 3, "shape", strength=.05))
        np.testing.assert_allclose(moved.max(), .05 * object_length(one), rtol=1e-3)


def test_the_eye_decides_the_rays():
    good, eye = disc(), np.array([.1, -.2, 0], np.float32)
    made = synthetic_anomaly(good, 2, "shape", strength=-.05, eye=eye)
    move = (made.xyz - good.xyz)[:, made.mask].T
    ray = good.xyz[:, made.mask].T - eye
    np.testing.assert_allclose(np.cross(move, ray), 0, atol=1e-7)
    assert (np.einsum("ij,ij->i", move, ray) <= 1e-9).all()          # towards the eye


def test_a_point_at_the_eye_stays():
    xyz = np.zeros((3, 1, 2), np.float32); xyz[2, 0, 1] = 2
    moved = displace(xyz, np.ones((1, 2)))
    assert np.isfinite(moved).all() and not moved[:, 0, 0].any() and moved[2, 0, 1] == 3


@pytest.mark.parametrize("pixels", [1, 2, 5])
def test_tiny_objects_get_a_defect(pixels):
    valid = np.zeros((32, 32), bool); valid[16, 10:10 + pixels] = True
    xyz = np.zeros((3, 32, 32), np.float32); xyz[2, valid] = .5
    for seed in range(20):
        made = synthetic_anomaly(Sample(np.full((3, 32, 32), .5, np.float32), xyz, valid), seed)
        assert made.mask.any() and not (made.mask & ~valid).any()


def test_flat_noise_has_a_mask():
    assert anomaly_mask(np.zeros((4, 4), np.float32), np.ones((4, 4), bool))[0].any()


def test_textures_differ_and_are_colours():
    patterns = [texture((16, 24), np.random.default_rng(seed)) for seed in range(10)]
    assert all(p.shape == (3, 16, 24) and p.dtype == np.float32 and p.min() >= 0 and p.max() <= 1 for p in patterns)
    assert len({p.tobytes() for p in patterns}) == 10


def test_twins_are_lazy_and_repeatable():
    class Counting(list):
        read = 0
        def __getitem__(self, i): Counting.read += 1; return super().__getitem__(i)
    twins = SyntheticTwins(Counting([disc(), disc()]), seed=7, kind="shape")
    assert len(twins) == 2 and Counting.read == 0
    assert (twins[1].mask == synthetic_anomaly(disc(), 8).mask).all() and Counting.read == 1
    assert len(list(twins)) == 2
    with pytest.raises(IndexError): twins[2]


def test_bad_input():
    good = disc()
    with pytest.raises(DataError, match="disc/000.*a defect \\(dent\\).*good sample"): synthetic_anomaly(replace(good, defect="dent"))
    with pytest.raises(DataError, match="kind of synthetic anomaly 'texture'.*both, colour, shape"): synthetic_anomaly(good, kind="texture")
    empty = replace(good, valid=np.zeros_like(good.valid), xyz=np.zeros_like(good.xyz))
    with pytest.raises(DataError, match="no measured pixel"): synthetic_anomaly(empty)
    for settings in (dict(cells=(0, 4)), dict(cells=(4, -1)), dict(opacity=1.5), dict(opacity=-.1), dict(opacity=float("nan")),
                     dict(strength=.9), dict(strength=float("nan")), dict(threshold=float("nan"))):
        with pytest.raises(DataError, match=next(iter(settings))): synthetic_anomaly(good, **settings)
