"""Write the pages to the folder that is named."""

import sys
from pathlib import Path

from . import PAGES

for name, page in PAGES.items():
    (Path(sys.argv[1]) / name).write_text(page(), encoding="utf-8", newline="\n")
