"""``implicit-em explore PATH ...``: write a page of every feature of trained models."""

import argparse
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from implicit_em.base.arguments import Parser
from implicit_em.base.errors import ConfigError

SETTING = re.compile(r"[+~]*data[.=]")
"""Beginning of a setting of data."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a page of every feature of finished runs."""
    parser = Parser(
        prog="implicit-em explore",
        description="Write a page of every feature of trained models, which opens in any browser "
        "without a server. This builds the classes that the runs' configurations name.",
    )
    add = parser.add_argument
    paths = (
        "run directories; folders of SAELens or dictionary_learning, or hub:OWNER/NAME[:FOLDER]; "
        "and settings of data, e.g. data=activations data.path=STORE"
    )
    add("paths", nargs="+", metavar="PATH", help=paths)
    out = "folder of the page; default: in the run, or in outputs/NAME-DIGEST"
    add("--out", type=Path, help=out)
    serve = "serve the page to this machine until Ctrl-C, to try inputs; it is not kept"
    add("--serve", action="store_true", help=serve)
    add("--port", type=int, default=0, help="port of --serve; default: a free one")
    lm = (
        "folder, GGUF file or hub name of the language model, if it is none of conf/lm; a causal "
        "one shows which tokens a feature promotes"
    )
    add("--lm", help=lm)
    ablate = "features of the first run: what the language model loses without each, e.g. 12,40"
    add("--ablate", type=_numbers, default=[], metavar="N,N", help=ablate)
    return parser.run(arguments, _write_or_serve)


def _numbers(text: str) -> list[int | str]:
    return [int(word) if word.isdecimal() else word for word in text.split(",")]


def _write_or_serve(options: argparse.Namespace) -> None:
    from implicit_em.trained.reading import typed_data
    from implicit_em.viewer.exploring import explore, served

    if options.serve and options.out:
        raise ConfigError("serve: its page is not kept; leave out --out")
    if options.port and not options.serve:
        raise ConfigError(f"port={options.port}: needs --serve")
    # A job of a sweep may have a directory of such a name.
    typed = [word for word in options.paths if SETTING.match(word) and not Path(word).exists()]
    runs = [word for word in options.paths if word not in typed]
    if not runs:
        raise ConfigError(f"{typed[0]}: name a run directory, or a folder, before it")
    data = typed_data(runs[0], typed)
    shown = {"lm": options.lm, "data": data, "ablate": options.ablate}
    if not options.serve:
        print(f"Open {explore(runs, options.out, **shown)}")
        return
    with suppress(KeyboardInterrupt), served(runs, port=options.port, **shown) as (address, server):
        print(f"Open {address} here; Ctrl-C ends it", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
