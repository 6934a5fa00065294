"""A clip through a lens: any length in constant memory, with the focus where it was asked for.

Special: everything is said before the work begins, which engine, which depth and why, where the focus is and how strong the
lens. What a stopped run has done is kept, and the same command goes on from there, or says that it starts over.
"""

from contextlib import ExitStack, closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from model.bokehflow import BokehFlow
from model.bokehflow.blocks import FOCUS_M as NETWORK_FOCUS_M
from model.bokehflow.checkpoint import FAMILY, load_bokehflow
from model.training.network_file import Loaded
from model.video.depth_source import (
    DepthSource,
    check_kept,
    choose_depth,
    colour_depth,
    depth_is_here,
    discard_kept,
    inverse_ends,
)
from model.video.engines import FilmEngine, LensEngine, NetworkDepth, NetworkEngine, Photographed
from model.video.film import Film, Look, worked_place
from model.video.focus import FOCUS_M
from model.video.plan import MIDDLE, check_pixel, depth_at, follow, lens_for, sample_numbers
from model.video.profile import Profile, part_of
from model.video.settings import USUAL_F_NUMBER, USUAL_FOCAL_MM, ApplySettings, EngineName
from model.video.trust import describe_training, weakness
from model.video.work import begin_work, frame_fields
from model.weights import default_weights
from pipeline.device import resolve_device
from pipeline.engines.vda.choose import BRING
from pipeline.errors import UsageError
from pipeline.media.encoding import BLOCK_FRAMES
from pipeline.media.images import AnyPicture
from pipeline.media.sinks import FolderSink, Sink, check_output, is_video, lease_path, work_folder
from pipeline.media.video_io import open_timed
from pipeline.media.video_writer import VideoSink
from pipeline.reporter import Reporter
from pipeline.signals import StopSignals
from pipeline.storage.completion import fingerprint
from pipeline.storage.files import Fence
from pipeline.storage.lease import Lease


def apply_bokeh(input_path: Path, output_path: Path, settings: ApplySettings) -> None:
    """Read, render, write, with a progress bar.

    Raises:
        UsageError, InputError, CheckpointError: what was given cannot be used.
        StoppedError: a signal came; what is done lies in a hidden folder beside the output, for the same command.
    """
    with StopSignals() as signals, Reporter("apply_bokeh", None) as reporter:
        _Run(input_path, output_path, settings, reporter, signals).go()


