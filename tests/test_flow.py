"""Exact flow of the ray tracer against closed formulas, and against the pictures that it must explain."""

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from pipeline.optics import px_per_mm
from pipeline.raytrace import RaytraceError, render_frame
from pipeline.raytrace.camera import Pose
from pipeline.raytrace.flow import exact_flow
from pipeline.raytrace.generated import generate
from pipeline.raytrace.generated.actors import rigid, straight, turn
from pipeline.raytrace.generated.light import changing, dimmed
from pipeline.raytrace.geometry import Shapes
from pipeline.raytrace.light import Lighting
from pipeline.raytrace.material import Material
from pipeline.raytrace.textures import noise
from pipeline.raytrace.world import RayScene

W, H, F_MM = 96, 64, 50.0
FOCAL_PX = F_MM * px_per_mm(W)
DARK = Lighting(
    sun_direction=(0, 1, -1),
    sun=(0, 0, 0),
    zenith=(0, 0, 0),
    horizon=(0, 0, 0),
    ground=(0, 0, 0),
    haze=(0, 0, 0),
    haze_m=1e9,
)


def scene_of(fixed=None, moving=None, path=None, lighting=DARK, material=None):
    """One frame a second, so that a frame number is a time; the camera looks along +z unless it has a path."""
    shapes = Shapes()
    if fixed:
        fixed(shapes)
    return RayScene(
        name="little",
        seed=0,
        f_mm=F_MM,
        materials={"light": material or Material(glow=(1.0, 1.0, 1.0))},
        fixed=shapes,
        moving=moving or (lambda time_s: Shapes()),
        path=path or (lambda time_s: Pose.look_at((0, 0, 0), (0, 0, 1))),
        lighting=lighting,
        low=(-3, -3, 0),
        high=(3, 3, 6),
        fps=1.0,
    )


def flow(scene, first, second):
    return exact_flow(scene, first, [second], width=W, height=H)[0]


def wall(shapes, z=4.0):
    shapes.plane((0, 0, z), (0, 0, -1), "light")


def centres():
    return np.meshgrid(np.arange(W) + 0.5, np.arange(H) + 0.5)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0), (0.25, 2.75)])
def test_a_wall_seen_from_a_camera_that_slides_moves_by_f_v_t_over_z(first, second):
    scene = scene_of(wall, path=lambda t: Pose.look_at((0.1 * t, 0.05 * t, 0), (0.1 * t, 0.05 * t, 1)))
    found = flow(scene, first, second)
    time = second - first
    expected = FOCAL_PX / 4.0 * time * np.array([-0.1, 0.05])  # the picture's y points down
    np.testing.assert_allclose(found.flow_px, np.broadcast_to(expected, (H, W, 2)), atol=1e-3)
    x, y = centres()
    x, y = x + expected[0], y + expected[1]
    np.testing.assert_array_equal(found.occluded, (x < 0) | (x > W) | (y < 0) | (y > H))


def test_approaching_a_wall_scales_the_picture():
    scene = scene_of(wall, path=lambda t: Pose.look_at((0, 0, 0.8 * t), (0, 0, 9)))
    x, y = centres()
    expected = np.stack([x - W / 2, y - H / 2], -1) * (4.0 / 3.2 - 1)
    np.testing.assert_allclose(flow(scene, 0, 1).flow_px, expected, atol=1e-3)


@pytest.mark.parametrize("fixed", [None, wall])
def test_a_turning_camera_moves_near_and_far_alike(fixed):
    angle = 0.05
    scene = scene_of(fixed, path=lambda t: Pose.look_at((0, 0, 0), (np.sin(angle * t), 0, np.cos(angle * t))))
    x, y = centres()
    qx, qy = (x - W / 2) / FOCAL_PX, (H / 2 - y) / FOCAL_PX
    z = np.cos(angle) + qx * np.sin(angle)
    expected = np.stack([(qx * np.cos(angle) - np.sin(angle)) / z - qx, qy - qy / z], -1) * FOCAL_PX
    np.testing.assert_allclose(flow(scene, 0, 1).flow_px, expected, atol=1e-3)


