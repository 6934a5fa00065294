"""What a network costs: parameters by part and operations, computed from shapes alone.

python -m model.summary small                                        # BokehFlow, at 720p and 1080p
python -m model.summary nano --size 854x480 --dtype float32
python -m model.summary bokehdiff --side 512                         # BokehDiff on SDXL
"""

import sys


def main(argv: list[str] | None = None) -> int:
    """BokehFlow's, or behind its name another family's."""
    given = sys.argv[1:] if argv is None else argv
    if given[:1] == ["bokehdiff"]:
        from model.bokehdiff.summary import main as summary

        return summary(given[1:])
    from model.bokehflow.summary import main as of_bokehflow

    return of_bokehflow(given)


if __name__ == "__main__":
    sys.exit(main())
