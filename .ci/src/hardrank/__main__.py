"""`python -m hardrank` is the command `hardrank`."""

import sys

from hardrank.cli import main

sys.exit(main())
