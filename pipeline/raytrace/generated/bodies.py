"""Things to put into a scene, each a list of shapes around its own origin: it stands on y = 0 and faces +x."""

import numpy as np

from pipeline.raytrace.generated.palette import Palette
from pipeline.raytrace.geometry import Shapes
from pipeline.raytrace.light import RGB
from pipeline.raytrace.scenes.kit import blade, limb, turn


def ball(palette: Palette, radius: float) -> Shapes:
    """A ball with a picture wrapped around it, its middle at the origin."""
    shapes = Shapes()
    shapes.ellipsoid((0, 0, 0), radius, palette.surface(radius * 1.6))
    return shapes


def crate(palette: Palette, size: float) -> Shapes:
    """A box with edges."""
    shapes, rng = Shapes(), palette.rng
    half = size * rng.uniform(0.35, 0.6, 3)
    shapes.box((0, half[1], 0), half.tolist(), palette.surface(size * 0.6))
    trim = palette.near((0.3, 0.22, 0.13), 0.4)
    for y in (0.04 * size, 2 * half[1] - 0.04 * size):
        shapes.box((0, y, 0), (half[0] * 1.03, 0.04 * size, half[2] * 1.03), "paint", tint=trim)
    return shapes


def vase(palette: Palette, height: float) -> Shapes:
    """A turned pot with a few stems."""
    shapes, rng = Shapes(), palette.rng
    name, tint = palette.surface(height * 0.5), palette.near((0.9, 0.9, 0.9), 0.1)
    r = height * float(rng.uniform(0.16, 0.26))
    shapes.cylinder((0, 0, 0), (0, 0.06 * height, 0), r * 0.7, name, tint=tint)
    shapes.ellipsoid((0, 0.30 * height, 0), (r, 0.28 * height, r), name, tint=tint)
    shapes.cylinder((0, 0.5 * height, 0), (0, 0.66 * height, 0), r * 0.45, name, tint=tint)
    shapes.ellipsoid((0, 0.66 * height, 0), (r * 0.6, 0.03 * height, r * 0.6), name, tint=tint)
    green: RGB = palette.near((0.12, 0.22, 0.05))
    for _ in range(int(rng.integers(3, 8))):
        lean = rng.normal(0, 0.28, 2) * height
        tip = np.array([lean[0], height * float(rng.uniform(1.0, 1.5)), lean[1]])
        blade(shapes, np.array([0, 0.62 * height, 0]), tip, 0.025 * height, "leaf", green)
        if rng.random() < 0.6:
            shapes.ellipsoid(tip, 0.06 * height, "cloth", tint=palette.colour((0.4, 0.9), (0.5, 0.9)))
    return shapes


def table(palette: Palette, width: float, height: float) -> Shapes:
    """A table whose top is at `height`."""
    shapes, name = Shapes(), palette.surface(0.8, calm=True)
    deep = width * float(palette.rng.uniform(0.5, 0.8))
    shapes.box((0, height - 0.025, 0), (width / 2, 0.025, deep / 2), name)
    for x in (-0.44, 0.44):
        for z in (-0.42, 0.42):
            shapes.cylinder(
                (x * width, 0, z * deep), (x * width, height - 0.05, z * deep), 0.028, "paint", tint=(0.2,) * 3
            )
    return shapes


def chair(palette: Palette) -> Shapes:
    """A chair with a slatted back."""
    shapes, tint = Shapes(), palette.colour((0.1, 0.6))
    shapes.box((0, 0.45, 0), (0.22, 0.02, 0.22), "cloth", tint=tint)
    for x in (-0.2, 0.2):
        for z in (-0.2, 0.2):
            shapes.cylinder((x, 0, z), (x, 0.44 if x > 0 else 0.95, z), 0.016, "paint", tint=tint)
    for y in (0.62, 0.75, 0.88):
        shapes.box((-0.2, y, 0), (0.012, 0.03, 0.2), "paint", tint=tint)
    return shapes


