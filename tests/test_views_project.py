"views.project: against plain loops, unseen points, order, gradients, the published average, the panel, and what is refused."
from dataclasses import replace

import numpy as np
import pytest
import torch

from mmad_nb.core.runtime import DataError
from mmad_nb.data.sample import Cloud
from mmad_nb.forge import forge_cloud
from mmad_nb.views import average_views, back_project, create_cameras, on_grid, render, smooth_points
from mmad_nb.views import project as P


@pytest.fixture(scope="module")
def cloud(): return forge_cloud("ring0", "bulge", seed=2, points=3000)


@pytest.fixture(scope="module")
def views(cloud): return render(cloud, "pointad", size=64, device="cpu")     # from one side: a part is never seen


@pytest.fixture(scope="module")
def maps(): return torch.rand(9, 64, 64, generator=torch.Generator().manual_seed(0))


def by_loop(maps, views, divide):
    "Point by point, view by view; NaN where no view sees a point."
    scores = []
    for i in range(len(views.points)):
        values = [maps[v, r, c].item() for v in range(len(views)) for r, c in [views.pixel[v, i]] if views.visible[v, i]]
        scores.append(sum(values) / (len(values) if divide == "seen" else len(views)) if values else np.nan)
    return np.array(scores)


@pytest.mark.parametrize("divide", ["seen", "views"])
def test_against_a_plain_loop(maps, views, divide):
    loop, ours = by_loop(maps, views, divide), back_project(maps, views, divide=divide).numpy()
    seen = np.isfinite(loop)
    assert .3 < seen.mean() < .95 and np.isfinite(ours).all()
    np.testing.assert_allclose(ours[seen], loop[seen], atol=1e-6)
    points = views.points.numpy()
    for i in np.flatnonzero(~seen)[::25]:                                      # the others: from the nearest in space
        near = np.flatnonzero(seen)[((points[seen] - points[i]) ** 2).sum(1).argmin()]
        assert ours[i] == ours[near]


def test_published_fill_takes_flags_of_the_neighbour_in_the_list(maps, views):
    ours, visible = back_project(maps, views, "index"), views.visible.clone()
    seen = visible.any(0)
    known = np.flatnonzero(seen)
    for i in np.flatnonzero(~seen): visible[:, i] = visible[:, known[np.abs(known - i).argmin()]]
    np.testing.assert_allclose(ours, by_loop(maps, replace(views, visible=visible), "seen"), atol=1e-6)


def test_no_division_by_zero(maps, views):
    assert not views.visible.any(0).all()
    for unseen in ("nearest", "index"):
        for divide in ("seen", "views"): assert back_project(maps, views, unseen, divide).isfinite().all()
    everywhere = back_project(torch.ones(9, 64, 64), views)
    assert torch.equal(everywhere, torch.ones(3000))                           # unseen is not "surely good"
    assert back_project(torch.ones(9, 64, 64), views, divide="views").max() <= 1


def test_shuffled_points_keep_their_scores(cloud, maps, views):
    mixed = np.random.default_rng(0).permutation(3000)
    other = Cloud(cloud.points[mixed], cloud.normals[mixed])
    again = back_project(maps, render(other, "pointad", size=64, device="cpu"))
    assert torch.allclose(again, back_project(maps, views)[mixed], atol=1e-6)
    assert torch.allclose(smooth_points(again, other.points), smooth_points(back_project(maps, views), cloud.points)[mixed], atol=1e-6)


def test_channels_in_front_and_numpy(maps, views):
    stack = torch.stack([maps, 1 - maps, maps ** 2]).view(3, 1, 9, 64, 64)
    ours = back_project(stack, views)
    assert ours.shape == (3, 1, 3000)
    for k in range(3): assert torch.equal(ours[k, 0], back_project(stack[k, 0], views))
    assert torch.equal(back_project(maps.numpy().astype(np.float64), views), back_project(maps, views))


