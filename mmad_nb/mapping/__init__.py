"Networks that guess the features of one sensor from those of another, and from words."
from .crossmodal import (FeatureMapper, PatchPanel, TrainingItem, check_features, choose_pixels, create_mappers, crossmodal_loss, distance_maps,
                         disturb, feature_distance, load_mapper, map_pixels, masked_cosine_loss)
from .contrastive import (AbnormalPrompts, LabelledItem, PromptText, anchors, contrastive_loss, create_prompt_modules, encode_prompts,
                          ensemble_sentences, labelled_item, prompt_loss, prompt_sentences, psi_maps, psi_text)
from .geometry_aware import GatePanel, GeometryAwareMapper, TwoLayerMapper, create_geometry_mappers, gate_map, override_gate
from .memory import greedy_coreset, nearest, random_projection, reweight
from .text_adaptor import (AnchorPanel, TextAdaptor, TopKExperts, category_words, create_text_mappers, drop_nonfinite, object_sentences, read_category,
                           sentence_vectors, text_loss, text_maps, total_loss)

__all__ = ["FeatureMapper", "PatchPanel", "TrainingItem", "check_features", "choose_pixels", "create_mappers", "crossmodal_loss", "distance_maps",
           "disturb", "feature_distance", "load_mapper", "map_pixels", "masked_cosine_loss",
           "AbnormalPrompts", "LabelledItem", "PromptText", "anchors", "contrastive_loss", "create_prompt_modules", "encode_prompts",
           "ensemble_sentences", "labelled_item", "prompt_loss", "prompt_sentences", "psi_maps", "psi_text",
           "greedy_coreset", "nearest", "random_projection", "reweight",
           "GatePanel", "GeometryAwareMapper", "TwoLayerMapper", "create_geometry_mappers", "gate_map", "override_gate",
           "AnchorPanel", "TextAdaptor", "TopKExperts", "category_words", "create_text_mappers", "drop_nonfinite", "object_sentences", "read_category",
           "sentence_vectors", "text_loss", "text_maps", "total_loss"]