def test_a_board_that_passes_hides_the_wall_where_it_arrives_and_nothing_else():
    board = Shapes()
    board.rect((0, 0, 0), (0.3, 0, 0), (0, 5, 0), "light")
    scene = scene_of(wall, rigid(board, straight((-0.4, 0, 2.0), (0.35, 0, 0))))
    found = flow(scene, 0, 1)
    x, _ = centres()

    def covers(time):
        return np.abs((x - W / 2) / FOCAL_PX * 2.0 - (-0.4 + 0.35 * time)) <= 0.3

    on_board = covers(0)
    np.testing.assert_allclose(found.flow_px[on_board], [[0.35 * FOCAL_PX / 2, 0]] * int(on_board.sum()), atol=1e-3)
    np.testing.assert_allclose(found.flow_px[~on_board], 0, atol=1e-3)
    np.testing.assert_array_equal(found.occluded, ~on_board & covers(1))
    assert 500 < found.occluded.sum() < 3000
    back = flow(scene, 1, 0)
    np.testing.assert_array_equal(back.occluded, ~covers(1) & on_board)


def test_a_board_that_turns_about_the_axis_follows_the_rotation():
    board = Shapes()
    board.rect((0, 0, 0), (0.3, 0, 0), (0, 0.2, 0), "light")
    scene = scene_of(moving=rigid(board, straight((0, 0, 2.0), (0, 0, 0), spin=(0, 0, 0.3))))
    found = flow(scene, 0, 1)
    x, y = centres()
    qx, qy = (x - W / 2) / FOCAL_PX, (H / 2 - y) / FOCAL_PX
    on_board = (np.abs(qx) < 0.15) & (np.abs(qy) < 0.1)
    there = turn(roll=0.3)[:2, :2] @ np.stack([qx, qy]).reshape(2, -1)
    expected = np.stack([there[0] - qx.ravel(), qy.ravel() - there[1]], -1).reshape(H, W, 2) * FOCAL_PX
    np.testing.assert_allclose(found.flow_px[on_board], expected[on_board], atol=1e-3)
    assert not found.occluded[on_board].any()


def test_what_a_turning_ball_turns_away_is_occluded():
    ball = Shapes()
    ball.ellipsoid((0, 0, 0), 0.5, "light")
    scene = scene_of(moving=rigid(ball, straight((0, 0, 2.0), (0, 0, 0), spin=(1.2, 0, 0))))
    found = flow(scene, 0, 1)
    # Yaw carries the near side towards -x: the left half of the visible cap goes out of sight, the right half stays.
    row = H // 2
    reach = FOCAL_PX * 0.5 / np.sqrt(4 - 0.25)
    left, right = (int(W / 2 + sign * 0.8 * reach) for sign in (-1, 1))
    assert found.occluded[row, left] and not found.occluded[row, right]
    assert found.flow_px[row, right, 0] < -1
    lost = found.occluded[row, int(W / 2 - reach) + 1 : int(W / 2 + reach)].mean()
    assert 0.2 < lost < 0.6


def test_a_point_behind_the_other_camera_is_occluded_and_finite():
    scene = scene_of(wall, path=lambda t: Pose.look_at((0, 0, 5 * t), (0, 0, 5 * t + 1)))
    found = flow(scene, 0, 1)
    assert found.occluded.all() and not found.flow_px.any()


def test_frames_with_other_shapes_are_refused():
    def moving(time_s):
        shapes = Shapes()
        for _ in range(1 + int(time_s)):
            shapes.ellipsoid((0, 0, 3), 0.2, "light")
        return shapes

    with pytest.raises(RaytraceError, match="same shapes in the same order"):
        flow(scene_of(moving=moving), 0, 1)
    with pytest.raises(RaytraceError, match="frame_index must be >= 0, got -1"):
        flow(scene_of(wall), 0, -1)


def warp_errors(scene, second):
    """Mean absolute difference of linear light per pixel with and without the flow, and what is occluded."""
    width, height = 160, 104
    found = exact_flow(scene, 0, [second], width=width, height=height)[0]
    here, there = (render_frame(scene, i, width=width, height=height).linear.clip(0, 1) for i in (0, second))
    rows, columns = np.mgrid[:height, :width]
    place = [rows + found.flow_px[..., 1], columns + found.flow_px[..., 0]]
    warped = np.stack([map_coordinates(there[..., c], place, order=1, mode="nearest") for c in range(3)], -1)
    return np.abs(warped - here).mean(-1), np.abs(there - here).mean(-1), found.occluded


