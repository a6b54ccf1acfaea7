"""``python -m fewscope``."""

import sys

from fewscope.cli import main

sys.exit(main())