def test_one_view_is_a_look_up(cloud, maps):
    one = render(cloud, [("x", 0)], size=64, device="cpu")
    scores, seen = back_project(maps[:1], one), one.visible[0]
    row, column = one.pixel[0].T
    assert torch.equal(scores[seen], maps[0][row[seen], column[seen]])


def test_gradient_reaches_every_map_that_shows_something(maps, views):
    learned = maps.clone().requires_grad_()
    back_project(learned, views).sum().backward()
    assert (learned.grad.flatten(1).abs().sum(1) > 0).all()
    assert learned.grad.sum().item() == pytest.approx(3000, rel=1e-4)           # each point hands on exactly 1
    values = torch.rand(3000, requires_grad=True)
    smooth_points(values, views.points).sum().backward()
    assert values.grad.sum().item() == pytest.approx(3000, rel=1e-4)


def test_what_is_seen_by_one_view_is_not_judged_by_the_others(cloud, views):
    "Maps that are 1 in view 3 alone: a point scores 1 / (number of views that see it) where view 3 sees it, else 0."
    maps = torch.zeros(9, 64, 64); maps[3] = 1
    scores, count = back_project(maps, views), views.visible.sum(0)
    seen = count > 0
    assert torch.allclose(scores[seen], (views.visible[3] / count.clamp(min=1))[seen])


# ---- smoothing

def test_smoothing_against_brute_force(cloud):
    points, values = torch.from_numpy(cloud.points[:400]), torch.rand(2, 400)
    near = torch.cdist(points.double(), points.double()).argsort(1)[:, :16]
    assert torch.allclose(smooth_points(values, points), values[:, near].mean(2), atol=1e-6)
    assert torch.allclose(smooth_points(torch.ones(400, dtype=torch.float64), points, 400), torch.ones(400))


def test_smoothing_is_in_space_not_in_the_list(cloud):
    "Two far points that are neighbours in the list do not meet."
    points = cloud.points[np.random.default_rng(0).permutation(3000)]
    one = torch.zeros(3000); one[0] = 1
    reached = smooth_points(one, points) > 0
    assert np.linalg.norm(points[reached.numpy()] - points[0], axis=1).max() < .15


# ---- the average over views

def published(logits, views): return torch.stack(logits.chunk(views)).mean(0)   # FACTS 7.1: reads the rows view-major


@pytest.mark.parametrize("objects", [1, 2, 4, 9])
def test_average_is_object_by_object(objects):
    logits = torch.randn(objects * 9, 2, generator=torch.Generator().manual_seed(objects))
    by_object = torch.stack([logits[9 * b:9 * b + 9].mean(0) for b in range(objects)])
    assert torch.allclose(average_views(logits, 9), by_object, atol=1e-6)
    assert torch.allclose(published(logits, 9), by_object, atol=1e-6) == (objects == 1)     # the published one: alone in a batch only


def test_average_of_a_batch_is_that_of_each_object_alone():
    logits = torch.randn(36, 2)
    alone = torch.cat([average_views(part, 9) for part in logits.split(9)])
    assert torch.allclose(average_views(logits, 9), alone, atol=1e-6)
    rows = torch.zeros(36, 2, requires_grad=True)
    average_views(rows, 9)[1].sum().backward()
    assert (rows.grad.abs().sum(1).nonzero().flatten() == torch.arange(9, 18)).all()


@pytest.mark.parametrize("shape, views", [((35, 2), 9), ((0, 2), 9), ((36,), 9), ((36, 2), 0), ((36, 2), -9)])
def test_average_refuses(shape, views):
    with pytest.raises(DataError, match="whole objects"): average_views(torch.zeros(shape), views)


# ---- bad input

@pytest.mark.parametrize("wrong, says", [
    (lambda m: m[:8], r"9, 64, 64"), (lambda m: m[:, :24, :24], "upsampled"), (lambda m: m[0], "One map for each view"),
    (lambda m: m.clone().fill_(float("nan")), "NaN"), (lambda m: m / 0, "infinite")])
