"""``python -m bandsox.cli``."""

from bandsox.cli import main

main()
