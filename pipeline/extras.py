"""Which extra of this project brings an optional package, for the message when it is missing.

The installed project works without them: optional packages are imported where they are used, and `cli.main` turns the import
that fails into one line. A test holds this table against pyproject.toml.
"""

from pipeline.errors import UsageError

EXTRA_OF = {
    "OpenEXR": "video",
    "accelerate": "train",  # the published networks ask for diffusers first
    "av": "video",
    "diffusers": "engines",
    "huggingface_hub": "engines",
    "peft": "engines",
    "scenedetect": "video",
    "submitit": "cluster",
    "tensorboard": "train",
    "transformers": "engines",
    "triton": "kernels",
}


class MissingExtraError(UsageError):
    """What was asked for needs a package that only an extra installs; the message says which."""


def missing_extra(error: ImportError) -> MissingExtraError | None:
    """What to tell a person whose command needs a package that is not here; None where no extra would bring it."""
    package = (error.name or "").partition(".")[0]
    extra = EXTRA_OF.get(package)
    if extra is None or not isinstance(error, ModuleNotFoundError):
        return None
    return MissingExtraError(
        f"this needs the package {package!r}, which is not installed: pip install 'bokehflow[{extra}]'"
    )
