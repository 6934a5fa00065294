"""Which engine makes the frames: the one that was asked for, or the best that is there, and why."""

from collections.abc import Iterable
from dataclasses import fields

from model.video.interpolate.settings import InterpolateSettings
from pipeline.engines import engine_class, load_engine
from pipeline.engines.interpolation.context import Interpolator
from pipeline.errors import UsageError


def choose_interpolator(settings: InterpolateSettings, ts: Iterable[float]) -> tuple[Interpolator, str]:
    """The engine, and what to say of it.

    Args:
        ts: where the frames to be made lie between given ones, in (0, 1).

    Raises:
        UsageError: there is no such engine, it cannot be had here, or it cannot make a frame at one of these instants.
    """
    wanted = sorted(set(ts))
    if settings.interpolator != "auto":
        engine = _ready(settings, settings.interpolator, wanted)
        return engine, f"interpolator: {settings.interpolator}, since --interpolator asks for it"
    passed = []
    for name in ("lift", "rife"):
        if name == "lift" and settings.checkpoint is None:
            passed.append("lift: no --checkpoint was given")
            continue
        try:
            engine = _ready(settings, name, wanted)
        except UsageError as error:
            if settings.checkpoint is not None and name == "lift":
                raise  # it was given to be used
            passed.append(f"{name}: {str(error).splitlines()[0].rstrip(':')}")
            continue
        why = "a checkpoint was given" if name == "lift" else f"its weights are here ({'; '.join(passed)})"
        return engine, f"interpolator: {name}, since {why}"
    return _ready(settings, "flow", wanted), f"interpolator: flow, optical flow without a network ({'; '.join(passed)})"


def _ready(settings: InterpolateSettings, name: str, ts: list[float]) -> Interpolator:
    known = {item.name for item in fields(engine_class("interpolate", name).Options)}
    options = dict(settings.options)
    if settings.interpolator == "auto":  # options of one engine do not fit the next
        options = {key: value for key, value in options.items() if key in known}
    if name == "lift" and settings.checkpoint is not None:
        options["checkpoint"] = str(settings.checkpoint)
    engine = load_engine("interpolate", name, options, settings.device, Interpolator)
    for t in ts:
        engine.check_t(t)
    return engine
