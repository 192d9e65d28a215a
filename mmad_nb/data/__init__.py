"What the sensor saw: samples and clouds, read from disk and made ready for the encoders."
from .clouds import AnomalyShapeNet, PCD, Real3D, read_labelled_points, read_pcd
from .datasets import MVTec3D, prepare_dataset, read_manifest, read_mask, read_rgb, read_sample, read_xyz
from .eyecandies import Eyecandies, read_depth, unproject
from .prepare import find_foreground, prepare, square
from .sample import Cloud, Sample

__all__ = ["AnomalyShapeNet", "Cloud", "Eyecandies", "MVTec3D", "PCD", "Real3D", "Sample", "find_foreground",
           "prepare", "prepare_dataset", "read_depth", "read_labelled_points", "read_manifest", "read_mask",
           "read_pcd", "read_rgb", "read_sample", "read_xyz", "square", "unproject"]
