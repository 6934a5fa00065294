"""Drawn light: hours of the day outdoors, lamps indoors, and light that changes with time."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pipeline.raytrace.generated.palette import Palette, clouds
from pipeline.raytrace.light import RGB, Lighting

HOURS = ("noon", "golden", "overcast", "dusk", "night")


def _times(colour: RGB, factor: float) -> RGB:
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


def outdoors(palette: Palette, hour: str, lamps: tuple[tuple[RGB, RGB], ...] = ()) -> Lighting:
    """Sun and sky at one of `HOURS`; `lamps` shine from dusk on."""
    rng = palette.rng
    side = float(rng.uniform(-0.9, 0.9))
    sun, height, zenith, horizon, level = {
        "noon": ((2.4, 2.2, 1.9), 0.95, (0.26, 0.46, 0.85), (0.75, 0.85, 0.95), 1.0),
        "golden": ((2.7, 1.75, 0.9), 0.32, (0.28, 0.42, 0.72), (1.0, 0.78, 0.55), 0.9),
        "overcast": ((0.25, 0.25, 0.25), 0.9, (0.85, 0.9, 0.95), (0.95, 0.97, 1.0), 0.95),
        "dusk": ((0.25, 0.13, 0.08), 0.22, (0.10, 0.14, 0.32), (0.65, 0.38, 0.30), 0.45),
        "night": ((0.0, 0.0, 0.0), 0.8, (0.014, 0.022, 0.055), (0.06, 0.065, 0.11), 0.08),
    }[hour]
    cover = 1.0 if hour == "overcast" else float(rng.uniform(0.1, 0.7))
    return Lighting(
        sun_direction=(side, height, -float(rng.uniform(0.3, 0.8))),
        sun=palette.near(sun, 0.1),
        zenith=palette.near(zenith, 0.12),
        horizon=palette.near(horizon, 0.08),
        ground=_times(palette.near((0.22, 0.19, 0.14), 0.2), level),
        haze=_times(palette.near((0.76, 0.80, 0.85), 0.1), level),
        haze_m=float(rng.uniform(90, 260)),
        clouds=None if hour == "night" else clouds(palette.seed % 10_000, cover),
        cloud=_times((1.0, 0.97, 0.94), level),
        lamps=lamps if hour in ("dusk", "night") else (),
    )


def indoors(palette: Palette, level: float, lamps: tuple[tuple[RGB, RGB], ...], *, sun: bool) -> Lighting:
    """A room: even light of a given level, lamps, and a sun that comes in from the right when there is a window."""
    tone = palette.near((1.0, 0.93, 0.82), 0.12)
    low = float(palette.rng.uniform(0.5, 0.9))
    return Lighting(
        sun_direction=(0.85, low, -float(palette.rng.uniform(0.05, 0.5))),
        sun=palette.near((2.6, 2.1, 1.5), 0.1) if sun else (0.0, 0.0, 0.0),
        zenith=_times(tone, level),
        horizon=_times(tone, level),
        ground=_times(tone, level * 0.45),
        haze=_times(tone, level),
        haze_m=1e5,
        lamps=lamps,
    )


def dimmed(lighting: Lighting, factor: float) -> Lighting:
    """All of it brighter or darker."""
    return replace(
        lighting,
        sun=_times(lighting.sun, factor),
        zenith=_times(lighting.zenith, factor),
        horizon=_times(lighting.horizon, factor),
        ground=_times(lighting.ground, factor),
        haze=_times(lighting.haze, factor),
        cloud=_times(lighting.cloud, factor),
        lamps=tuple((place, _times(power, factor)) for place, power in lighting.lamps),
    )


def changing(lighting: Lighting, level: Callable[[float], float]) -> Callable[[float], Lighting]:
    """Light that follows a level over time."""
    return lambda time_s: dimmed(lighting, level(time_s))


def wave(low: float, high: float, period_s: float, phase: float) -> Callable[[float], float]:
    """A level that swings smoothly between two values."""
    return lambda t: low + (high - low) * (0.5 + 0.5 * float(np.sin(2 * np.pi * t / period_s + phase)))


def step(before: float, after: float, at_s: float, over_s: float) -> Callable[[float], float]:
    """A level that changes once, within `over_s` seconds around `at_s`."""

    def level(t: float) -> float:
        u = float(np.clip((t - at_s) / over_s + 0.5, 0, 1))
        return before + (after - before) * u * u * (3 - 2 * u)

    return level