def test_warping_gives_the_other_frame_outside_occlusions():
    grey = noise(256, 256, 3, 5, octaves=2)
    board, ball = Shapes(), Shapes()
    board.box((0, 0, 0), (0.35, 0.25, 0.1), "light")
    ball.ellipsoid((0, 0, 0), 0.3, "light")

    def moving(time_s):
        first = rigid(board, straight((-0.4, 0.1, 2.2), (0.3, 0, -0.1), spin=(0.2, 0, 0.4)))(time_s)
        return first.extend(rigid(ball, straight((0.5, -0.2, 3.0), (-0.2, 0.1, 0), spin=(0.2, 0, 0.3)))(time_s))

    scene = scene_of(
        wall,
        moving,
        path=lambda t: Pose.look_at((0.2 * t, 0, 0), (0.1 * t, 0, 4)),
        material=Material(texture=np.repeat(grey[..., None], 3, -1), size_m=(1.2, 1.2), glow=(1.0, 1.0, 1.0)),
    )
    error, still, occluded = warp_errors(scene, 1)
    assert 0.1 < occluded.mean() < 0.4
    # Smooth textures that glow: only pixels of silhouettes, which mix two surfaces, differ by more than interpolation.
    assert np.percentile(error[~occluded], 90) < 0.01
    assert error[~occluded].mean() < 0.1 * still[~occluded].mean()
    assert error[occluded].mean() > 10 * error[~occluded].mean()


def test_the_flow_explains_a_landscape():
    error, still, occluded = warp_errors(generate("nature", 44), 2)
    # Fine texture softened by the lookup, shadows that move on their own: not zero, yet far below what it is without.
    assert 0.02 < occluded.mean() < 0.2
    assert error[~occluded].mean() < 0.6 * still[~occluded].mean()
    assert error[occluded].mean() > 2 * error[~occluded].mean()


# instants and light


def test_any_instant_can_be_rendered():
    scene = scene_of(lambda s: wall(s), rigid(_ball(), straight((-0.4, 0, 2.0), (0.2, 0, 0))))
    twice = dataclasses.replace(scene, fps=2.0)
    between, same = (render_frame(s, i, width=W, height=H, supersample=1) for s, i in ((scene, 1.5), (twice, 3)))
    np.testing.assert_array_equal(between.depth_m, same.depth_m)
    assert (between.depth_m != render_frame(scene, 1, width=W, height=H, supersample=1).depth_m).any()


def _ball():
    shapes = Shapes()
    shapes.ellipsoid((0, 0, 0), 0.3, "light")
    return shapes


def test_light_may_change_with_time_and_shadows_follow_the_sun():
    lit = dataclasses.replace(DARK, sun=(1.0, 1.0, 1.0), sun_direction=(0.0, 1.0, -0.1))
    low = dataclasses.replace(lit, sun_direction=(0.7, 0.7, -0.1))

    def ground(shapes):
        shapes.plane((0, -0.5, 0), (0, 1, 0), "light")
        shapes.ellipsoid((0, 0, 3.0), 0.3, "light")

    grey = Material(colour=(0.5, 0.5, 0.5))

    def light(lighting, frame=0):
        scene = scene_of(ground, lighting=lighting, material=grey)
        render_frame(scene, 0, width=W, height=H)  # the shadow maps of frame 0 must not linger
        return render_frame(scene, frame, width=W, height=H).linear

    moved = light(lambda t: lit if t < 0.5 else low, 1)
    np.testing.assert_array_equal(moved, light(low))
    assert (moved != light(lit)).any()
    half = light(changing(lit, lambda t: 1 - 0.5 * t), 1)
    np.testing.assert_allclose(half, light(dimmed(lit, 0.5)), atol=1e-6)
    np.testing.assert_allclose(half, light(lit) / 2, atol=1e-5)
