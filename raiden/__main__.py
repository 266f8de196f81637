"""``python -m raiden``."""

import sys

from raiden.cli import main

sys.exit(main())