def shelf(palette: Palette, width: float, height: float) -> Shapes:
    """A rack of boards with books and pots, open at the back."""
    shapes, rng = Shapes(), palette.rng
    wood = palette.surface(0.9, calm=True)
    rows = max(2, round(height / 0.42))
    for side in (-0.5, 0.5):
        shapes.box((side * width, height / 2, 0), (0.015, height / 2, 0.14), wood)
    for row in range(rows + 1):
        y = row * height / rows
        shapes.box((0, y, 0), (width / 2, 0.012, 0.14), wood)
        x = -width / 2 + 0.04
        while row < rows and x < width / 2 - 0.1:
            thick, tall = float(rng.uniform(0.02, 0.07)), float(rng.uniform(0.5, 0.85)) * height / rows
            if rng.random() < 0.85:
                tint = palette.colour((0.05, 0.7), (0.2, 0.8))
                shapes.box((x + thick / 2, y + tall / 2, 0.0), (thick / 2, tall / 2, 0.10), "paint", tint=tint)
            x += thick + (0.004 if rng.random() < 0.8 else float(rng.uniform(0.05, 0.2)))
    return shapes


def floor_lamp(palette: Palette, height: float) -> Shapes:
    """A stand with a shade that glows and a bright bulb below it."""
    shapes = Shapes()
    shapes.cylinder((0, 0, 0), (0, 0.03, 0), 0.16, "iron")
    shapes.cylinder((0, 0, 0), (0, height, 0), 0.014, "iron")
    shapes.cylinder(
        (0, height - 0.14, 0), (0, height + 0.14, 0), 0.17, "shade", tint=palette.near((1, 0.9, 0.75), 0.15)
    )
    shapes.ellipsoid((0, height - 0.19, 0), 0.03, "bulb", tint=(1.0, 0.75, 0.45))
    return shapes


def rock(palette: Palette, size: float) -> Shapes:
    """A boulder of three lumps."""
    shapes, rng, tint = Shapes(), palette.rng, palette.near((0.27, 0.25, 0.22), 0.25)
    for part in range(3):
        scale = size * (0.5, 0.36, 0.28)[part]
        at = ((0, 0.55, -0.5)[part] * size, scale * 0.4, (0, -0.3, 0.2)[part] * size)
        radii = (scale * rng.uniform(0.75, 1.2, 3)).tolist()
        shapes.ellipsoid(at, radii, "rock", turn=turn(yaw=float(rng.uniform(0, 6)), roll=0.2), tint=tint)
    return shapes


def bush(palette: Palette, size: float) -> Shapes:
    """A round shrub, with flowers now and then."""
    shapes, rng, green = Shapes(), palette.rng, palette.near((0.10, 0.16, 0.045), 0.35)
    flower = palette.colour((0.5, 0.9), (0.5, 0.9)) if rng.random() < 0.5 else None
    for _ in range(6):
        offset = rng.uniform(-0.3, 0.3, 3) * size + np.array([0, 0.38 * size, 0])
        radius = size * float(rng.uniform(0.22, 0.34))
        shapes.ellipsoid(offset, (radius, radius * 0.85, radius), "leaves", tint=palette.near(green, 0.2))
    for _ in range(10 if flower else 0):
        direction = rng.normal(0, 1, 3)
        direction[1] = abs(direction[1])
        at = direction / np.linalg.norm(direction) * size * 0.52 + np.array([0, 0.35 * size, 0])
        shapes.ellipsoid(at, 0.04 * size, "cloth", tint=flower or (1.0, 1.0, 1.0))
    return shapes


def wheel(palette: Palette, radius: float, spokes: int, *, blades: bool = False) -> Shapes:
    """A spoked wheel, or a fan with flat blades, around the origin; it turns about z."""
    shapes, tint = Shapes(), palette.colour((0.15, 0.8), (0.2, 0.9))
    hub, rim = palette.colour((0.2, 0.8)), palette.near((0.05, 0.05, 0.055))
    count = 0 if blades else 28
    for i in range(count):
        a, b = 2 * np.pi * i / count, 2 * np.pi * (i + 1.06) / count
        start, end = (np.array([np.cos(t), np.sin(t), 0.0]) * radius for t in (a, b))
        shapes.cylinder(start, end, 0.055 * radius, "paint", tint=rim if i % 7 else tint)
    for i in range(spokes):
        angle = 2 * np.pi * i / spokes
        along = np.array([np.cos(angle), np.sin(angle), 0.0])
        if blades:
            across = np.array([-np.sin(angle), np.cos(angle), 0.35])
            shapes.rect(along * radius * 0.58, along * radius * 0.42, across * radius * 0.16, "paint", tint=tint)
        else:
            shapes.cylinder(along * 0.1 * radius, along * radius, 0.022 * radius, "paint", tint=tint)
    shapes.cylinder((0, 0, -0.06 * radius), (0, 0, 0.06 * radius), 0.15 * radius, "paint", tint=hub)
    return shapes


