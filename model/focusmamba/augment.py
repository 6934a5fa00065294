"""What cameras, lenses and files do to a photograph before a network sees it, so that none of it is taken for focus.

Special: everything draws from the generator that is given, which follows from the sample's number. Labels change with the lens
and the size only: noise, compression, motion and sharpening are what the network has to see through.

Shape letters: T = frames of a clip; H, W = image.
"""

import io
import math
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from model.focusmamba.bank import blur
from pipeline.media.convert import image_to_tensor, tensor_to_image
from pipeline.optics import Aperture, Lens, linear_to_srgb, srgb_to_linear

Rng = np.random.Generator
HELD_OUT_BLADES = 5  # never drawn: what an opening that was not seen is tested with


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """How often each thing happens to a clip, as probabilities, and how far it goes.

    Args:
        relens: photograph the clip anew with our renderer: another opening, another amount of blur.
        pull: of a clip that is photographed anew, the focus travels.
        refocus: of a clip that is photographed anew, the focus lies on a place of it that is drawn, mostly a far one.
        occlude: a thing is put right in front of the lens (see `occluders`).
        colour: exposure and white balance change, and the channels are exchanged: of frame and photograph alike.
        resize: the picture is resized by up to these factors; radii scale with it.
        noise: shot and read noise up to max_noise (standard deviation at mid grey, in sRGB).
        motion: motion blur up to max_motion_px long.
        sharpen: the halos of an unsharp mask.
        jpeg, h264: compression.
    """

    relens: float = 0.5
    pull: float = 0.3
    refocus: float = 0.0
    occlude: float = 0.0
    colour: float = 0.5
    resize: float = 0.3
    min_resize: float = 0.7
    max_resize: float = 1.4
    noise: float = 0.7
    max_noise: float = 4 / 255
    motion: float = 0.15
    max_motion_px: float = 8.0
    sharpen: float = 0.15
    jpeg: float = 0.2
    h264: float = 0.1

    def __post_init__(self) -> None:
        for name in (
            "relens",
            "pull",
            "refocus",
            "occlude",
            "colour",
            "resize",
            "noise",
            "motion",
            "sharpen",
            "jpeg",
            "h264",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augment.{name} must be a probability in [0, 1], got {getattr(self, name)}")
        if not 0 < self.min_resize <= self.max_resize:
            raise ValueError(f"min_resize and max_resize must rise from > 0, got {self.min_resize}, {self.max_resize}")
        if not (self.max_noise >= 0 and self.max_motion_px >= 1):
            raise ValueError(
                f"max_noise must be >= 0 and max_motion_px >= 1, got {self.max_noise}, {self.max_motion_px}"
            )


NOTHING = AugmentSettings(relens=0, pull=0, colour=0, resize=0, noise=0, motion=0, sharpen=0, jpeg=0, h264=0)


def log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


def draw_opening(rng: Rng) -> Aperture:
    """A disc, or a polygon of 6 to 9 blades, turned and rounded; never the opening that is held out."""
    if rng.random() < 0.3:
        return Aperture()
    blades = int(rng.integers(6, 10))
    return Aperture(blades=blades, rotation_deg=float(rng.uniform(0, 360)), roundness=float(rng.uniform(0, 0.6)))


def draw_lenses(rng: Rng, lens: Lens, num_frames: int, pull: bool, focus_m: float | None = None) -> list[Lens]:
    """One lens per frame: the clip's own with another amount of blur and, with `pull`, a focus that travels.

    `focus_m` is where it begins, None for where the clip's own is.

    The focus distance moves evenly in its logarithm to 0.6 to 1.6 times where it was.
    """
    gain = log_uniform(rng, 0.4, 1.8)
    end = log_uniform(rng, 0.6, 1.6) if pull else 1.0
    steps = np.linspace(0.0, 1.0, num_frames)
    start_m = lens.focus_m if focus_m is None else focus_m
    return [Lens(f_m=lens.f_m, f_number=lens.f_number / gain, focus_m=start_m * end**step) for step in steps]


def draw_focus(rng: Rng, depth_m: Tensor) -> float:
    """Metres: the depth of a place of (..., H, W), of farther ones more often, so that what is near is blurred strongly."""
    return float(torch.quantile(depth_m.flatten(), float(rng.beta(2, 1))))


def recoloured(pictures: Tensor, rng: Rng) -> Tensor:
    """(N, 3, H, W) sRGB with other gains in linear light, clipped at white as a sensor does, and its channels exchanged.

    Blur does not mix channels, so a photograph and its frame that are changed alike still belong together.
    """
    gains = log_uniform(rng, 0.5, 1.6) * np.exp(rng.uniform(-0.2, 0.2, 3))
    order = rng.permutation(3) if rng.random() < 0.5 else np.arange(3)
    light = srgb_to_linear(pictures[:, order.tolist()])
    return linear_to_srgb((light * torch.from_numpy(gains).to(light).view(1, 3, 1, 1)).clamp(0, 1))


def resized(planes: Tensor, scale: float) -> Tensor:
    """(T, C, H, W) resized by `scale`; smaller pictures are filtered first, as image tools do."""
    size = [max(4, round(side * scale)) for side in planes.shape[-2:]]
    return nn.functional.interpolate(planes, size=size, mode="bilinear", antialias=True, align_corners=False)


def motion_blurred(photos: Tensor, length_px: float, angle: float) -> Tensor:
    """(T, 3, H, W) sRGB smeared along a line in linear light: a shake during the exposure, the same for all frames."""
    reach = max(1, math.ceil(length_px / 2))
    size, steps = 2 * reach + 1, 4 * reach + 1
    kernel = torch.zeros(size, size)
    for along in torch.linspace(-length_px / 2, length_px / 2, steps).tolist():
        x, y = reach + along * math.cos(angle), reach + along * math.sin(angle)
        left, top = min(int(x), size - 2), min(int(y), size - 2)
        right_share, down_share = x - left, y - top
        for dy, dx, share in (
            (0, 0, (1 - right_share) * (1 - down_share)),
            (0, 1, right_share * (1 - down_share)),
            (1, 0, (1 - right_share) * down_share),
            (1, 1, right_share * down_share),
        ):
            kernel[top + dy, left + dx] += share
    kernel = (kernel / kernel.sum()).to(photos)
    light = nn.functional.pad(srgb_to_linear(photos), (reach, reach, reach, reach), mode="replicate")
    flat = light.flatten(0, 1)[:, None]
    smeared = nn.functional.conv2d(flat, kernel[None, None]).view(photos.shape)
    return linear_to_srgb(smeared.clamp(0, 1))


def noisy(photos: Tensor, sigma: float, shot_share: float, rng: Rng) -> Tensor:
    """(T, 3, H, W) sRGB with sensor noise in linear light: part of its variance grows with the light.

    Args:
        sigma: standard deviation at mid grey (0.5), in sRGB.
        shot_share: 0 for read noise alone, 1 for shot noise alone.
    """
    light = srgb_to_linear(photos)
    grey = torch.tensor(0.5)
    mid = float(srgb_to_linear(grey))
    slope = float((srgb_to_linear(grey + 0.01) - srgb_to_linear(grey - 0.01)) / 0.02)  # of linear light over sRGB
    variance = (sigma * slope) ** 2 * (shot_share * light / mid + 1 - shot_share)
    draws = torch.from_numpy(rng.standard_normal(tuple(photos.shape), dtype=np.float32)).to(photos)
    return linear_to_srgb((light + variance.sqrt() * draws).clamp(0, 1))


def sharpened(photos: Tensor, amount: float, sigma_px: float) -> Tensor:
    """(T, 3, H, W) sRGB plus `amount` of what a Gaussian takes away: the halos that cameras and editors add."""
    return (photos + amount * (photos - blur(photos, sigma_px))).clamp(0, 1)


def jpeg(photos: Tensor, quality: int) -> Tensor:
    """(T, 3, H, W) through JPEG, frame by frame."""
    out = []
    for photo in photos:
        data = io.BytesIO()
        Image.fromarray(tensor_to_image(photo)).save(data, "JPEG", quality=quality)
        out.append(image_to_tensor(np.array(Image.open(data))))
    return torch.stack(out)


def h264(photos: Tensor, crf: int) -> Tensor:
    """(T, 3, H, W), even sides, through H.264 as one clip: blocks, and residuals between frames."""
    count, _, height, width = photos.shape
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base = Fraction(1, 24)
    encoder.options = {"crf": str(crf), "preset": "veryfast", "threads": "1"}
    packets = []
    for number, photo in enumerate(photos):
        frame = av.VideoFrame.from_ndarray(tensor_to_image(photo), format="rgb24")
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoder = av.CodecContext.create("h264", "r")
    frames = [frame for packet in packets for frame in decoder.decode(packet)] + list(decoder.decode(None))
    assert len(frames) == count, f"{count} frames went into H.264 and {len(frames)} came out"
    return torch.stack([image_to_tensor(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)) for frame in frames])


def degraded(photos: Tensor, settings: AugmentSettings, rng: Rng) -> Tensor:
    """What happens between the lens and the file: motion, noise, sharpening, compression, 8 bits.

    Args:
        photos: (T, 3, H, W) sRGB in [0, 1], even sides.
        settings: how often.
        rng: of the sample.

    Returns:
        (T, 3, H, W) in steps of 1/255.
    """
    if rng.random() < settings.motion:
        photos = motion_blurred(photos, float(rng.uniform(2, settings.max_motion_px)), float(rng.uniform(0, math.pi)))
    if rng.random() < settings.noise:
        sigma = log_uniform(rng, 0.3 / 255, max(settings.max_noise, 0.31 / 255))
        photos = noisy(photos, sigma, float(rng.uniform(0, 1)), rng)
    if rng.random() < settings.sharpen:
        photos = sharpened(photos, float(rng.uniform(0.3, 1.0)), float(rng.uniform(0.7, 1.5)))
    if rng.random() < settings.jpeg:
        photos = jpeg(photos, int(rng.integers(60, 96)))
    elif rng.random() < settings.h264:
        photos = h264(photos, int(rng.integers(16, 29)))
    return (photos.clamp(0, 1) * 255).round() / 255
