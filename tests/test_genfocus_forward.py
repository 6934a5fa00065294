"""The multi-condition forward, its LoRA, tiles and schedule, against the slow reference in float64."""

import itertools
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import genfocus_reference as reference
import pytest
import tiny_flux
import torch
from genfocus_reference import PUBLISHED, Conventions, Tokens
from safetensors.torch import save_file

from pipeline.engines.genfocus.forward import Blocks, Packed, Prompt, compiled_blocks, rotate, rotation, velocity
from pipeline.engines.genfocus.latents import pack, position_ids, unpack
from pipeline.engines.genfocus.lora import Lora, adapted_layers, check_lora, load_lora
from pipeline.engines.genfocus.sampler import Field, denoise, schedule_shift
from pipeline.engines.genfocus.tiles import is_tiled, tile_starts
from pipeline.errors import UsageError

TIME, GUIDANCE = 0.8125, 3.5
GRID = (3, 2)
DELTAS = ((0, 32), (0, 0))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Setting:
    """One small network and one picture with two conditions, for both implementations."""

    def __init__(self) -> None:
        self.net = tiny_flux.transformer().double()
        self.lora = tiny_flux.lora().to("cpu", torch.float64)
        self.model = reference.Model.of(self.net, self.lora.pairs, tiny_flux.TRANSFORMER)
        self.text, self.pooled = normal(5, 24, seed=1), normal(20, seed=2)
        self.prompt = Prompt(self.text[None], self.pooled[None])
        self.main = normal(6, 64, seed=3)
        self.conditions = [normal(6, 64, seed=4), normal(6, 64, seed=5)]

    @torch.no_grad()
    def fast(self, conditions: int = 2, net=None, lora: Lora | None = None, blocks: Blocks | None = None):
        chosen = zip(self.conditions[2 - conditions :], DELTAS[2 - conditions :], strict=True)
        return velocity(
            net or self.net,
            lora or self.lora,
            self.prompt,
            Packed(self.main[None], position_ids(*GRID, "cpu")),
            [Packed(tokens[None], position_ids(*GRID, "cpu", delta)) for tokens, delta in chosen],
            torch.tensor(TIME, dtype=torch.float64),
            GUIDANCE,
            blocks,
        )[0]

    def slow(self, conditions: int = 2, conventions: Conventions = PUBLISHED) -> torch.Tensor:
        chosen = zip(self.conditions[2 - conditions :], DELTAS[2 - conditions :], strict=True)
        given = [Tokens(tokens, reference.grid_ids(*GRID, delta)) for tokens, delta in chosen]
        main = Tokens(self.main, reference.grid_ids(*GRID))
        return reference.velocity(self.model, self.text, self.pooled, main, given, TIME, GUIDANCE, conventions)


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting()


@pytest.mark.parametrize("conditions", [0, 1, 2])
def test_forward_equals_the_reference(setting: Setting, conditions: int):
    torch.testing.assert_close(setting.fast(conditions), setting.slow(conditions), rtol=1e-10, atol=1e-10)


