"""What the converter programs share: flags of their own, and errors without a traceback."""

import sys
from collections.abc import Callable, Sequence

from absl import flags

from converters.sources import ConversionError

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def run(
    main: Callable[[flags.FlagValues], int],
    define: Callable[[flags.FlagValues], None],
    doc: str,
    argv: Sequence[str] | None = None,
) -> int:
    """Runs a program.

    Args:
      main: the program, given its flags; returns the exit code.
      define: adds the program's flags.
      doc: what --help says before the flags.
      argv: the command line; the process's by default.

    Returns:
      The exit code; EXIT_BAD_INPUT, with the reason on stderr, when the input is at fault;
      EXIT_INTERRUPTED when the user has stopped it.
    """
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "show the flags and exit", short_name="h", flag_values=values)
    define(values)
    argv = list(sys.argv if argv is None else argv)
    if {"-h", "--help", "-help"} & set(argv[1:]):
        print(doc.strip(), values.get_help(), sep="\n\n")
        return 0
    try:
        rest = values(argv)[1:]
        if rest:
            raise ConversionError(f"unexpected argument {rest[0]!r}: write --name=value")
        return main(values)
    except (ConversionError, flags.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
