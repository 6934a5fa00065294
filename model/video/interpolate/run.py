"""A film with more frames, from a file to a file: looked at once, then made frame by frame in flat memory.

Special: kept and made frames take the same way from the decoder to the encoder, so nothing flickers between them; a kept frame
is the source's own.
"""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from model.video.film import Film, Look
from model.video.interpolate.choose import choose_interpolator
from model.video.interpolate.cut_list import read_cuts
from model.video.interpolate.settings import InterpolateSettings
from model.video.interpolate.timeline import Instant, film_end_s, instants, instants_at_rate, timing_of
from model.video.interpolate.window import FrameWindow
from model.video.work import begin_work, frame_fields
from pipeline.device import fix_threads
from pipeline.engines.info import recorded_options
from pipeline.engines.interpolation.context import Interpolator
from pipeline.engines.interpolation.tiles import interpolate_tiled
from pipeline.errors import InputError
from pipeline.media.arrays import AnyPicture
from pipeline.media.convert import unit_to_image
from pipeline.media.encoding import BLOCK_FRAMES
from pipeline.media.sinks import FolderSink, Sink, check_output, is_video, lease_path
from pipeline.media.video_io import TimedFrame, open_timed
from pipeline.media.video_writer import VideoSink
from pipeline.reporter import Reporter
from pipeline.signals import StopSignals
from pipeline.storage.completion import fingerprint
from pipeline.storage.files import Fence
from pipeline.storage.lease import Lease

_WHOLE_PX = 2560 * 1440  # larger frames go to networks in tiles of this side
_TILE_PX = 2048


@dataclass
class _Counts:
    """What became of the output's frames."""

    kept: int = 0
    made: int = 0
    held: int = 0
    repeated: int = 0


def interpolate_film(input_path: Path, output_path: Path, settings: InterpolateSettings) -> None:
    """Read, interpolate, write, with a progress bar.

    Raises:
        UsageError, InputError: what was given cannot be used.
        StoppedError: a signal came; what is done lies in a hidden folder beside the output, for the same command.
    """
    fix_threads()
    check_output(output_path, input_path, overwrite=settings.overwrite)
    with (
        StopSignals() as signals,
        Reporter("interpolate", None) as reporter,
        Lease(lease_path(output_path), signals.safe_point) as lease,
    ):
        _Run(input_path, output_path, settings, reporter, signals, lease.check).go()