def grating(
    palette: Palette, spacing: float, width: float, height: float, *, thick: float, cross: bool, flat: bool
) -> Shapes:
    """Bars around x = 0 in the plane z = 0, from y = 0 up: rods or boards, with crossing bars or two rails."""
    shapes = Shapes()
    tint = palette.colour((0.03, 0.7), (0.0, 0.6))
    for i in range(-int(width / spacing / 2), int(width / spacing / 2) + 1):
        x = i * spacing
        if flat:
            shapes.box((x, height / 2, 0), (thick, height / 2, 0.009), "stone", tint=tint)
        else:
            shapes.cylinder((x, 0, 0), (x, height, 0), thick, "paint", tint=tint)
    rows = np.arange(spacing, height, spacing) if cross else np.array([0.18, 0.86]) * height
    for y in rows.tolist():
        shapes.box((0, y, 0.012), (width / 2, thick * 0.8, 0.008), "stone", tint=tint)
    return shapes


def animal(palette: Palette, phase: float, *, tall: float, coat: RGB, neck: float, legs: float) -> Shapes:
    """A four-legged animal of height 1 at `tall` = 1, walking towards +x.

    Args:
        palette: has "fur" and "iron".
        phase: one full step of all legs per 2 pi, radians.
        tall: height at the shoulder, metres.
        coat: linear colour.
        neck: how far the head is carried up: 0 a dog's, 1 a deer's.
        legs: part of the height that is legs, 0.4 to 0.65.
    """
    shapes = Shapes()
    bob, dark = 0.015 * np.sin(2 * phase), (coat[0] * 0.5, coat[1] * 0.5, coat[2] * 0.5)
    back, deep = 1.0 - 0.5 * (1 - legs), (1 - legs) * 0.5

    def place(x: float, y: float, z: float) -> np.ndarray:
        return np.array([x, y, z]) * tall

    def lump(x: float, y: float, radii: tuple[float, float, float], tilt: float, tint: RGB) -> None:
        r = tuple(tall * v for v in radii)
        shapes.ellipsoid(place(x, y + bob, 0), r, "fur", turn=turn(roll=tilt), tint=tint, anchor=np.array([x, y, 0.0]))

    for x, size in ((-0.48, 0.95), (-0.22, 0.98), (0.06, 1.0), (0.34, 1.05)):
        lump(x, back, (0.30, deep * size, deep * 0.8 * size), 0.0, coat)
    head = (0.72 + 0.06 * (1 - neck), back + 0.12 + 0.42 * neck + 0.02 * np.sin(2 * phase + 1))
    middle = ((0.45 + head[0]) / 2, (back + 0.05 + head[1]) / 2)
    angle = float(np.arctan2(head[1] - back, head[0] - 0.4))
    lump(middle[0], middle[1], (0.16 + 0.14 * neck, 0.10, 0.09), angle, coat)
    lump(head[0] + 0.05, head[1] + 0.03, (0.17, 0.09, 0.085), -0.3, coat)
    lump(head[0] + 0.20, head[1] - 0.03, (0.08, 0.05, 0.05), -0.3, dark)
    for side in (-1, 1):
        ear = place(head[0] - 0.02, head[1] + 0.14 + bob, 0.06 * side)
        shapes.ellipsoid(ear, (0.03 * tall, 0.07 * tall, 0.02 * tall), "fur", turn=turn(roll=0.3), tint=dark)
        shapes.ellipsoid(place(head[0] + 0.12, head[1] + 0.06 + bob, 0.065 * side), 0.013 * tall, "iron")
        for x, shift in ((0.40, 0.0), (-0.50, np.pi / 2)):
            swing = phase + shift + (np.pi if side > 0 else 0.0)
            lift = 0.09 * max(0.0, float(np.cos(swing)))
            hip = place(x, legs + 0.08 + bob, 0.11 * side)
            knee = place(x + 0.10 * np.sin(swing) + 0.03, legs * 0.5 + lift * 0.5, 0.11 * side)
            foot = place(x + 0.24 * np.sin(swing), 0.03 + lift, 0.11 * side)
            limb(shapes, hip, knee, 0.085 * tall, 0.05 * tall, "fur", coat)
            limb(shapes, knee, foot, 0.048 * tall, 0.034 * tall, "fur", dark)
    wag = 0.12 * np.sin(phase)
    limb(shapes, place(-0.72, back + 0.05, 0), place(-0.98, back - 0.15, wag), 0.04 * tall, 0.02 * tall, "fur", coat)
    return shapes
