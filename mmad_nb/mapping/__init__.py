"Networks that guess the features of one sensor from those of another, and from words; and a memory that guesses nothing."
from .alignment import Aligner, alignment_loss, patch_weights
from .coordinate_aware import (CoordinateAttention, CoordinateMapper, SelectorPanel, StreamItem, coordinate_loss, create_coordinate_mappers,
                               layer_distances, layer_losses, load_coordinate_mapper, pixel_distances, selector_shares, stream_loss, stream_maps)
from .crossmodal import (FeatureMapper, PatchPanel, TrainingItem, check_features, choose_pixels, create_mappers, crossmodal_loss, distance_maps,
                         disturb, feature_distance, load_mapper, map_pixels, masked_cosine_loss)
from .geometry_aware import GatePanel, GeometryAwareMapper, TwoLayerMapper, create_geometry_mappers, gate_map, override_gate
from .memory import greedy_coreset, nearest, random_projection, reweight
from .text_adaptor import (AnchorPanel, TextAdaptor, TopKExperts, category_words, create_text_mappers, drop_nonfinite, object_sentences,
                           read_category, sentence_vectors, text_loss, text_maps, total_loss)

__all__ = ["Aligner", "AnchorPanel", "CoordinateAttention", "CoordinateMapper", "FeatureMapper", "GatePanel",
           "GeometryAwareMapper", "PatchPanel", "SelectorPanel", "StreamItem", "TextAdaptor", "TopKExperts",
           "TrainingItem", "TwoLayerMapper", "alignment_loss", "category_words", "check_features", "choose_pixels", "coordinate_loss",
           "create_coordinate_mappers", "create_geometry_mappers", "create_mappers", "create_text_mappers",
           "crossmodal_loss", "distance_maps", "disturb", "drop_nonfinite", "feature_distance", "gate_map",
           "greedy_coreset", "layer_distances", "layer_losses", "load_coordinate_mapper", "load_mapper",
           "map_pixels", "masked_cosine_loss", "nearest", "object_sentences", "override_gate", "patch_weights", "pixel_distances",
           "random_projection", "read_category", "reweight", "selector_shares", "sentence_vectors", "stream_loss",
           "stream_maps", "text_loss", "text_maps", "total_loss"]
