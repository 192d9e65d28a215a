"views.render: one decision for all pictures, whatever the order of points and views; against plain loops; what is refused."
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmad_nb.core.runtime import DataError
from mmad_nb.data.neighbours import with_normals
from mmad_nb.data.sample import Cloud
from mmad_nb.forge import forge_cloud, forge_sample
from mmad_nb.views import create_cameras, render
from mmad_nb.views.render import ANGLES, MARGIN, TAN, ZOOM, depth_keys, depth_of, fitting_point_size, place, project, spread


@pytest.fixture(scope="module")
def knot():
    cloud = forge_cloud("knot0", "bulge", seed=2, points=6000)
    colors = np.random.default_rng(0).random((6000, 3)).astype(np.float32)
    return replace(cloud, colors=colors)


def draw(cloud, *args, **options): return render(cloud, *args, device="cpu", size=options.pop("size", 96), **options)


def pick(cloud, which):
    parts = {name: getattr(cloud, name)[which] for name in ("points", "normals", "labels", "colors") if getattr(cloud, name) is not None}
    return replace(cloud, **parts)


def wall(z, color, n=30):
    "A square of n x n points that faces the sensor, one colour."
    x, y = np.meshgrid(np.linspace(-1, 1, n), np.linspace(-1, 1, n))
    points = np.stack([x, y, np.full_like(x, z)], -1).reshape(-1, 3).astype(np.float32)
    same = np.ones((len(points), 3), np.float32)
    return Cloud(points, normals=same * np.float32([0, 0, -1]), colors=same * np.float32(color), labels=np.full(len(points), color[0] > .5))


def joined(*clouds):
    return Cloud(*(np.concatenate([getattr(c, name) for c in clouds]) for name in ("points", "normals", "labels", "colors")))


# ---- one decision for all pictures (FACTS: the same cameras for every modality)

@pytest.mark.parametrize("angles", ANGLES)
def test_all_pictures_have_one_outline_and_one_owner(knot, angles):
    views = draw(knot, angles)
    assert len(views) == 9 and views.shade.shape == views.depth.shape == views.color.shape == (9, 3, 96, 96)
    drawn = views.owner >= 0
    assert torch.equal(views.shade[:, 1] < 1, drawn) and not views.label[~drawn].any()
    assert (views.depth[:, 0][~drawn] == 1).all()
    assert (views.color.permute(0, 2, 3, 1)[drawn] == torch.from_numpy(knot.colors)[views.owner[drawn]]).all()
    assert (views.label[drawn] == torch.from_numpy(knot.labels)[views.owner[drawn]]).all()
    for v in range(9):                                                         # each picture shows points near their own pixels
        row, column = drawn[v].nonzero().T
        off = views.pixel[v, views.owner[v][drawn[v]]] - torch.stack([row, column], 1)
        assert off.float().norm(dim=1).max() <= views.point_size * 5 / 6 + 1e-4   # half a wide disc


def test_near_hides_far_and_not_the_other_way_round():
    both = joined(wall(1, [0, 0, 1]), wall(0, [1, 0, 0]))
    for cloud in (both, joined(wall(0, [1, 0, 0]), wall(1, [0, 0, 1]))):       # whichever comes first in the list
        front = draw(cloud, [("x", 0)])
        drawn = front.owner[0] >= 0
        assert (front.color[0, 0][drawn] == 1).all() and (front.color[0, 2][drawn] == 0).all() and torch.equal(front.label[0], drawn)
        assert front.visible[0].sum() == 900 and (front.points[front.visible[0], 2] == 0).all()
        behind = draw(cloud, [("x", 180)])
        assert (behind.color[0, 2][behind.owner[0] >= 0] == 1).all() and (behind.points[behind.visible[0], 2] == 1).all()
    slanted = draw(both, [("y", 25)])                                          # near is bright
    depth, seen = slanted.depth[0, 0], slanted.owner[0] >= 0
    z = (slanted.points - slanted.eyes[0]).norm(dim=1)[slanted.owner[0][seen]]
    assert np.corrcoef(depth[seen], z)[0, 1] < -.9 and depth[seen].max() == 1 and depth[seen].min() == 0


# ---- order does not matter

