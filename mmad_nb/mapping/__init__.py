"Networks that guess the features of one sensor from those of another."
from .crossmodal import (FeatureMapper, PatchPanel, TrainingItem, bfloat16_pays, check_features, choose_pixels, create_mappers, crossmodal_loss, distance_maps,
                         disturb, feature_distance, load_mapper, map_pixels, masked_cosine_loss)

__all__ = ["FeatureMapper", "PatchPanel", "TrainingItem", "check_features", "choose_pixels", "create_mappers", "crossmodal_loss", "distance_maps",
           "bfloat16_pays", "disturb", "feature_distance", "load_mapper", "map_pixels", "masked_cosine_loss"]
