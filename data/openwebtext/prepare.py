"""`python prepare.py`, as nanoGPT's users type it: scripts/prepare.py for the data set of this folder's name."""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent.parent))  # also where the project is not installed

from scripts.prepare import here  # noqa: E402

if __name__ == "__main__":
    here(FOLDER)
