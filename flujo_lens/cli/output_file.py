"""Files that a command was asked to write: ``-`` is stdout."""

from __future__ import annotations

from flujo_lens.cli.context import App
from flujo_lens.errors import LensError, OperationFailedError, UsageError


def write_file(app: App, name: str, data: bytes, *, overwrite: bool = False, mode: int = 0o600) -> None:
    """Write `data` to the file `name`, whole or not at all, or to stdout.

    Raises:
        UsageError: the file exists, and `overwrite` is False; or its folder does not exist.
        OperationFailedError: it cannot be written.
    """
    if name == "-":
        buffer = getattr(app.world.stdout, "buffer", None)
        if buffer is None:
            app.world.stdout.write(data.decode())
        else:
            buffer.write(data)
        return
    from flujo_lens.fs.output_file import write_output

    path = app.world.cwd / name
    try:
        write_output(path, data, overwrite=overwrite, mode=mode)
    except OSError as error:
        raise _not_written(name, error) from error


def _not_written(name: str, error: OSError) -> LensError:
    if isinstance(error, FileExistsError):
        return UsageError(f"{name} already exists; nothing was changed", hint="--overwrite replaces it", path=name)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UsageError(f"no such folder for {name}; nothing was changed", path=name)
    return OperationFailedError(f"cannot write {name}: {error.strerror or error}; nothing was changed", path=name)