def test_shuffled_points_give_the_same_pictures_also_where_depths_are_equal(knot):
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(40.), np.arange(40.))
    flat = np.stack([x, y, 0 * x], -1).reshape(-1, 3).astype(np.float32)     # seen from the front all depths are equal
    plate = Cloud(flat, normals=F.normalize(torch.randn(1600, 3), dim=1).numpy(), labels=rng.random(1600) < .5, colors=rng.random((1600, 3)).astype(np.float32))
    for cloud in (knot, plate):
        views = draw(cloud, point_size=9)
        for seed in range(3):
            mixed = np.random.default_rng(seed).permutation(len(cloud))
            again = draw(pick(cloud, mixed), point_size=9)
            for name in ("shade", "depth", "color", "label"): assert torch.equal(getattr(again, name), getattr(views, name)), name
            assert torch.equal(again.visible, views.visible[:, mixed]) and torch.equal(again.pixel, views.pixel[:, mixed])
            assert torch.equal(torch.from_numpy(mixed)[again.owner][again.owner >= 0], views.owner[views.owner >= 0])
        assert fitting_point_size(views.points, 96) == fitting_point_size(views.points[torch.randperm(len(cloud))], 96)


def test_equal_depths_go_to_the_first_in_space():
    points = np.float32([[1, 1, 0], [-1e-3, -1e-3, 0], [1e-3, 1e-3, 0], [0, 1, 0], [1, 0, 0]])   # 1 and 2 share a pixel, equally deep
    cloud = Cloud(points, normals=np.tile(np.float32([0, 0, -1]), (5, 1)))
    for which in ([0, 1, 2, 3, 4], [4, 2, 1, 0, 3]):
        views = draw(pick(cloud, which), [("x", 0)], point_size=1)
        owners = {which[i] for i in views.owner[views.owner >= 0].tolist()}
        assert owners == {0, 1, 3, 4}
        assert views.visible.all() and draw(pick(cloud, which), [("x", 0)], point_size=1, visibility="pixel").visible.sum() == 4


def test_batched_over_views_is_one_by_one(knot):
    cameras = create_cameras("eyecandies")
    views = draw(knot, cameras)
    for i in range(9):
        one = draw(knot, cameras[[i]])
        for name in ("shade", "depth", "color", "label", "owner", "pixel", "visible", "eyes"):
            assert torch.equal(getattr(one, name)[0], getattr(views, name)[i]), name
        assert one.names == (views.names[i],)


def test_runs_under_deterministic_algorithms(knot):
    torch.use_deterministic_algorithms(True)
    try: draw(knot)
    finally: torch.use_deterministic_algorithms(False)


def test_pictures_do_not_know_the_unit_or_the_place(knot):
    "Metres or thousandths of them, here or there: powers of two keep every bit."
    views = draw(knot)
    for cloud in (replace(knot, points=knot.points * 1024), replace(knot, points=knot.points / 2 ** 40), replace(knot, normals=knot.normals * 3)):
        again = draw(cloud)
        assert torch.equal(again.owner, views.owner) and torch.equal(again.visible, views.visible) and torch.equal(again.depth, views.depth)
        assert torch.allclose(again.shade, views.shade, atol=1e-5)
    far = draw(replace(knot, points=knot.points + np.float32([0, 0, 64])))
    assert (far.owner == views.owner).float().mean() > .97                      # rounding moves a few points by a pixel


# ---- against plain loops

def by_hand(points, angles, size):
    "Distance found by stepping back, pixels and the published visibility, in float64, point by point."
    local = (points - points.mean(0)).astype(np.float64)
    for axis, angle in angles:
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        turned = local @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]] if axis == "x" else [[c, 0, s], [0, 1, 0], [-s, 0, c]]).T
        turned -= (turned.min(0) + turned.max(0)) / 2
        d = ZOOM * np.ptp(turned, axis=0).max() / TAN
        while (np.abs(turned[:, :2]).max(1) > MARGIN * TAN * (turned[:, 2] + d)).any(): d += 1e-4
        z = turned[:, 2] + d
        uv = turned[:, :2] / z[:, None] * size / 2 / TAN + size / 2
        best = {}
        for i, (u, v) in enumerate(uv):
            at = int(v), int(u)
            if at not in best or z[i] < z[best[at]]: best[at] = i
        yield d, uv, z, np.isin(np.arange(len(points)), list(best.values()))


