"What the sensor saw: samples and clouds, forged or read from disk, and made ready for the encoders."
from .clouds import AnomalyShapeNet, PCD, Real3D, read_labelled_points, read_pcd
from .datasets import MVTec3D, prepare_dataset, read_manifest, read_mask, read_rgb, read_sample, read_xyz
from .eyecandies import Eyecandies, read_depth, unproject
from .forge import forge, forge_sample, list_categories, list_defects, sample_data
from .forge_clouds import forge_cloud, forge_clouds, list_cloud_categories, list_cloud_defects
from .prepare import find_foreground, prepare, square
from .sample import Cloud, Sample
from .synthetic import synthetic_anomaly

__all__ = ["AnomalyShapeNet", "Cloud", "Eyecandies", "MVTec3D", "PCD", "Real3D", "Sample", "find_foreground", "forge",
           "forge_cloud", "forge_clouds", "forge_sample", "list_categories", "list_cloud_categories", "list_cloud_defects",
           "list_defects", "prepare", "prepare_dataset", "read_depth", "read_labelled_points", "read_manifest", "read_mask",
           "read_pcd", "read_rgb", "read_sample", "read_xyz", "sample_data", "square", "synthetic_anomaly", "unproject"]
