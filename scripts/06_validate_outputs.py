"""Phase 6: check every output, write output/validation_report.json and output/report/index.html.

python scripts/06_validate_outputs.py
python scripts/06_validate_outputs.py --scene bear
"""

import sys

from pipeline.commands import script

main = script("validate", __doc__)

if __name__ == "__main__":
    sys.exit(main(None))
