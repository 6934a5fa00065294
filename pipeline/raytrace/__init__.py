"""A small analytic ray tracer: scenes that need no download, with exact depth and true thin-lens photographs.

    scene = build_scene("bear")
    frame = render_frame(scene, 0, width=320, height=192)                    # linear light, sRGB, z-depth
    lens = scene.lens(f_number=2.0, focus_m=3.9)                             # the scene's own focal length
    photo = render_photograph(scene, 0, lens, width=320, height=192)         # linear light
    photo = render_layers((cut_out, behind), lens, px_per_mm=40, margin_px=24) # pictures on planes instead of a scene

What it is: exact hits of simple shapes, baked textures, one sun, sky light, mirrors on wet ground. What it is not: a path
tracer. It imports nothing of ours but the optics.
"""

from pipeline.raytrace.layered import Plane, render_layers
from pipeline.raytrace.photograph import psnr_db, render_photograph
from pipeline.raytrace.render import Frame, render_frame, to_srgb8
from pipeline.raytrace.scenes import BUILDERS
from pipeline.raytrace.world import RayScene, RaytraceError
from pipeline.raytrace.write import SceneRequest, scene_requests, write_scene
from pipeline.raytrace.write_all import write_scenes

SCENES: tuple[str, ...] = tuple(BUILDERS)


def build_scene(name: str, seed: int = 0) -> RayScene:
    """A demo scene by name.

    Args:
        name: one of `SCENES`.
        seed: 0 is the canonical scene, any other integer >= 0 a variation of it.

    Raises:
        RaytraceError: unknown name or negative seed.
    """
    if name not in BUILDERS:
        raise RaytraceError(f"scene must be one of {', '.join(SCENES)}, got {name!r}")
    if seed < 0:
        raise RaytraceError(f"seed must be >= 0, got {seed}")
    return BUILDERS[name](seed)


__all__ = [
    "SCENES",
    "Frame",
    "Plane",
    "RayScene",
    "RaytraceError",
    "SceneRequest",
    "build_scene",
    "psnr_db",
    "render_frame",
    "render_layers",
    "render_photograph",
    "scene_requests",
    "to_srgb8",
    "write_scene",
    "write_scenes",
]