class _Run:
    """One call of `apply_bokeh`, step by step; each step says what it found."""

    def __init__(
        self, input_path: Path, output_path: Path, settings: ApplySettings, reporter: Reporter, signals: StopSignals
    ) -> None:
        self._settings, self._reporter, self._signals = settings, reporter, signals
        self._source = open_timed(input_path, settings.fps)
        self._outputs = [output_path] + ([settings.depth_video] if settings.depth_video else [])
        for path in self._outputs:
            check_output(path, input_path, overwrite=settings.overwrite)
        if len({path.resolve() for path in self._outputs}) < len(self._outputs):
            raise UsageError(f"--depth_video and -o must be two places, got {output_path} for both")
        self._output = output_path
        self._fences: dict[Path, Fence] = {}
        if settings.save_depth is not None:
            check_kept(settings.save_depth)
        self._bits = settings.bits or self._source.bits
        deep = self._bits > 8 and self._source.bits > 8
        self._film = Film(self._source, settings.max_frames, settings.resize_px, deep)
        self._device = resolve_device(settings.device)

    @cached_property
    def _look(self) -> Look:
        self._reporter.begin_progress("looking", self._film.expected)
        found = self._film.look(self._settings.find_cuts, self._step)
        self._reporter.end_progress()
        return found

    def _step(self) -> None:
        self._reporter.advance()
        self._signals.safe_point()

    def go(self) -> None:
        """Do it, as the only one at these outputs."""
        with ExitStack() as stack:
            for path in self._outputs:
                lease = stack.enter_context(Lease(lease_path(path), self._signals.safe_point))
                self._fences[path] = lease.check
            self._go()

    def _go(self) -> None:
        settings, say = self._decided(), self._reporter.info
        self._settings = settings
        loaded = load_bokehflow(settings.checkpoint, self._device) if settings.checkpoint else None
        network = self._network(loaded) if loaded else None
        depth = self._depth(loaded)
        look = self._look
        for note in self._source.notes:
            say(f"{self._source.path.name}: {note}")
        with ExitStack() as stack:
            if depth is not None:
                self._prepare(depth, stack)
            focus_m = self._focus(depth, network)
            engine: FilmEngine
            if network is not None and settings.engine_name == "bokehflow":
                engine = network.given(depth) if depth is not None and settings.hands_depth_in else network
            else:
                assert depth is not None, "the lens engine has depth"
                lens, said = lens_for(settings, look, depth, focus_m)
                say(said)
                engine = LensEngine(settings, lens, depth, self._device)
            self._write(engine, depth, focus_m, loaded.digest if loaded else "")
        if len(look.shots) > 1:
            starts = [float(look.times_s[shot.start]) for shot in look.shots[1:]]
            say(f"started afresh where the film cuts, at {_times(starts)}")
        say(f"apply_bokeh: {look.count} frames, {self._output}")

    def _decided(self) -> ApplySettings:
        """The settings with the network that comes with the code: where one was asked for and none was named, and where
        nothing else would tell depth."""
        asked = self._settings
        engine: EngineName
        if asked.checkpoint is not None:
            return asked
        if asked.wants_network:
            self._reporter.info("network: the one that comes with the code, since no --checkpoint was given")
            engine = "lens" if asked.lens_alone else asked.engine
            return replace(asked, engine=engine, checkpoint=default_weights(FAMILY))
        if (asked.engine, asked.depth) != ("auto", "auto") or depth_is_here(self._source.path, self._device):
            return asked
        try:
            shipped = default_weights(FAMILY)
        except UsageError:
            return asked  # then it is depth that is missing, and that is said
        self._reporter.warning(
            "no depth came with the film, and no weights to estimate it are here: it is taken from the small network that "
            f"comes with the code, whose depth is rough. Better, once (Apache-2.0, 0.12 GB): {BRING}"
        )
        engine = "lens" if asked.lens_alone else "bokehflow"
        return replace(asked, engine=engine, depth="bokehflow", checkpoint=shipped)

    def _network(self, loaded: Loaded[BokehFlow]) -> NetworkEngine:
        """The network, which says what it learned from; lenses and distances it does not know are refused before any work."""
        settings = self._settings
        self._reporter.info(describe_training(loaded))
        if weakness(loaded) and not settings.hands_depth_in:  # it is its depth that is weak
            self._reporter.warning(weakness(loaded))
        if settings.engine_name == "lens":
            return NetworkEngine(loaded.net, USUAL_F_NUMBER, USUAL_FOCAL_MM, settings.sensor_mm)
        f_number, focal_mm = settings.f_number or USUAL_F_NUMBER, settings.focal_mm or USUAL_FOCAL_MM
        network = NetworkEngine(loaded.net, f_number, focal_mm, settings.sensor_mm)
        for _, focus_m in settings.focus.keys if settings.focus else ():
            network.lens_batch(focus_m, 1)
        return network

    def _depth(self, loaded: Loaded[BokehFlow] | None) -> DepthSource | None:
        """The depth that is needed, if any: for the lens engine, and for a network whose focus follows something."""
        settings, say = self._settings, self._reporter.info
        if settings.engine_name == "bokehflow":
            assert loaded is not None, "the settings ask for a network"
            why = ", since a checkpoint was given" if settings.engine == "auto" else ""
            how = "depth is handed in" if settings.hands_depth_in else "it sees depth itself"
            say(f"engine: bokehflow, the network of {loaded.path}{why}; {how}")
            if not settings.hands_depth_in:
                if settings.focus is not None or settings.focus_px is not None:
                    return None
                return self._network_depth(
                    loaded, "depth: seen by the network, once for the focus and once for the pictures"
                )
        else:
            why = ", since no checkpoint was given" if settings.engine == "auto" else ""
            say(f"engine: lens, optics on depth{why}")
        depth = choose_depth(
            settings.depth,
            self._source.path,
            lambda: self._source.count if self._source.path.is_dir() else self._whole_count(),
            self._device,
            (lambda said: self._network_depth(loaded, said)) if loaded else None,
        )
        say(depth.said)
        return depth

    def _whole_count(self) -> int:
        """Frames of the whole film: delivered depth has one map for each."""
        if self._settings.max_frames is None:
            return self._look.count
        return sum(1 for _ in self._source.frames())

    def _network_depth(self, loaded: Loaded[BokehFlow], said: str) -> NetworkDepth:
        network = NetworkEngine(loaded.net, USUAL_F_NUMBER, USUAL_FOCAL_MM, self._settings.sensor_mm)
        return NetworkDepth(network, loaded.digest, said)

    def _prepare(self, depth: DepthSource, stack: ExitStack) -> None:
        """Estimate what has to be estimated: once, for this output, or for good with --save_depth."""
        folder = self._settings.save_depth or work_folder(self._output).with_suffix(".depth")
        if self._settings.save_depth is None:
            stack.push(lambda kind, *_: discard_kept(folder, even_complete=kind is None))
        self._reporter.begin_progress("depth", self._look.count)
        depth.prepare(self._film, self._look, folder, self._step)
        self._reporter.end_progress()

    def _focus(self, depth: DepthSource | None, network: NetworkEngine | None) -> list[float]:
        """The focus distance of every frame."""
        settings, look, say = self._settings, self._look, self._reporter.info
        if settings.focus is not None:
            return [settings.focus.at(time) for time in look.times_s]
        if settings.focus_px is not None:
            check_pixel(settings.focus_px, look.source_size, "--focus_px")
            place = worked_place(settings.focus_px, look)
            if depth is not None:
                first = depth.read(0)
            else:
                assert network is not None, "without depth there is a network"
                first = NetworkDepth(network, "", "").first(self._film.first().picture)
            focus_m = float(np.clip(depth_at(first, place), *self._focus_range()))
            say(f"focus: what pixel {settings.focus_px} shows is {focus_m:.2f} m away")
            return [focus_m] * look.count
        anchors = settings.focus_track or (MIDDLE,)
        if not settings.focus_track:
            say("focus: nothing was named, so what the middle of the first frame shows is followed (--focus_track X,Y)")
        for anchor in settings.focus_track:
            if anchor.pixel is not None:
                check_pixel(anchor.pixel, look.source_size, "--focus_track")
        assert depth is not None, "following needs depth"
        self._reporter.begin_progress("following", look.count)
        followed = follow(self._film, look, depth, anchors, settings.temporal_s, self._step)
        self._reporter.end_progress()
        for line in followed.lines:
            say(line)
        return [float(np.clip(focus_m, *self._focus_range())) for focus_m in followed.focus_m]

    def _focus_range(self) -> tuple[float, float]:
        """What a measured focus is clipped to: the network knows less than the lens."""
        return NETWORK_FOCUS_M if self._settings.engine_name == "bokehflow" else FOCUS_M

    def _write(self, engine: FilmEngine, depth: DepthSource | None, focus_m: list[float], digest: str) -> None:
        """Everything through the engine and into the outputs, from where an earlier run stopped."""
        look, say = self._look, self._reporter.info
        wanted = frame_fields(self._settings, self._source.path) | {
            "engine": {"name": self._settings.engine_name, "checkpoint": digest},
            "depth": depth.fields if depth is not None else {},
            "focus_m": fingerprint({"focus_m": focus_m}),
        }
        sinks = [self._sink(path, first=number == 0) for number, path in enumerate(self._outputs)]
        for sink in sinks:
            begin_work(sink.work, wanted, say)
        with ExitStack() as stack:
            for sink in sinks:
                stack.enter_context(sink)
            start = self._start(sinks, engine)
            profile = self._profile(engine)
            frames = self._film.frames() if profile is None else profile.each("read", self._film.frames())
            numbered = ((n, frame) for n, frame in enumerate(frames) if n >= start)
            self._reporter.begin_progress(self._output.name, look.count, start)
            ends = inverse_ends(depth.read(n) for n in sample_numbers(look.count)) if len(sinks) > 1 and depth else None
            with closing(engine.photographs(numbered, look, focus_m)) as shots:  # type: ignore[type-var]  # a generator
                for shot in shots:
                    pictures = [self._composed(shot)]
                    if len(sinks) > 1:
                        pictures.append(colour_depth(shot.depth_m, ends))
                    with part_of(profile, "write"):
                        for sink, picture in zip(sinks, pictures, strict=True):
                            sink.write(replace(shot.source, picture=picture))
                    self._step()
        self._reporter.end_progress()
        for line in [] if profile is None else profile.lines(look.count - start):
            say(line)

    def _profile(self, engine: FilmEngine) -> Profile | None:
        if not self._settings.profile:
            return None
        engine.profile = Profile(self._device)
        if isinstance(engine, NetworkEngine):
            engine.profile.watch(engine.net)
        return engine.profile

    def _sink(self, path: Path, *, first: bool) -> Sink:
        look, settings = self._look, self._settings
        if not is_video(path):
            return FolderSink(path, list(look.names), keep_work=True, fence=self._fences[path])
        width, height = look.size
        end_s = look.times_s[-1] + 1 / self._source.rate if look.count == settings.max_frames else None
        sink = VideoSink(
            path,
            self._source,
            (2 * width if first and settings.side_by_side else width, height),
            bits=self._bits if first else 8,
            sound=first and settings.audio,
            end_s=end_s,
            keep_work=True,
            fence=self._fences[path],
        )
        if first:
            self._reporter.info(f"output: {path}, {sink.encoding.described()}")
        return sink

    def _start(self, sinks: list[Sink], engine: FilmEngine) -> int:
        """The first frame that is still to be made, in all outputs."""
        start = min(sink.resume() for sink in sinks)
        if start < self._look.count and any(isinstance(sink, VideoSink) for sink in sinks):
            start = start // BLOCK_FRAMES * BLOCK_FRAMES
        if start and not engine.can_resume:
            self._reporter.info(
                "the network carries its state from frame to frame, so the unfinished output starts over"
            )
            start = 0
        elif start:
            self._reporter.info(f"going on behind the {start} frames that are done")
        for sink in sinks:
            sink.go_back(start)
        return start

    def _composed(self, shot: Photographed) -> AnyPicture:
        if not self._settings.side_by_side:
            return shot.picture
        beside: Any = np.hstack([shot.source.picture, shot.picture])
        return beside


def _times(seconds: list[float], shown: int = 8) -> str:
    return ", ".join(f"{time:.2f} s" for time in seconds[:shown]) + (", ..." if len(seconds) > shown else "")
