"""prepare: planes, clusters, one geometry, and real Kinect captures."""
import warnings

import numpy as np
import pytest
from layouts import scene
from real_data import kinect_to_mvtec
from sklearn.cluster import DBSCAN

from mmad_nb.data import MVTec3D, Sample, find_foreground, prepare, square
from mmad_nb.data.prepare import find_table, fit_plane, grid_clusters, largest_cluster, resize_nearest


def sample_of(shape=(60, 60), seed=0, table=True, dropped=0.02):
    photo, xyz, spot = scene(shape, seed, table)
    valid = (xyz != 0).any(-1) & (np.random.default_rng(seed).random(shape) > dropped)
    return Sample(photo.transpose(2, 0, 1).astype(np.float32) / 255, (xyz * valid[..., None]).transpose(2, 0, 1).copy(), valid, spot, "bagel", "hole", "bagel/test/hole/000")


def on_ball(sample):
    y, x = np.indices(sample.size) - np.array(sample.size)[:, None, None] // 2
    return np.hypot(x, y) < 17                                      # well inside the ball: 2 cm, 1 mm a pixel


def test_the_ball_is_kept_and_the_table_is_not():
    for shape in ((60, 60), (40, 90), (80, 60)):
        sample = sample_of(shape)
        seen = find_foreground(sample)
        assert seen.note == "" and seen.plane.share > 0.7
        np.testing.assert_allclose(seen.plane.normal, np.array([0.1, 0, -1]) / 1.01**0.5, atol=0.01)
        assert seen.kept[on_ball(sample) & sample.valid].all()
        y, x = np.indices(shape) - np.array(shape)[:, None, None] // 2
        assert not seen.kept[np.hypot(x, y) > 21].any()


