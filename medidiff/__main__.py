"""``python -m medidiff``, for torchrun among others."""

from medidiff.cli import main

raise SystemExit(main())
