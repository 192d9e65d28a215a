"Captures and damage made to order: objects, defects and a camera, all computed, so that each defect is known to the pixel."
from .forge import forge, forge_labelled, forge_sample, list_categories, list_defects, sample_data
from .forge_clouds import forge_cloud, forge_clouds, list_cloud_categories, list_cloud_defects
from .synthetic import synthetic_anomaly

__all__ = ["forge", "forge_cloud", "forge_clouds", "forge_labelled", "forge_sample", "list_categories",
           "list_cloud_categories", "list_cloud_defects", "list_defects", "sample_data", "synthetic_anomaly"]
