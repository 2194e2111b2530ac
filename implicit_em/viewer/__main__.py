"""``implicit-em explore RUN ...``: write a page of every feature of finished runs."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from implicit_em.base.arguments import Parser
from implicit_em.base.errors import ConfigError
from implicit_em.base.quiet import quieten


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or serve it; return the exit code."""
    parser = Parser(
        prog="implicit-em explore",
        description="Write a page of every feature of finished runs, which opens in any browser "
        "without a server. This builds the classes that the runs' configurations name.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories")
    out = "folder of the page, or its file; default: RUN/explore"
    parser.add_argument("--out", type=Path, help=out)
    single = "one file, for at most 1,000 features"
    parser.add_argument("--single", action="store_true", help=single)
    serve = "serve the page to this machine until Ctrl-C, to try inputs; it is not kept"
    parser.add_argument("--serve", action="store_true", help=serve)
    parser.add_argument("--port", type=int, default=0, help="port of --serve; default: a free one")
    lm = (
        "folder, GGUF file or hub name of the language model, if it is none of conf/lm; a causal "
        "one shows which tokens a feature promotes"
    )
    parser.add_argument("--lm", help=lm)
    return parser.run(arguments, _write_or_serve)


def _write_or_serve(options: argparse.Namespace) -> None:
    from implicit_em.viewer.exploring import explore

    if options.serve and (options.out or options.single):
        raise ConfigError("serve: its page is not kept; leave out --out and --single")
    quieten()
    if options.serve:
        _serve(options)
    else:
        print(f"Open {explore(options.runs, options.out, options.single, options.lm)}")


def _serve(options: argparse.Namespace) -> None:
    from implicit_em.viewer.exploring import served

    with suppress(KeyboardInterrupt), served(options.runs, options.lm, options.port) as found:
        address, server = found
        print(f"Open {address} here; Ctrl-C ends it", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
