"""Moving clips with exact flow: the hypothesis' own test set, and training clips from seeds; see docs/motion_scenes.md."""

from pipeline.raytrace.motion.phenomena import PHENOMENA, evaluation_clips
from pipeline.raytrace.motion.write import ClipRequest, clip_requests, make_clip, write_clip

__all__ = ["PHENOMENA", "ClipRequest", "clip_requests", "evaluation_clips", "make_clip", "write_clip"]
