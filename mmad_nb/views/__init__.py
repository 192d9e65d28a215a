"A cloud seen from many sides: cameras, pictures, and the way between points and pixels."
from .render import Cameras, Views, create_cameras, render

__all__ = ["Cameras", "Views", "create_cameras", "render"]