def test_projection_and_published_visibility_against_a_plain_loop(knot):
    angles = [("x", -45), ("x", 0), ("y", 30), ("x", 100)]
    views = draw(knot, angles, visibility="pixel")
    local, distance, eyes = place(torch.from_numpy(knot.points), create_cameras(angles).rotations)
    places = project(local, 96)
    for v, (d, uv, z, seen) in enumerate(by_hand(knot.points, angles, 96)):
        assert distance[v].item() - 1e-5 <= d <= distance[v].item() + 2e-4
        np.testing.assert_allclose(places[v].T, uv, atol=.02); np.testing.assert_allclose(local[v, 2], z, atol=3e-4)
        assert (views.pixel[v].numpy() == uv[:, ::-1].astype(int)).mean() > .98
        assert (views.visible[v].numpy() == seen).mean() > .98
        np.testing.assert_allclose((torch.from_numpy(knot.points) - eyes[v]).square().sum(1), local[v].square().sum(0), rtol=1e-4)


@pytest.mark.parametrize("angles", ANGLES)
@pytest.mark.parametrize("category", ["cube", "ring0", "pear0"])
def test_every_point_is_on_screen(category, angles):
    cube = torch.cartesian_prod(*[torch.tensor([0., 1])] * 3)                   # its near corners stick out of the usual distance
    points = cube if category == "cube" else torch.from_numpy(forge_cloud(category, seed=1, points=2000).points)
    local, distance, _ = place(points, create_cameras(angles).rotations)
    uv = project(local, 336)
    assert uv.min() >= 168 * (1 - MARGIN) - .01 and uv.max() <= 336 - 168 * (1 - MARGIN) + .01 and local[:, 2].min() > 0
    reach = (uv - 168).abs().amax((1, 2))
    assert (reach > 60).all()                                                   # and no smaller than need be


def test_keys_keep_the_order_of_the_depths():
    depth = torch.rand(1, 5000, generator=torch.Generator().manual_seed(0)) * 10 ** torch.linspace(-20, 20, 5000)
    rank = torch.arange(5000)
    keys = depth_keys(depth, rank)
    assert torch.equal(keys.argsort(), depth.argsort(stable=True)) and torch.equal(depth_of(keys), depth) and torch.equal(keys & 0xffffffff, rank[None])


def test_discs_at_the_border_and_larger_than_the_picture():
    picture = torch.full((1, 9, 9), torch.iinfo(torch.int64).max)
    picture[0, 0, 8] = 5
    assert (spread(picture, 4) == 5).sum() == 6 and (spread(picture, 40) == 5).all() and (picture == 5).sum() == 1


def test_a_front_without_holes_hides_the_back(knot):
    views = draw(knot, "real3d", size=200)
    facing = (torch.from_numpy(knot.normals) * (views.eyes[:, None] - views.points)).sum(2) > 0
    assert (views.visible & ~facing).sum() < .22 * views.visible.sum()           # what is seen faces the eye
    through = torch.stack([~facing[v, views.owner[v].clamp(min=0)] & (views.owner[v] >= 0) for v in range(9)])
    depth = (views.points[views.owner.clamp(min=0)] - views.eyes[:, None, None]).norm(dim=3).where(views.owner >= 0, torch.tensor(0.))
    around = F.max_pool2d(-depth.where(views.owner >= 0, torch.tensor(99.)), 9, 1, 4)          # the nearest within four pixels
    holes = through & (depth > .3 - around)                                      # the far side, amid a strand that is in front of it
    assert holes.sum() < 400                                                     # 1500 if wide discs hid nothing
    published = draw(knot, "real3d", size=200, visibility="pixel")
    assert (published.visible & ~facing).sum() > .3 * published.visible.sum()


def test_sign_of_the_normals_is_of_no_account(knot):
    turned = knot.normals * np.where(np.random.default_rng(0).random((6000, 1)) < .5, -1, 1).astype(np.float32)
    assert torch.equal(draw(replace(knot, normals=turned)).shade, draw(knot).shade)


