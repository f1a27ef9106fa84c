"""The version, where nothing needs to be installed to read it: `pyproject.toml` takes it from here."""

VERSION = "0.1.0"
