"Words for what is whole and for what is broken."
from .geometry import GDDM, GeometryPrompts, learn_prototypes
from .learnable import LearnablePrompts, dice_loss, enlarged, focal_loss, load_prompts, pixel_loss, similarity, similarity_maps
from .multimodal import DecoupledPrompts, dual_contrast, modulate, triplet_contrast
from .states import (AbnormalPrompts, LabelledItem, PromptText, Sentences, anchors, contrastive_loss, create_prompt_modules, encode_prompts,
                     ensemble_sentences, labelled_item, prompt_loss, prompt_sentences, psi_maps, psi_text)

__all__ = ["AbnormalPrompts", "DecoupledPrompts", "GDDM", "GeometryPrompts", "LabelledItem", "LearnablePrompts", "PromptText",
           "Sentences", "anchors", "contrastive_loss", "create_prompt_modules", "dice_loss", "dual_contrast", "encode_prompts",
           "enlarged", "ensemble_sentences", "focal_loss", "labelled_item", "learn_prototypes", "load_prompts",
           "modulate", "pixel_loss", "prompt_loss", "prompt_sentences", "psi_maps", "psi_text", "similarity", "similarity_maps", "triplet_contrast"]
