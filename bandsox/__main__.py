"""``python -m bandsox``."""

from bandsox.cli import main

main()