BROKEN = {
    "lora_on_text": {"lora_on_text": True},
    "lora_on_main": {"lora_on_main": True},
    "lora_scale": {"lora_scale": 0.5},
    "condition_time": {"condition_time": None},
    "condition_guidance": {"condition_guidance": None},
    "conditions_see_each_other": {"conditions_see_each_other": True},
    "conditions_see_main": {"conditions_see_main": False},
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_convention_would_be_noticed(setting: Setting, name: str):
    """The equality above rules these out: each moves the velocity by far more than its tolerance."""
    wrong = setting.slow(2, replace(PUBLISHED, **BROKEN[name]))
    assert (setting.fast(2) - wrong).abs().max() > 1e-2


def test_order_and_place_of_conditions_matter(setting: Setting):
    usual = setting.fast(2)
    swapped = Setting()
    swapped.conditions.reverse()
    assert (swapped.fast(2) - usual).abs().max() > 1e-2, "position_delta belongs to the first condition"


def diffusers_flux(setting: Setting, dtype: torch.dtype) -> torch.Tensor:
    """The network's own forward, which knows no conditions."""
    with torch.no_grad():
        return setting.net.to(dtype)(
            hidden_states=setting.main[None].to(dtype),
            encoder_hidden_states=setting.text[None].to(dtype),
            pooled_projections=setting.pooled[None].to(dtype),
            timestep=torch.tensor([TIME], dtype=dtype),
            guidance=torch.tensor([GUIDANCE]),
            img_ids=position_ids(*GRID, "cpu"),
            txt_ids=torch.zeros(5, 3),
        ).sample[0]


def test_without_conditions_it_is_diffusers_flux(setting: Setting):
    # diffusers turns queries and keys in float32 whatever the network's type is.
    torch.testing.assert_close(setting.fast(0), diffusers_flux(setting, torch.float64), rtol=1e-5, atol=1e-5)


def test_bf16_rounds_no_more_than_diffusers_does(setting: Setting):
    exact, kind = setting.slow(0), torch.bfloat16
    half = Setting()
    published = diffusers_flux(half, kind)
    with torch.no_grad():
        made = velocity(
            half.net,
            half.lora.to("cpu", kind),
            Prompt(half.text[None].to(kind), half.pooled[None].to(kind)),
            Packed(half.main[None].to(kind), position_ids(*GRID, "cpu")),
            [],
            torch.tensor(TIME, dtype=kind),
            GUIDANCE,
        )[0]
    assert made.dtype == kind
    assert (made.double() - exact).norm() < 1.2 * (published.double() - exact).norm()


def test_rotation_keeps_lengths_and_knows_differences():
    axes = (4, 6, 6)
    x, y = normal(1, 1, 1, 16, seed=8), normal(1, 1, 1, 16, seed=9)

    def product(first: tuple[int, int], second: tuple[int, int]) -> float:
        turned = [
            rotate(vector, rotation(torch.tensor([[0.0, *place]]), axes, torch.float64))
            for vector, place in ((x, first), (y, second))
        ]
        assert turned[0].norm() == pytest.approx(x.norm().item())
        return float((turned[0] * turned[1]).sum())

    assert product((3, 7), (1, 2)) == pytest.approx(product((12, 9), (10, 4)))
    assert product((3, 7), (1, 2)) != pytest.approx(product((3, 7), (2, 1)))


def test_angles_are_exact_in_any_type():
    """Computed in float64 and rounded once: far from the origin, float32 frequencies would be off by more than a rounding."""
    ids, axes = reference.grid_ids(60, 120), (16, 56, 56)
    exact = reference.phases(ids, axes).repeat_interleave(2, dim=1)
    for made, expected in zip(rotation(ids.float(), axes, torch.bfloat16), (exact.real, exact.imag), strict=True):
        assert made.dtype == torch.float32
        torch.testing.assert_close(made, expected.float(), rtol=0, atol=1e-7)


def test_blocks_are_compiled_once_not_once_each(setting: Setting):
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = setting.fast(2, blocks=compiled_blocks(backend=counter, fullgraph=True))
    torch.testing.assert_close(compiled, setting.fast(2), rtol=1e-12, atol=1e-12)
    assert counter.frame_count == 2, "two double and two single blocks are two graphs"
    torch._dynamo.reset()


# LoRA files


def test_flux_dev_has_the_published_adapted_layers():
    """The published table: how many layers of each kind, from how many channels to how many."""
    config = {"num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24, "attention_head_dim": 128}
    layers = adapted_layers(config | {"in_channels": 64})
    kinds = Counter((re.sub(r"blocks\.\d+", "blocks", name), *sizes) for name, sizes in layers.items())
    double, single = "transformer_blocks", "single_transformer_blocks"
    attention = {f"{double}.attn.{name}": 19 for name in ("to_q", "to_k", "to_v", "to_out.0")}
    attention |= {f"{single}.attn.{name}": 38 for name in ("to_q", "to_k", "to_v")}
    assert kinds == {
        ("x_embedder", 64, 3072): 1,
        (f"{double}.norm1.linear", 3072, 18432): 19,
        (f"{double}.ff.net.2", 12288, 3072): 19,
        (f"{single}.norm.linear", 3072, 9216): 38,
        (f"{single}.proj_mlp", 3072, 12288): 38,
        (f"{single}.proj_out", 15360, 3072): 38,
        **{(name, 3072, 3072): count for name, count in attention.items()},
    }
    assert kinds.total() == 343
    assert sum(64 * (inputs + outputs) for inputs, outputs in layers.values()) == 231_804_928


def test_adapted_layers_are_layers_of_the_transformer():
    found = {
        name: (module.in_features, module.out_features)
        for name, module in tiny_flux.transformer().named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    layers = adapted_layers(tiny_flux.TRANSFORMER)
    assert len(layers) == 1 + 2 * 6 + 2 * 6
    assert {name: found[name] for name in layers} == layers


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_lora_is_read_with_and_without_prefix(tmp_path: Path, prefix: str):
    adapter = tiny_flux.lora(rank=5)
    save_file(tiny_flux.lora_tensors(adapter, prefix), tmp_path / "x.safetensors")
    loaded = load_lora(tmp_path / "x.safetensors", tiny_flux.TRANSFORMER)
    assert {a.shape[0] for a, _ in loaded.pairs.values()} == {5}, "the rank is the file's"
    for name, (a, b) in adapter.pairs.items():
        assert torch.equal(loaded.pairs[name][0], a) and torch.equal(loaded.pairs[name][1], b)


def mangled(change: str) -> dict[str, torch.Tensor]:
    tensors = tiny_flux.lora_tensors(tiny_flux.lora())
    key = "transformer.single_transformer_blocks.1.proj_mlp.lora_B.weight"
    if change == "missing":
        del tensors[key]
    elif change == "extra":
        tensors["transformer.proj_out.lora_A.weight"] = torch.zeros(3, 32)
    elif change == "shape":
        tensors[key] = torch.zeros(7, 3)
    elif change == "rank":
        tensors[key] = torch.zeros(128, 4)
    else:
        tensors = tiny_flux.lora_tensors(tiny_flux.lora(tiny_flux.TRANSFORMER | {"num_layers": 3}))
    return tensors


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("missing", "1 missing: single_transformer_blocks.1.proj_mlp.lora_B.weight"),
        ("extra", "1 too many: proj_out.lora_A.weight"),
        ("shape", "proj_mlp.lora_B.weight is (7, 3), needed (128, 3)"),
        ("rank", "proj_mlp.lora_B.weight is (128, 4), needed (128, 3)"),
        ("deeper", "12 too many: transformer_blocks.2.attn.to_k.lora_A.weight"),
    ],
)
def test_lora_for_another_model_is_told_by_its_differences(tmp_path: Path, change: str, named: str):
    path = tmp_path / "other.safetensors"
    save_file(mangled(change), path)
    with pytest.raises(UsageError, match="a LoRA for another model") as caught:
        load_lora(path, tiny_flux.TRANSFORMER)
    assert named in str(caught.value) and str(path) in str(caught.value)


def test_truncated_lora(tmp_path: Path):
    path = tmp_path / "cut.safetensors"
    save_file(tiny_flux.lora_tensors(tiny_flux.lora()), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match="not a whole safetensors file"):
        check_lora(path, tiny_flux.TRANSFORMER)


# Packing, tiles, schedule


def test_latents_are_packed_as_flux_packs_them():
    latent = normal(1, 16, 6, 4)
    packed = pack(latent)
    assert torch.equal(packed[0], reference.patches(latent[0]))
    assert torch.equal(unpack(packed, 3, 2), latent)
    assert torch.equal(reference.unpatches(packed[0], 3, 2), latent[0])


def test_position_ids():
    assert torch.equal(position_ids(2, 3, "cpu").long(), reference.grid_ids(2, 3))
    assert torch.equal(position_ids(2, 3, "cpu", (0, 32)).long(), reference.grid_ids(2, 3, (0, 32)))


def test_tile_counts():
    """Published sizes and the tiles they are cut into."""
    for width, height, count in ((512, 512, 1), (768, 512, 2), (1280, 720, 6), (1024, 1024, 9), (1920, 1088, 15)):
        assert is_tiled(height, width)
        assert len(tile_starts(height // 16)) * len(tile_starts(width // 16)) == count
    assert not is_tiled(480, 848) and not is_tiled(512, 496)
    for tokens in range(32, 200):
        starts = tile_starts(tokens)
        assert starts == sorted(set(starts)) == reference.starts(tokens) and starts[-1] + 32 == tokens


class TileSetting(Setting):
    """One double and one single block, and a picture of `rows` x `columns` tokens."""

    def __init__(self, rows: int, columns: int, conditions: int = 1) -> None:
        self.config = tiny_flux.TRANSFORMER | {"num_layers": 1, "num_single_layers": 1}
        self.net = tiny_flux.transformer(num_layers=1, num_single_layers=1).double()
        self.lora = tiny_flux.lora(self.config).to("cpu", torch.float64)
        self.model = reference.Model.of(self.net, self.lora.pairs, self.config)
        self.text, self.pooled = normal(5, 24, seed=1), normal(20, seed=2)
        self.prompt = Prompt(self.text[None], self.pooled[None])
        self.grids = [normal(rows, columns, 64, seed=seed) for seed in range(3, 4 + conditions)]

    def field(self, batch: int | None) -> Field:
        return Field(
            net=self.net,
            lora=self.lora,
            prompt=self.prompt,
            blocks=Blocks(),
            grid=tuple(self.grids[0].shape[:2]),
            conditions=[grid.flatten(0, 1)[None] for grid in self.grids[1:]],
            deltas=[(0, 0)] * (len(self.grids) - 1),
            guidance=GUIDANCE,
            tile_batch=batch,
            safe_point=lambda: None,
        )

    @torch.no_grad()
    def fast(self, batch: int | None) -> torch.Tensor:
        velocities = self.field(batch)(self.grids[0].flatten(0, 1)[None], torch.tensor(TIME, dtype=torch.float64))
        return velocities.view_as(self.grids[0])


def test_one_tile_is_the_whole_picture():
    setting = TileSetting(32, 32)
    torch.testing.assert_close(setting.fast(1), setting.fast(None), rtol=1e-12, atol=1e-12)


def test_tiles_equal_the_reference_in_any_batch():
    setting = TileSetting(33, 40)
    one = setting.fast(1)
    args = (setting.model, setting.text, setting.pooled, setting.grids, TIME, GUIDANCE)
    torch.testing.assert_close(one, reference.tiled_velocity(*args), rtol=1e-10, atol=1e-10)
    for batch in (3, 4):  # of four tiles
        torch.testing.assert_close(setting.fast(batch), one, rtol=1e-12, atol=1e-12)
    placed = reference.tiled_velocity(*args, replace(PUBLISHED, local_ids=False))
    assert (one - placed).abs().max() > 1e-3, "a tile that knew its place would be noticed"


def test_schedule_shift():
    config = tiny_flux.scheduler().config
    sizes = [(512, 512), (768, 512), (1024, 688), (1280, 720), (1024, 1024), (1920, 1088), (2048, 1536)]
    mu = [schedule_shift(width // 16 * (height // 16), config) for width, height in sizes]
    assert mu == pytest.approx([0.630, 0.717, 0.9225, 1.066, 1.15, 1.838, 2.537], abs=1e-3), "extrapolated, not clamped"


@pytest.mark.parametrize("tokens", [6, 33 * 40, 8160])
def test_denoising_follows_the_whole_pictures_schedule(tokens: int):
    """In a field that is constant the latents move by the sum of the steps; the times are those of all tokens."""
    steps, seen = 7, []

    def field(latents: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        seen.append(time.item())
        return torch.full_like(latents, len(seen))

    out = denoise(field, torch.zeros(1, tokens, 1), tiny_flux.scheduler(), steps)
    levels = reference.sigmas(tokens, steps)
    assert seen == pytest.approx(levels[:-1], abs=1e-6) and levels[0] == 1
    moved = math.fsum((lower - level) * (n + 1) for n, (level, lower) in enumerate(itertools.pairwise(levels)))
    assert out[0, 0, 0].item() == pytest.approx(moved, abs=1e-5)
    if tokens > 1024:
        assert seen[3] != pytest.approx(reference.sigmas(1024, steps)[3], abs=1e-3), (
            "a tile's schedule would be noticed"
        )


def test_times_are_rounded_as_the_latents_are():
    seen = []

    def field(latents: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        seen.append(time)
        return torch.zeros_like(latents)

    scheduler = tiny_flux.scheduler()
    denoise(field, torch.zeros(1, 6, 1, dtype=torch.bfloat16), scheduler, 28)
    for time, timestep in zip(seen, scheduler.timesteps, strict=True):
        assert time.dtype == torch.bfloat16 and time == timestep.to(torch.bfloat16) / 1000
    divided_first = (scheduler.timesteps / 1000).to(torch.bfloat16)
    assert (torch.stack(seen) != divided_first).any(), "the other order would be noticed"
