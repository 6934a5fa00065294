"""Generated scenes with ray-traced photographs, laid out as phases 1 to 5 leave theirs; see docs/photograph_scenes.md."""

from pipeline.photographs.lenses import draw_focus_pull, draw_photograph_lens, traced_lens
from pipeline.photographs.requests import HELD_OUT, MAX_COC_M, PLACES, PhotographRequest, photograph_requests
from pipeline.photographs.sheet import contact_sheet
from pipeline.photographs.write import make_photographs, write_photographs

__all__ = [
    "HELD_OUT",
    "MAX_COC_M",
    "PLACES",
    "PhotographRequest",
    "contact_sheet",
    "draw_focus_pull",
    "draw_photograph_lens",
    "make_photographs",
    "photograph_requests",
    "traced_lens",
    "write_photographs",
]
