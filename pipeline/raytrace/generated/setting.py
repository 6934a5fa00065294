"""What all families share: drawn cameras, thin things near the lens, people and animals, flying things, the finished scene."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pipeline.raytrace.camera import Pose
from pipeline.raytrace.generated import actors, bodies
from pipeline.raytrace.generated.light import changing, step, wave
from pipeline.raytrace.generated.palette import Palette
from pipeline.raytrace.geometry import Point, Shapes
from pipeline.raytrace.light import Lighting
from pipeline.raytrace.scenes.kit import blade
from pipeline.raytrace.world import RayScene

FPS = 24.0
APART_M, PLACES_TRIED = 1.4, 12  # an animal is about as long
LATTICE = 0.4  # of a fence's board: at their widest, three fifths of the view stay open


@dataclass(kw_only=True)
class Setting:
    """A scene in the making.

    Args:
        family, seed: name it, and seed all its drawings.
        pace: factor on all speeds: 1 for lively clips, about 0.2 for calm ones.
        version: of the generator.
    """

    family: str
    seed: int
    pace: float = 1.0
    version: int = 1
    fixed: Shapes = field(default_factory=Shapes)
    cast: list[actors.Actor] = field(default_factory=list)
    palette: Palette = field(init=False)

    def __post_init__(self) -> None:
        self.palette = Palette("generated", self.family, self.seed)
        self.rng = self.palette.rng
        self._taken: list[tuple[float, float]] = []  # where somebody stands

    def put(self, body: Shapes, position: Point, yaw: float | None = None, scale: float = 1.0) -> None:
        """Add a body that stands still, turned by any angle if none is given."""
        angle = float(self.rng.uniform(0, 2 * np.pi)) if yaw is None else yaw
        self.fixed = self.fixed.extend(actors.placed(body, position, actors.turn(yaw=angle), scale))

    def speed(self, low: float, high: float) -> float:
        """A speed between two bounds, evenly over its logarithm, times the pace; m/s."""
        return self.pace * float(np.exp(self.rng.uniform(np.log(low), np.log(high))))

    def someone(self, x: tuple[float, float], z: tuple[float, float], *, beasts: float = 0.3) -> None:
        """A walker or (with probability `beasts`) an animal, who walks to the left or right."""
        at = self._free_place(x, z)
        heading = float(self.rng.choice([0.0, np.pi])) + float(self.rng.normal(0, 0.35))
        phase, speed = float(self.rng.uniform(0, 6.3)), self.speed(0.5, 1.8)
        if self.rng.random() < beasts:
            self.cast.append(actors.beast(self.palette, at, speed, heading, phase=phase))
        else:
            tall = float(self.rng.choice([1.75, 1.65, 1.85, 1.15]))
            self.cast.append(actors.walker(self.palette, at, speed, heading, tall=tall, phase=phase))

    def _free_place(self, x: tuple[float, float], z: tuple[float, float]) -> tuple[float, float, float]:
        """A place on the ground where nobody stands yet, as far as some draws find one."""
        for _ in range(1 if self.version == 1 else PLACES_TRIED):
            at = float(self.rng.uniform(*x)), float(self.rng.uniform(*z))
            if self.is_free(*at, APART_M):
                break
        self._taken.append(at)
        return at[0], 0.0, at[1]

    def is_free(self, x: float, z: float, apart_m: float) -> bool:
        """Whether nobody stands within `apart_m` metres of a place on the ground."""
        return all(np.hypot(x - other[0], z - other[1]) >= apart_m for other in self._taken)

    def something_that_moves(self, x: float, z: tuple[float, float], top: float) -> None:
        """A ball, a thrown crate, a pendulum or a fan somewhere in the middle of the scene."""
        rng, kind = self.rng, int(self.rng.integers(4))
        at = np.array([rng.uniform(-x, x), rng.uniform(0.3, 0.7) * top, rng.uniform(*z)])
        size = float(rng.uniform(0.07, 0.14)) * at[2] ** 0.5
        sign = -float(np.sign(at[0]) or 1.0)
        if kind == 0:
            v = (sign * self.speed(0.6, 5), 0.0, float(rng.uniform(-0.3, 0.3)) * self.pace)
            period, phase = 0.7 / max(self.pace, 0.2), float(rng.random())
            path = actors.bouncing((at[0], size, at[2]), v, height=0.5 * top, period_s=period, phase=phase, radius=size)
            self.cast.append(actors.rigid(bodies.ball(self.palette, size), path))
        elif kind == 1:
            spin = (rng.normal(0, 5, 3) * self.pace).tolist()
            path = actors.straight(at, (sign * self.speed(0.5, 5), 0.0, 0.0), spin=spin)
            self.cast.append(actors.rigid(bodies.crate(self.palette, 2 * size), path))
        elif kind == 2:
            hook = (float(at[0]), top, float(at[2]))
            path = actors.swinging(hook, 0.5 * top, 0.6, 1.4 / max(self.pace, 0.2), float(rng.uniform(0, 6.3)))
            self.cast.append(actors.rigid(bodies.ball(self.palette, 1.3 * size), path))
        else:
            spin = (0.0, 0.0, sign * self.speed(2, 20))
            fan = bodies.wheel(self.palette, 2.2 * size, int(rng.integers(3, 7)), blades=True)
            self.cast.append(actors.rigid(fan, actors.straight(at, (0.0, 0.0, 0.0), spin=spin)))

    def near_the_lens(self, eye: tuple[float, float, float]) -> None:
        """Thin things 0.6 to 1.5 m before the camera: a fence, twigs, hanging threads with beads, or nothing."""
        rng, kind = self.rng, float(self.rng.random())
        z = eye[2] + float(rng.uniform(0.7, 1.4))
        if kind < 0.22:
            spacing, flat = float(rng.uniform(0.08, 0.22)), bool(rng.random() < 0.4)
            thick = spacing * float(rng.uniform(0.12, 0.3)) if flat else float(rng.uniform(0.004, 0.012))
            top, cross = eye[1] + float(rng.uniform(-0.15, 0.6)), bool(rng.random() < 0.4)
            if self.version > 1 and flat and cross:  # boards as wide as a fence's hide four fifths
                thick *= LATTICE
            fence = bodies.grating(self.palette, spacing, 3.4, top, thick=thick, cross=cross, flat=flat)
            self.put(fence, (eye[0], 0.0, z), yaw=float(rng.normal(0, 0.15)))
        elif kind < 0.55:
            self._twigs(eye, z)
        elif kind < 0.7:
            for _ in range(int(rng.integers(3, 8))):
                x, low = eye[0] + float(rng.uniform(-0.6, 0.6)), eye[1] + float(rng.uniform(-0.2, 0.25))
                self.fixed.cylinder((x, low, z), (x, eye[1] + 1.2, z), 0.003, "iron")
                for k in range(3):
                    tint = self.palette.colour((0.3, 0.9), (0.4, 0.9))
                    self.fixed.ellipsoid((x, low + 0.13 * k, z), float(rng.uniform(0.012, 0.03)), "paint", tint=tint)

    def _twigs(self, eye: tuple[float, float, float], z: float) -> None:
        rng, green = self.rng, self.palette.near((0.14, 0.22, 0.05), 0.5)
        for _ in range(int(rng.integers(1, 4))):
            side = float(rng.choice([-1, 1]))
            root = np.array(
                [eye[0] + side * 0.8, eye[1] + float(rng.uniform(-0.5, 0.5)), z + float(rng.normal(0, 0.1))]
            )
            tip = root + np.array([-side * float(rng.uniform(0.4, 0.9)), float(rng.normal(0, 0.15)), 0.0])
            self.fixed.cylinder(root, tip, 0.005, "bark")
            for _ in range(int(rng.integers(8, 18))):
                at = root + (tip - root) * float(rng.uniform(0.2, 1.0))
                drop = rng.normal(0, 1, 3)
                drop[1] -= 0.6
                drop *= float(rng.uniform(0.05, 0.12)) / np.linalg.norm(drop)
                blade(self.fixed, at, at + drop, 0.016, "leaf", self.palette.near(green, 0.25))

    def camera(self, eye: tuple[float, float, float], target: tuple[float, float, float]) -> Callable[[float], Pose]:
        """A drawn move: still, sideways, towards, around, a pan, up or down; often with an unsteady hand."""
        rng, kind = self.rng, int(self.rng.integers(6))
        ahead = np.asarray(target) - np.asarray(eye)
        distance = float(np.linalg.norm(ahead))
        sign, v = float(rng.choice([-1, 1])), self.speed(0.06, 1.6)
        side, shake = np.array([sign, 0.0, 0.0]), float(rng.choice([0.0, 0.004, 0.012])) * distance * self.pace
        truck, pan = np.zeros(3), np.zeros(3)
        if kind == 1:
            truck = side * v
        elif kind == 2:
            truck = ahead / distance * min(v, 0.8)
        elif kind == 3:
            truck, pan = side * v, -side * v
        elif kind == 4:
            pan = side * v * distance * 0.35
        elif kind == 5:
            truck = np.array([0.0, sign * min(v, 0.6), 0.0])
        return actors.camera_path(eye, target, truck=truck, pan=pan, shake=shake)

    def light(self, lighting: Lighting) -> Lighting | Callable[[float], Lighting]:
        """In one lively scene of four the light changes while the camera runs."""
        rng = self.rng
        if rng.random() > 0.25 * min(1.0, self.pace):
            return lighting
        if rng.random() < 0.5:
            return changing(lighting, wave(float(rng.uniform(0.4, 0.8)), 1.1, float(rng.uniform(0.2, 1.2)), 0.0))
        return changing(lighting, step(1.0, float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.1, 0.6)), 0.25))

    def scene(
        self,
        path: Callable[[float], Pose],
        lighting: Lighting,
        low: tuple[float, float, float],
        high: tuple[float, float, float],
    ) -> RayScene:
        """The finished scene; `low` and `high` are the corners of the box with detailed shadows, metres."""
        return RayScene(
            name=f"generated-{self.family}",
            seed=self.seed,
            f_mm=float(self.rng.uniform(26, 58)),
            materials=self.palette.materials,
            fixed=self.fixed,
            moving=actors.cast_of(self.cast),
            path=path,
            lighting=self.light(lighting),
            low=low,
            high=high,
            fps=FPS,
        )
