#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares random Jinja expressions with jinja2 set up as Transformers does, by the shared library.

    python tests/parity/jinja_random.py --library build/libshadowpeft.so [--seed 1] [--count 20000]

Expressions are put together of values of every kind, operators, filters, tests, methods and slices. Where jinja2 gives a
text, ours must be the same; where it fails, ours must fail. Left out are expressions whose text shows an object of
Python's, what we refuse by name, and slices of constants that cannot be sliced, which jinja2 folds into an undefined
value at compile time and refuses at run time.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent / "fixtures")]
import chat_real  # noqa: E402
import make_chat  # noqa: E402

NAMES = [*make_chat.VARIABLES, "missing"]
LITERALS = ["'a'", "'b,c d'", "'é漢'", "''", "' x\\n'", "'%s'", "'{}'", "'A'", "'role'", "'3'", "1.5", "0.0", "true",
            "none", "[]", "[1, 2]", "{}", "{'a': 1}", "(1, 2)", *map(str, range(-5, 13))]
FILTERS = """upper|lower|title|capitalize|trim|length|first|last|list|string|tojson|int|float|abs|round|reverse | list|sort|join
join(', ')|default('z')|default(0, true)|items | list|dictsort|unique | list|select | list|reject | list|map('string') | list
map('upper') | list|map(attribute='role') | list|selectattr('role') | list|replace('a', 'bb')|indent|indent(2, true, true)
safe|e|wordcount|sum|min|max|tojson(indent=1)|tojson(sort_keys=true)|center(9)|batch(2) | list|count"""
TESTS = """defined|undefined|none|string|mapping|sequence|iterable|number|integer|float|boolean|true|false|odd|even
divisibleby(2)|eq(1)|in([1, 'a'])|gt(1)|lower|upper|callable|sameas(none)|ne('a')"""
METHODS = """upper()|lower()|strip()|lstrip()|rstrip()|split()|split(',')|split(' ', 1)|rsplit(' ', 1)|title()|capitalize()
startswith('a')|endswith('d')|replace('l', '')|find('o')|count('l')|isdigit()|isalpha()|isupper()|items()|get('a')|get('b', 2)
splitlines()|swapcase()|join(['x', 'y'])|partition(' ')|index(1)|rfind('l')|islower()|isspace()|isalnum()"""
OPERATORS = "+ - * / // % ** ~ == != < <= > >= in not&in and or".split()


def rows(text):
    return [part for line in text.splitlines() for part in line.replace(" | ", "\0").split("|")]


class Maker:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.filters, self.tests, self.methods = (
            [part.replace("\0", " | ") for part in rows(text)] for text in (FILTERS, TESTS, METHODS))

    def subscript(self, depth):
        n = self.random.randint
        return self.random.choice([self.expression(depth - 1), "0", "-1", "::-1", "1:", "'a'", "'role'",
                                   "%d:%d:%d" % (n(-6, 6), n(-6, 6), self.random.choice([-2, -1, 1, 2]))])

    def expression(self, depth):
        pick = self.random.choice
        if depth <= 0 or self.random.random() < 0.15:
            return pick([pick(NAMES), pick(LITERALS)])
        a, b, c = (self.expression(depth - 1) for _ in range(3))
        operator = pick(OPERATORS).replace("&", " ")
        return pick([
            "(%s %s %s)" % (a, operator, b), "(%s %s %s)" % (a, operator, b), "%s %s %s" % (a, operator, b),
            "(%s) | %s" % (a, pick(self.filters)), "((%s) | %s)" % (a, pick(self.filters)),
            "(%s is %s%s)" % (a, pick(["", "not "]), pick(self.tests)), "(%s).%s" % (a, pick(self.methods)),
            "(%s)[%s]" % (a, self.subscript(depth)), "(%s if %s else %s)" % (a, b, c),
            pick(["[%s, %s]", "(%s, %s)", "{'k': %s, 'j': %s}"]) % (a, b), "%s %s" % (pick(["not", "-", "+"]), a)])


def theirs(template):
    make_chat.utils._compile_jinja_template.cache_clear()
    try:
        return make_chat.utils._compile_jinja_template(template).render(**make_chat.VARIABLES)
    except Exception:  # whatever Python makes of it
        return None


def ours(library, path):
    try:
        handle = library.load(path)
        try:
            return library.render(handle, [], None, make_chat.VARIABLES), None
        finally:
            library.lib.sp_chat_template_free(handle)
    except RuntimeError as error:
        return None, str(error)


def left_out(expected, error):
    opaque = expected is not None and (make_chat.opaque(expected) or " object" in expected or "dict_" in expected)
    return opaque or (error and ("is not supported" in error or "cannot be sliced" in error))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", default="build/libshadowpeft.so")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=20000)
    args = parser.parse_args()
    library, maker = chat_real.Library(args.library), Maker(args.seed)
    equal = refused = skipped = differ = 0
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "t.jinja"
        for _ in range(args.count):
            expression = maker.expression(maker.random.randint(1, 4))
            if expression.count("**") > 1 or "not []" in expression:  # too large; and `not` taken for a name
                continue
            template = "{{ %s }}" % expression
            path.write_text(template, encoding="utf-8")
            expected = theirs(template)
            found, error = ours(library, path)
            if expected == found:
                equal += found is not None
                refused += found is None
            elif left_out(expected, error):
                skipped += 1
            else:
                differ += 1
                print("%s\n  expected %r\n  found    %r" % (template, expected, found if error is None else error))
    print("%d texts equal, %d refused by both, %d left out, %d differ" % (equal, refused, skipped, differ))
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
