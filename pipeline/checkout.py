"""Where this project's files are: in a checkout, with scripts/ and jobs/ beside the package, or installed without them."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def checkout() -> Path | None:
    """The repository's folder; None where the package was installed without it."""
    root = PACKAGE.parent
    return root if (root / "scripts" / "01_validate_dataset.py").is_file() else None
