"""``make size``: how large the framework, its wing for language models, studies and tests are."""

import ast
import io
import tokenize
from pathlib import Path

NO_CODE = {"COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER"}
"""Tokens that make no line of code."""


def code_lines(folder: str) -> int:
    """Return the number of lines in a folder that are neither docstring nor comment nor blank."""
    total = 0
    for path in Path(folder).rglob("*.py"):
        text, docstrings, code = path.read_text(), set(), set()
        for node in ast.walk(ast.parse(text)):
            match node:
                case ast.Expr(ast.Constant(str()), lineno=first, end_lineno=int(last)):
                    docstrings |= {*range(first, last + 1)}
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if tokenize.tok_name[token.type] not in NO_CODE:
                code |= {*range(token.start[0], token.end[0] + 1)}
        total += len(code - docstrings)
    return total


if __name__ == "__main__":
    wing = code_lines("implicit_em/language")
    lines = sum(path.read_text().count("\n") for path in Path("tests").rglob("*.py"))
    print(f"{code_lines('implicit_em') - wing:7,}  framework without the wing, code lines")
    print(f"{wing:7,}  wing, code lines")
    print(f"{code_lines('implicit_em_studies'):7,}  studies, code lines")
    print(f"{lines:7,}  tests, lines; {code_lines('tests'):,} code lines")
    print(f"{len([*Path('implicit_em/training').glob('[!_]*.py')]):7,}  modules in training/")
