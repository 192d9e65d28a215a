"Words for what is whole and for what is broken."
from .states import (AbnormalPrompts, LabelledItem, PromptText, Sentences, anchors, contrastive_loss, create_prompt_modules, encode_prompts,
                     ensemble_sentences, labelled_item, prompt_loss, prompt_sentences, psi_maps, psi_text)

__all__ = ["AbnormalPrompts", "LabelledItem", "PromptText", "Sentences", "anchors", "contrastive_loss", "create_prompt_modules",
           "encode_prompts", "ensemble_sentences", "labelled_item", "prompt_loss", "prompt_sentences", "psi_maps",
           "psi_text"]
