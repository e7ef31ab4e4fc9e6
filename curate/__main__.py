"""The `curate` command: runs the CLI and turns every user error into one line and an exit code."""

import contextlib
import os
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from curate.errors import CurateError


def main() -> None:
    """Entry point of the console script."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from curate.cli import app
    from curate.errors import CurateError, Interrupted

    debug = "--debug" in sys.argv
    try:
        app(args=[argument for argument in sys.argv[1:] if argument != "--debug"], standalone_mode=True)
    except CurateError as error:
        _end(error, debug=debug)
    except KeyboardInterrupt:  # outside of what a command does: while it loads, or on its way out
        print("interrupted: everything finished so far is kept; run the same command again to go on", file=sys.stderr)
        sys.exit(Interrupted.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        from curate.folders import unforeseen

        if (refused := unforeseen(error)) is None:
            raise
        refused.__cause__ = error
        _end(refused, debug=debug)


def _end(error: "CurateError", *, debug: bool) -> NoReturn:
    """Say what is wrong in one line, or with its traceback, and leave with its exit code."""
    import traceback

    from curate.error_pages import pointer
    from curate.errors import Interrupted
    from curate.report.wording import visible

    said = "".join(traceback.format_exception(error)).rstrip() if debug else error if isinstance(error, Interrupted) else f"error: {error}"
    print(visible(said, keep="\n"), file=sys.stderr)  # names of files and columns may hold what steers a terminal
    if sys.stderr.isatty() and not isinstance(error, Interrupted):
        print(pointer(error.exit_code), file=sys.stderr)
    sys.exit(error.exit_code)


def main_of_module() -> None:
    """The same for `python -m curate`: where Ctrl-C came while a library ran code from a string, Python would end itself by SIGINT, not by the exit code."""
    try:
        main()
    except SystemExit as ended:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        if ended.code == 130:  # of Interrupted
            os._exit(130)
        raise


if __name__ == "__main__":
    main_of_module()
