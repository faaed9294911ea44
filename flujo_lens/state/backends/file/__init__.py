"""The driver for folders of JSON files."""

from flujo_lens.state.backends.file.backend import FileBackend

__all__ = ["FileBackend"]
