"How each tiny network was made: lessons drawn by the forge, seeds, one call, curves."
from .encoders import pretrain_image, pretrain_points
from .lessons import forge_lessons
from .text import train_tiny_clip

__all__ = ["forge_lessons", "pretrain_image", "pretrain_points", "train_tiny_clip"]