def test_what_is_not_known_is_not_drawn():
    bare = with_normals(Cloud(forge_cloud("pear0", points=500).points))
    views = draw(bare)
    assert views.color is None and views.label is None and "Views(9 of 96x96" in repr(views)
    unlit = draw(replace(bare, normals=np.zeros_like(bare.normals)))            # as surface_normals gives where there is no plane
    assert unlit.shade.isfinite().all()


def test_inputs_stay_as_they_are(knot):
    before = {name: getattr(knot, name).copy() for name in ("points", "normals", "colors", "labels")}
    draw(knot)
    for name, value in before.items(): np.testing.assert_array_equal(getattr(knot, name), value)


def test_sample_to_views():
    views = draw(with_normals(forge_sample("gear", "hole", seed=1, size=96).cloud()))
    assert views.color is not None and views.label.any() and views.visible.any(0).float().mean() > .95


# ---- bad input

CLOUD = with_normals(Cloud(np.random.default_rng(0).random((50, 3)).astype(np.float32)))
UP = np.float32([[0, 0, 1]])


@pytest.mark.parametrize("cloud, says", [
    (Cloud(np.float32([[1, 2, 3]]), UP), "1 points on one line"), (Cloud(np.float32([[1, 2, 3], [1, 2, 4]]), UP.repeat(2, 0)), "2 points on one line"),
    (Cloud(np.ones((9, 3), np.float32), UP.repeat(9, 0)), "in one place"),
    (Cloud(np.linspace(0, 1, 30, dtype=np.float32)[:, None] * np.float32([1, 2, -3]), UP.repeat(30, 0)), "30 points on one line"),
    (Cloud(CLOUD.points), "with_normals"), (Cloud(CLOUD.points.astype(np.float64) * 1e300, CLOUD.normals), "infinite"),
    (CLOUD.points, "a Cloud"), (forge_sample("gear", seed=0, size=32), r"with_normals\(sample.cloud")])
def test_clouds_that_cannot_be_drawn(cloud, says):
    with pytest.raises(DataError, match=says): draw(cloud)


def test_planar_cloud_is_drawn():
    x, y = np.meshgrid(np.arange(20.), np.arange(20.))
    views = draw(with_normals(Cloud(np.stack([x, y, 0 * x], -1).reshape(-1, 3).astype(np.float32))), [("x", 0), ("x", 90)])
    assert views.visible[0].all() and views.shade.isfinite().all() and views.depth.isfinite().all()
    assert (views.owner[1] >= 0).any()                                          # from the side: a line


@pytest.mark.parametrize("options, says", [
    ({"size": 0}, "from 8"), ({"size": 33.5}, "from 8"), ({"size": True}, "from 8"), ({"size": 10 ** 6}, "size of"),
    ({"point_size": 0}, "above 0"), ({"point_size": math.nan}, "above 0"), ({"point_size": "3"}, "above 0"), ({"point_size": 400}, "at most 96"),
    ({"visibility": "surfaces"}, "Did you mean 'surface'"), ({"cameras": "real3D"}, "Did you mean 'real3d'"), ({"cameras": []}, "empty"),
    ({"cameras": [("x", math.nan)]}, "number of degrees"), ({"cameras": ["x"]}, "pairs"), ({"cameras": 5}, "pairs"), ({"cameras": [("z", 5)]}, "'x' or 'y'")])
def test_options_that_mean_nothing(options, says):
    with pytest.raises(DataError, match=says): draw(CLOUD, **options)


def test_normals_for_clouds_that_have_none():
    sample = forge_sample("gear", seed=0, size=48)
    cloud = with_normals(sample.cloud())
    assert (cloud.normals * cloud.points).sum(1).max() <= 1e-6                   # a sample's look to the sensor
    assert cloud.pixel is not None and with_normals(cloud) is cloud
    few = with_normals(Cloud(np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]])))
    np.testing.assert_allclose(np.abs(few.normals), [[0, 0, 1]] * 4, atol=1e-6)
    for points in (np.ones((5, 3)), np.arange(15.).reshape(5, 3)):
        with pytest.raises(DataError, match="points on one line"): with_normals(Cloud(points.astype(np.float32)))
