"""The demo scenes, one module each with `build(seed)`."""

from pipeline.raytrace.scenes import bear, fence, night

BUILDERS = {"bear": bear.build, "fence": fence.build, "night": night.build}
