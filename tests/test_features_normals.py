"""Every source of normals has its own signs: each is shown a ball, whose normals are known without any of them."""
import numpy as np
import pytest
import torch

from mmad_nb.core.runtime import DataError
from mmad_nb.data.eyecandies import read_normals
from mmad_nb.data.neighbours import cloud_normals
from mmad_nb.features.normals import colours_to_normals, normal_colours, surface_normals

RADIUS, DISTANCE, SIZE = 0.04, 0.5, 96


@pytest.fixture(scope="module")
def ball():
    "xyz (3,H,W), valid (H,W) and true normals of a ball before a camera at the origin: away from the ball's middle."
    slope = np.linspace(-1, 1, SIZE) * 1.15 * RADIUS / DISTANCE
    ray = np.stack([*np.meshgrid(slope, slope), np.ones((SIZE, SIZE))])
    a, b, c = (ray**2).sum(0), ray[2] * DISTANCE, DISTANCE**2 - RADIUS**2
    valid = b**2 > a * c
    xyz = ray * (b - np.sqrt(np.maximum(b**2 - a * c, 0))) / a * valid
    normals = (xyz - np.array([0, 0, DISTANCE])[:, None, None]) / RADIUS * valid
    return xyz.astype(np.float32), valid, normals.astype(np.float32)


SPOTS = {"right": (48, 76), "left": (48, 19), "top": (19, 48), "bottom": (76, 48), "middle": (48, 48)}


def leans(normals):
    "x and y at the right, left, top, bottom and middle of the ball, and z in the middle, rounded to whole numbers."
    found = [np.asarray(normals)[:, row, column] for row, column in SPOTS.values()]
    return [tuple(np.round(v[:2] * 1.2).astype(int).tolist()) for v in found], round(float(found[-1][2]))


OURS = [(1, 0), (-1, 0), (0, -1), (0, 1), (0, 0)], -1  # y down, z away from the sensor, normals towards it


def test_ours(ball):
    xyz, valid, truth = map(torch.from_numpy, ball)
    assert leans(truth) == OURS and leans(surface_normals(xyz, valid)) == OURS
    rows, columns = np.nonzero(ball[1])
    some = cloud_normals(xyz[:, valid].T, k=16, viewpoint=torch.zeros(3))
    free = torch.zeros(3, SIZE, SIZE)
    free[:, rows, columns] = some.T
    assert leans(free) == OURS


def test_colours_of_the_ball(ball):
    "By hand: right red, top green, middle light blue; and back."
    xyz, valid, truth = map(torch.from_numpy, ball)
    colours = normal_colours(truth, valid)
    at = {name: colours[:, row, column] for name, (row, column) in SPOTS.items()}
    assert at["right"][0] > .8 and at["left"][0] < .2 and at["top"][1] > .8 and at["bottom"][1] < .2
    assert torch.allclose(at["middle"], torch.tensor([.5, .5, 1]), atol=.02)
    assert torch.allclose(colours_to_normals(colours)[:, valid], truth[:, valid], atol=1e-5)
    assert colours.dtype == torch.float32 and colours[2, valid].min() >= .49                   # no visible side looks away


def test_colours_without_a_normal(ball):
    "Outside `valid`, and where a normal is 0: the colour of a wall that faces us, as published maps have it."
    truth, facing = torch.from_numpy(ball[2]), torch.tensor([.5, .5, 1])
    nowhere = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    assert (normal_colours(truth, nowhere) == facing.view(3, 1, 1)).all()
    assert (normal_colours(torch.zeros(2, 3, 4, 5)) == facing.view(3, 1, 1)).all()
    both = normal_colours(torch.stack([truth, -truth]), torch.stack([nowhere, torch.from_numpy(ball[1])]))
    assert (both[0] == facing.view(3, 1, 1)).all() and both[1, 0, 48, 76] < .2                  # each picture has its mask
    assert normal_colours(np.float64(ball[2])).dtype == torch.float32                           # NumPy does, too


def test_eyecandies(ball, tmp_path):
    "Its picture has y up and z towards the viewer: read_normals and colours_to_normals agree, and both give the ball."
    from PIL import Image
    x, y, z = ball[2]
    picture = np.stack([x, -y, -z]) * 127.5 + 127.5
    Image.fromarray(picture.round().astype(np.uint8).transpose(1, 2, 0)).save(tmp_path / "normals.png")
    world = read_normals(tmp_path / "normals.png", np.eye(4))
    camera = np.stack([world[0], world[2], -world[1]])              # back from the axes of MVTec: (x, -z, y) there
    assert leans(camera) == OURS
    again = colours_to_normals(picture.round() / 255)
    assert np.allclose(again[:, ball[1]], camera[:, ball[1]], atol=.01)


def test_marigold(ball):
    "diffusers paints Marigold's vectors (x right, y up, z to the observer) as (n + 1) / 2: the same colours as ours."
    image_processor = pytest.importorskip("diffusers.pipelines.marigold.marigold_image_processing")
    x, y, z = torch.from_numpy(ball[2])
    vectors = torch.stack([x, -y, -z])                              # the ball in the axes that diffusers documents
    painted = image_processor.MarigoldImageProcessor.visualize_normals(vectors[None])[0]
    ours = normal_colours(torch.from_numpy(ball[2]), torch.from_numpy(ball[1]))[:, ball[1]]
    theirs = torch.from_numpy(np.array(painted)).permute(2, 0, 1)[:, ball[1]] / 255
    assert (ours - theirs).abs().max() < 1.5 / 255


def test_open3d(ball):
    """Turned towards the camera, Open3D's normals are ours. CMDS-AD's release negates them before it paints (n + 1) / 2:
    z then is Marigold's and Eyecandies', y too, but x is not: what is red in its estimated stream lacks red in its real one."""
    o3d = pytest.importorskip("open3d")
    xyz, valid, truth = ball
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(xyz[:, valid].T.astype(float)))
    cloud.estimate_normals(o3d.geometry.KDTreeSearchParamHybrid(radius=0.01, max_nn=30))
    cloud.orient_normals_towards_camera_location(np.zeros(3))
    theirs = np.zeros_like(xyz)
    theirs[:, valid] = np.asarray(cloud.normals).T
    assert leans(theirs) == OURS
    release = (-theirs + 1) / 2
    ours = normal_colours(torch.from_numpy(truth), torch.from_numpy(valid)).numpy()
    row, column = SPOTS["right"]
    assert np.allclose(release[1:, valid], ours[1:, valid], atol=.15)
    assert release[0, row, column] < .2 and ours[0, row, column] > .8


def test_bad_xyz_says_so():
    with pytest.raises(DataError, match="odd window"): surface_normals(torch.zeros(3, 5, 5), torch.ones(5, 5), window=4)