def test_maps_that_do_not_fit(maps, views, wrong, says):
    with pytest.raises(DataError, match=says): back_project(wrong(maps), views)


def test_options_and_views_that_mean_nothing(maps, views):
    with pytest.raises(DataError, match="Did you mean 'nearest'"): back_project(maps, views, "nearst")
    with pytest.raises(DataError, match="'seen', 'views'|seen, views"): back_project(maps, views, divide="all")
    blind = replace(views, visible=torch.zeros_like(views.visible))
    for unseen in ("nearest", "index"):
        with pytest.raises(DataError, match="no point that a view sees"): back_project(maps, blind, unseen)


def test_smoothing_and_grids_that_mean_nothing(cloud):
    for values, points, k, says in ((torch.zeros(4), torch.rand(5, 3), 2, "each of 5 points"), (torch.zeros(5), torch.rand(5, 3), 6, "k = 6 for 5"),
                                    (torch.zeros(5), torch.rand(5, 3), 0, "k = 0"), (torch.tensor([1., float("nan")]), torch.rand(2, 3), 1, "1 not finite"),
                                    (torch.zeros(2), torch.full((2, 3), float("nan")), 1, "NaN"), (torch.tensor(1.), torch.rand(1, 3), 1, "each of 1")):
        with pytest.raises(DataError, match=says): smooth_points(values, points, k)
    for pixel, size, says in ((None, (4, 4), "grid"), (np.array([[0, 4]]), (4, 4), "column 4"), (np.array([[-1, 0]]), (4, 4), "inside"), (np.zeros((2, 2), int), (4, 4), "each of 1")):
        with pytest.raises(DataError, match=says): on_grid(torch.ones(1), pixel, size)


def test_grid_and_back():
    pixel = np.array([[0, 1], [2, 3]])
    grid = on_grid(torch.tensor([[5., 6], [7, 8]]), pixel, (3, 4))
    assert grid.shape == (2, 3, 4) and grid[0, 0, 1] == 5 and grid[1, 2, 3] == 8 and grid.sum() == 26


# ---- the panel

def test_panel_shows_the_chosen_view(cloud):
    panel = P.ViewsPanel(cloud, [("x", 0), ("x", 90), ("y", 90), ("x", 180), ("y", -90), ("x", -90)], size=64)
    start = panel.image.value
    panel.view.value = 2
    assert panel.image.value != start and panel.label.value.startswith("y 90: sees")
    np.testing.assert_allclose(panel.edges.vertices[0], panel.views.eyes[2].cpu(), atol=1e-6)
    panel.view.value = v = int((panel.views.visible.cpu() & torch.from_numpy(cloud.labels)).sum(1).argmax())
    seen, orange = panel.views.visible[v].cpu().numpy(), 0xE59900
    assert (seen & cloud.labels).any() and set(panel.scene.points.colors[seen & cloud.labels]) == {orange} and orange not in panel.scene.points.colors[~seen]
    panel.paint.value = "count"
    assert len(set(panel.scene.points.colors)) == len(panel.views.visible.sum(0).unique())
    for kind in panel.kind.options: panel.kind.value = kind
    assert "color" not in panel.kind.options                                    # this cloud has no colours


def test_pyramid_ends_where_the_picture_ends(views):
    "The corners of the pyramid land in the corners of the picture."
    for v in range(9):
        line = torch.from_numpy(P.pyramid(views, v))
        local = (line - views.eyes[v]) @ views.cameras.rotations[v].T
        uv = local[[1, 2, 4, 5], :2] / local[[1, 2, 4, 5], 2:] * (32 / P.TAN) + 32
        assert torch.allclose(uv, torch.tensor([[0., 0], [64, 0], [64, 64], [0, 64]]), atol=1e-2)