class _Run:
    """One call of `interpolate_film`, step by step; each step says what it found."""

    def __init__(
        self,
        input_path: Path,
        output_path: Path,
        settings: InterpolateSettings,
        reporter: Reporter,
        signals: StopSignals,
        fence: Fence,
    ) -> None:
        self._settings, self._reporter, self._signals, self._fence = settings, reporter, signals, fence
        self._source, self._output = open_timed(input_path, settings.source_fps), output_path
        self._bits = settings.bits or self._source.bits
        self._film = Film(self._source, None, None, self._bits > 8 and self._source.bits > 8)

    def _step(self) -> None:
        self._reporter.advance()
        self._signals.safe_point()

    def go(self) -> None:
        say = self._reporter.info
        for note in self._source.notes:
            say(f"{self._source.path.name}: {note}")
        look = self._look()
        plan = list(self._plan(look))
        engine, said = choose_interpolator(self._settings, {float(instant.t) for instant in plan if instant.t})
        say(said)
        counts = self._write(engine, look, plan)
        shots = f", {len(look.shots)} shots" if len(look.shots) > 1 else ""
        say(
            f"interpolate: {look.count} -> {len(plan)} frames ({counts.kept} kept, {counts.made} made, "
            f"{counts.held} held at the end of a shot, {counts.repeated} between equal frames{shots}), {self._output}"
        )

    def _look(self) -> Look:
        settings = self._settings
        self._reporter.begin_progress("looking", self._film.expected)
        look = self._film.look(settings.find_cuts and settings.cuts is None, self._step)
        self._reporter.end_progress()
        if look.count < 2:
            raise InputError(f"{self._source.path} holds one frame; interpolation needs at least two")
        if settings.cuts is not None:
            look = Look(**{**vars(look), "shots": read_cuts(settings.cuts, look.times_s)})
        self._end_s = film_end_s(self._source, look)
        return look

    def _plan(self, look: Look) -> list[Instant]:
        settings, times = self._settings, look.times_s
        if settings.factor is not None:
            return list(instants(times, self._end_s, look.shots, settings.factor))
        assert settings.fps is not None, "the settings hold one of the two"
        return list(instants_at_rate(times, self._end_s, look.shots, settings.fps))

    def _write(self, engine: Interpolator, look: Look, plan: list[Instant]) -> _Counts:
        """Every instant, from where an earlier run stopped."""
        settings, say = self._settings, self._reporter.info
        info = engine.info
        wanted = frame_fields(settings, self._source.path) | {
            "engine": {"name": info.name, "version": info.version, "weights": dict(info.weights)},
            "options": {name: str(value) for name, value in recorded_options(engine.options).items()},
            "shots": fingerprint({"starts": [shot.start for shot in look.shots]}),
        }
        sink = self._sink(look, len(plan))
        begin_work(sink.work, wanted, say)
        tile_px = self._tile_px(engine, look.size)
        counts = _Counts()
        with sink:
            start = sink.resume()
            if is_video(self._output) and start < len(plan):
                start = start // BLOCK_FRAMES * BLOCK_FRAMES
            sink.go_back(start)
            if start:
                say(f"going on behind the {start} frames that are done")
            self._reporter.begin_progress(self._output.name, len(plan), start)
            with closing(self._film.frames()) as frames:  # type: ignore[type-var]  # a generator
                window = FrameWindow(frames, look.shots, engine.reach)
                for number, instant in enumerate(plan):
                    if number >= start:
                        picture = self._picture(engine, window, instant, look, tile_px, counts)
                        sink.write(TimedFrame(time_s=instant.time_s, name=_name(number), picture=picture))
                        self._step()
                    else:
                        window.frame(instant.before)
                        self._signals.safe_point()
        self._reporter.end_progress()
        return counts

    def _picture(
        self,
        engine: Interpolator,
        window: FrameWindow,
        instant: Instant,
        look: Look,
        tile_px: int,
        counts: _Counts,
    ) -> AnyPicture:
        kept = window.frame(instant.before)
        if instant.t == 0:
            itself = instant.time_s == look.times_s[instant.before]
            counts.kept, counts.held = counts.kept + itself, counts.held + (not itself)
            return kept.picture
        context = window.context(instant)
        if context is None:
            counts.repeated += 1
            return kept.picture
        counts.made += 1
        return unit_to_image(interpolate_tiled(engine, context, tile_px, self._signals.safe_point), kept.picture)

    def _tile_px(self, engine: Interpolator, size: tuple[int, int]) -> int:
        """Optical flow takes any size whole."""
        if self._settings.tile_px is not None:
            return self._settings.tile_px
        if (engine.reach == (1, 1) and not engine.info.weights) or size[0] * size[1] <= _WHOLE_PX:
            return 0
        return _TILE_PX

    def _sink(self, look: Look, count: int) -> Sink:
        settings = self._settings
        if not is_video(self._output):
            names = [_name(number) for number in range(count)]
            return FolderSink(self._output, names, keep_work=True, fence=self._fence)
        sink = VideoSink(
            self._output,
            self._source,
            look.size,
            bits=self._bits,
            sound=settings.audio,
            timing=timing_of(self._source, self._end_s, settings.factor, settings.fps),
            keep_work=True,
            fence=self._fence,
        )
        self._reporter.info(f"output: {self._output}, {sink.encoding.described()}")
        return sink


def _name(number: int) -> str:
    return f"frame_{number:06d}.png"