def test_one_geometry_for_wide_and_tall():
    for shape in ((40, 90), (90, 40), (61, 60)):
        ready = prepare(sample_of(shape, dropped=0), size=112)
        assert ready.size == (112, 112)
        dark = ready.rgb.max(0) < 0.15                              # the spot in the photo, which nothing else is
        centers = [np.argwhere(picture).mean(0) for picture in (dark, ready.mask)]
        np.testing.assert_allclose(*centers, atol=0.6)
        scale = 112 / max(shape)
        offset = (np.array([max(shape) - shape[0], max(shape) - shape[1]]) // 2)
        spot = np.argwhere(sample_of(shape).mask).mean(0)
        np.testing.assert_allclose(centers[1], (spot + offset + 0.5) * scale - 0.5, atol=0.6)
        assert ready.valid[ready.mask].all()                        # the ball is under the spot, after all the same steps
        assert (ready.xyz[:, ~ready.valid] == 0).all()


def test_the_photo_repeats_its_edge_and_the_points_do_not():
    ready = square(sample_of((40, 90)), None)
    assert ready.size == (90, 90)
    np.testing.assert_array_equal(ready.rgb[:, 0], ready.rgb[:, 25])
    assert not ready.valid[:25].any() and not ready.valid[-25:].any() and not ready.mask[:25].any()


def test_nothing_happens_in_place():
    sample = sample_of()
    before = [a.copy() for a in (sample.rgb, sample.xyz, sample.valid, sample.mask)]
    for array in (sample.rgb, sample.xyz, sample.valid, sample.mask): array.flags.writeable = False
    prepare(sample)
    for a, b in zip(before, (sample.rgb, sample.xyz, sample.valid, sample.mask)): np.testing.assert_array_equal(a, b)


def test_the_seed_decides_and_every_seed_finds_the_table():
    sample = sample_of()
    one, two = find_foreground(sample, seed=5), find_foreground(sample, seed=5)
    assert one.plane.offset == two.plane.offset and (one.kept == two.kept).all()
    for seed in range(10): assert find_foreground(sample, seed=seed).kept[on_ball(sample) & sample.valid].all()


@pytest.mark.parametrize("second", [False, True])
def test_a_capture_without_a_table_keeps_its_object(second):
    sample = sample_of(table=False)
    if second: sample = prepare(sample_of(), size=None)             # prepared once already
    with pytest.warns(UserWarning, match=r"bagel/test/hole/000: the 10-pixel border holds only 0 measured points.*no background was removed"):
        ready = prepare(sample, size=None)
    assert (ready.valid == sample.valid).all()


def test_a_flat_object_that_fills_the_frame_is_no_table():
    flat = np.zeros((3, 50, 50), np.float32); flat[2] = 0.5
    flat[:2] = np.mgrid[:50, :50] * 0.001
    seen = find_foreground(Sample(np.zeros_like(flat), flat, np.ones((50, 50), bool)))
    assert seen.kept.all() and seen.plane is None and "that plane is the object" in seen.note


def test_a_rough_border_is_no_table():
    rough = np.random.default_rng(0).normal(0, 0.05, (3, 50, 50)).astype(np.float32)
    plane, why = find_table(rough, np.ones((50, 50), bool))
    assert plane is None and "explains only" in why


def test_points_with_a_zero_coordinate_count():
    photo, xyz, _ = scene((61, 61))
    assert (xyz[:, :, 0] == 0).any()                                # the middle column lies in the plane x = 0
    sample = Sample(photo.transpose(2, 0, 1) / np.float32(255), xyz.transpose(2, 0, 1).copy(), (xyz != 0).any(-1))
    assert find_foreground(sample).kept[30 - 10:30 + 10, 30].all()


def test_noise_never_wins():
    rng = np.random.default_rng(0)
    xyz = np.zeros((3, 60, 60), np.float32)
    valid = np.zeros((60, 60), bool)
    scattered = rng.random((60, 60)) < 0.5                          # far more lonely points than points in the blob
    xyz[:, scattered] = rng.uniform(1, 9, (3, scattered.sum()))
    valid |= scattered
    xyz[:, 20:28, 20:28] = np.stack([*np.mgrid[:8, :8] * 0.001, np.full((8, 8), 0.5)])
    valid[20:28, 20:28] = True
    kept = largest_cluster(xyz, valid)
    assert kept.sum() == 64 and kept[20:28, 20:28].all()
    assert not largest_cluster(xyz, valid & (np.indices((60, 60))[0] > 30)).any()


def test_clusters_agree_with_dbscan_across_gaps():
    sample = sample_of((80, 80))
    valid = find_foreground(sample).kept
    valid[:, 38:41] = False                                         # three missing columns, 3 mm: less than eps
    two = sample.xyz.copy(); two[2, :, 50:] += 0.05                 # and a piece that is far behind
    ours, eps = grid_clusters(two, valid), 0.006
    theirs = DBSCAN(eps=eps, min_samples=1).fit(two[:, valid].T).labels_
    pairs = set(zip(ours[valid], theirs))
    assert len(pairs) == len(set(theirs)) == len(set(ours[valid]))  # the same partition, whatever the numbers
    assert (ours[~valid] == -1).all()
    valid[:, 36:44] = False                                         # eight columns: more than eps
    assert len(set(grid_clusters(two, valid)[valid])) == len(set(DBSCAN(eps=eps, min_samples=1).fit(two[:, valid].T).labels_)) > 1


def test_three_points_on_a_line_have_no_vote():
    line = np.linspace(0, 1, 60)[:, None] * [1, 0, 0] + [0, 0, 1.0]  # most draws are three points of this line
    beside = np.random.default_rng(0).uniform(0, 1, (10, 3)) * [1, 1, 0] + [0, 0, 1]
    rubbish = np.random.default_rng(1).uniform(0, 1, (15, 3)) + [0, 0, 1.1]
    plane = fit_plane(np.concatenate([line, beside, rubbish]))
    np.testing.assert_allclose(plane.normal, [0, 0, -1], atol=1e-9)


def test_nearest_takes_the_pixel_under_the_centre():
    np.testing.assert_array_equal(resize_nearest(np.arange(6)[None].repeat(6, 0), 2)[0], [1, 4])      # centres at 1.5 and 4.5
    np.testing.assert_array_equal(resize_nearest(np.arange(2)[None].repeat(2, 0), 4)[0], [0, 0, 1, 1])


def test_nearest_never_invents_a_value():
    picture = np.random.default_rng(0).integers(0, 1000, (3, 90, 90))
    for size in (7, 90, 224):
        small = resize_nearest(picture, size)
        assert small.shape == (3, size, size) and np.isin(small, picture).all()


KINECT = dict(threshold=0.01, distance=0.015, eps=0.02)             # a Kinect is ten times as rough as MVTec's sensor


def test_real_kinect_captures(tmp_path):
    root = kinect_to_mvtec(tmp_path)
    raw = MVTec3D(root, split="test", prepared=False)
    ready = MVTec3D(root, split="test", **KINECT)
    for before, after in zip(raw, ready):
        assert before.size == (480, 640) and 0.5 < before.valid.mean() < 0.7
        assert after.size == (224, 224) and np.isfinite(after.xyz).all()
        assert after.valid.sum() > 500                              # an object is left ...
        assert after.mask[after.valid].mean() > 0.97                # ... and it is a thing on the table, not the table
        seen = find_foreground(before, **KINECT)
        assert seen.note == "" and seen.on_plane[~before.mask & before.valid].mean() > 0.9
        assert np.ptp(after.cloud().points, axis=0).max() < 0.5     # metres: a box or a tin
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert MVTec3D(root, **KINECT)[0].valid.sum() > 500
