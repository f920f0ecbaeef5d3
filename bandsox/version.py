"""The version, in the one place where it is written; the package's metadata takes it from here."""

__version__ = "4.0.0.dev0"
