"""A real Kinect capture goes through prepare, features, a detector and the cloud view."""
import numpy as np
import pytest
import torch

from mmad_nb.data import MVTec3D
from mmad_nb.detectors import create_detector
from mmad_nb.features import encoder_pair, extract
from mmad_nb.lab import cloud_plot
from real_data import kinect_to_mvtec


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return kinect_to_mvtec(tmp_path_factory.mktemp("kinect"))


def test_prepare_features_and_cloud_view(root):
    raw, sample = MVTec3D(root, "kinect", "test", prepared=False)[0], MVTec3D(root, "kinect", "test")[0]
    assert raw.size == (480, 640) and sample.size == (224, 224)
    assert 0.5 < raw.xyz[2][raw.valid].mean() < 3, "a table is one to two metres from a Kinect"
    assert 0.2 < sample.valid.mean() < raw.valid.mean(), "these captures end before the border: no plane to remove there, nothing lost"
    assert sample.mask.sum() > 1000 and sample.valid[sample.mask].mean() > 0.9, "the things on the table are measured"

    features, = extract([sample], *encoder_pair("tiny", device="cpu"))
    at_points = features.point_matrix @ features.points
    assert features.image.shape[1:] == (28, 28) and torch.isfinite(features.image).all()
    assert at_points.shape == (224 * 224, features.points.shape[1]) and torch.isfinite(at_points).all()
    assert features.valid.numpy()[sample.valid].all(), "each measured pixel has point features"

    cloud = sample.cloud()
    view = cloud_plot(cloud, color="photo")
    shown = view.objects[0]
    assert shown.positions.shape == cloud.points.shape and np.isfinite(shown.positions).all()
    red, green, blue = (np.asarray(shown.colors)[0] >> np.array([16, 8, 0])) & 255
    np.testing.assert_allclose([red, green, blue], cloud.colors[0] * 255, atol=1)


def test_detector_scores_it(root):
    detector = create_detector("cfm", encoders="tiny", device="cpu").fit(MVTec3D(root, "kinect", "train"), epochs=1)
    components = detector.components(MVTec3D(root, "kinect", "test"))
    maps = detector.fuse(components)
    assert maps.shape == (2, 224, 224) and torch.isfinite(maps).all() and (maps[~components.valid] >= 0).all()
    assert maps.flatten(1).std(1).min() > 0
