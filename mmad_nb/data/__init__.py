"What the sensor saw: samples and clouds, read from disk and made ready for the encoders."
from .clouds import AnomalyShapeNet, CloudTable, Real3D, read_labelled_points, read_pcd, read_ply, read_table
from .datasets import MVTec3D, prepare_dataset, read_manifest, read_mask, read_rgb, read_sample, read_xyz
from .eyecandies import Eyecandies, read_depth, unproject
from .neighbours import cloud_normals, knn, with_normals
from .prepare import find_foreground, prepare, square
from .roads import Roads
from .sample import Cloud, Sample

__all__ = ["AnomalyShapeNet", "Cloud", "CloudTable", "Eyecandies", "MVTec3D", "Real3D", "Roads", "Sample",
           "cloud_normals", "find_foreground", "knn", "prepare", "prepare_dataset", "read_depth", "read_labelled_points", "read_manifest",
           "read_mask", "read_pcd", "read_ply", "read_rgb", "read_sample", "read_table", "read_xyz", "square", "unproject", "with_normals"]
