"How each tiny network was made: lessons drawn by the forge, seeds, one call, curves."
from .diffusion import train_tiny_diffusion
from .encoders import pretrain_image, pretrain_points
from .lessons import forge_lessons
from .normals import NormalUNet, forge_normal_lessons, train_tiny_normals
from .pointnet2 import forge_surface_lessons, train_tiny_pointnet2
from .text import train_tiny_clip

__all__ = ["NormalUNet", "forge_lessons", "forge_normal_lessons", "forge_surface_lessons", "pretrain_image", "pretrain_points",
           "train_tiny_clip", "train_tiny_diffusion", "train_tiny_normals", "train_tiny_pointnet2"]
