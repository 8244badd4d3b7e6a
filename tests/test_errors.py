"""One error type, one catalogue: every raise has a code, and every code has a meaning, a raise and a test.

The sources are parsed, so a raise counts whether or not a test comes by.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest

from medidiff import catalogue, errors
from medidiff.catalogue import CATALOGUE, Entry, page
from medidiff.errors import InputError, MedidiffError, OutputError, SettingsError

ROOT = Path(__file__).parents[1]
CODE = re.compile(r"E-[A-Z0-9]+(-[A-Z0-9]+)*")
KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and name != "MedidiffError"}
WAYS = {(kind,) for kind in (*KINDS.values(), MedidiffError)} | {(InputError, OutputError)}


@pytest.fixture(scope="module")
def package() -> dict[str, str]:
    """Source of every module that may raise, by its path."""
    found = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in (ROOT / "medidiff").rglob("*.py")}
    return {name: text for name, text in found.items() if "catalogue" not in name and "errors.py" not in name}


@pytest.fixture(scope="module")
def tests() -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py")}


# --- the laws: each returns its faults ------------------------------------------------------------------------------


def codes_in(node: ast.AST) -> set[str]:
    """Codes that stand as whole strings below a node."""
    strings = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str))
    return {text for text in strings if CODE.fullmatch(text)}


def raises(tree: ast.AST) -> Iterator[tuple[ast.FunctionDef, ast.Call]]:
    """Every construction of one of our errors, with the function (or module) round it."""
    for outer in ast.walk(tree):
        if not isinstance(outer, ast.FunctionDef | ast.Module):
            continue
        for node in _own(outer):
            name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if name in KINDS or name == "MedidiffError" or _is_kind(name, outer):
                yield outer, node


def _own(outer: ast.AST) -> Iterator[ast.AST]:
    """What stands in a function and in no function inside it."""
    for child in ast.iter_child_nodes(outer):
        yield child
        if not isinstance(child, ast.FunctionDef):
            yield from _own(child)


def _is_kind(name: str, outer: ast.AST) -> bool:
    """Whether a name is a parameter that takes the class of an error."""
    arguments = outer.args.args + outer.args.kwonlyargs if isinstance(outer, ast.FunctionDef) else []
    return any(a.arg == name and a.annotation and "MedidiffError" in ast.unparse(a.annotation) for a in arguments)


def without_a_code(package: Mapping[str, str]) -> list[str]:
    """Errors whose code cannot be read off the source: neither literal, nor chosen from literals, nor passed on."""
    faults = []
    for name, text in package.items():
        tree = ast.parse(text)
        for outer, call in raises(tree):
            code = call.args[0] if call.args else ast.Constant(None)
            passed_on = isinstance(code, ast.Attribute) and code.attr == "code"
            if not (codes_in(code) or passed_on or _chosen(code, outer, tree)):
                faults.append(f"{name}:{call.lineno}: {ast.unparse(code)}")
    return faults


def _chosen(code: ast.expr, outer: ast.AST, tree: ast.AST) -> bool:
    """Whether a variable holds one of the literals of its function, or one that each caller hands in."""
    if not isinstance(code, ast.Name):
        return False
    if codes_in(outer):
        return True
    if _is_from_a_table(code.id, outer, tree):
        return True
    places = [a.arg for a in outer.args.args] if isinstance(outer, ast.FunctionDef) else []
    if code.id not in places:
        return False
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == outer.name]
    return bool(calls) and all(codes_in(call) or any(isinstance(a, ast.Starred) for a in call.args) for call in calls)


def _is_from_a_table(name: str, outer: ast.AST, tree: ast.AST) -> bool:
    """Whether a variable runs over a parameter for which each caller hands in a table of the module with codes."""
    loops = [
        n for n in ast.walk(outer) if isinstance(n, ast.For) and name in ast.unparse(n.target).strip("()").split(", ")
    ]
    if (
        not loops
        or not isinstance(outer, ast.FunctionDef)
        or ast.unparse(loops[0].iter) not in [a.arg for a in outer.args.args]
    ):
        return False
    tables = {
        ast.unparse(target)
        for node in ast.iter_child_nodes(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and codes_in(node.value)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    }
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == outer.name]
    return bool(calls) and all(tables & {ast.unparse(argument) for argument in call.args} for call in calls)


def not_in_the_catalogue(package: Mapping[str, str]) -> list[str]:
    found = {code: name for name, text in package.items() for code in codes_in(ast.parse(text))}
    return [
        f"{code} of {name} is not in medidiff/catalogue"
        for code, name in sorted(found.items())
        if code not in CATALOGUE
    ]


def with_another_error(package: Mapping[str, str]) -> list[str]:
    """Codes raised as another error than the catalogue says: one code would mean two things."""
    faults = []
    for name, text in package.items():
        for _, call in raises(ast.parse(text)):
            kind = KINDS.get(call.func.id)
            codes = codes_in(call.args[0]) if call.args else set()
            faults += [
                f"{name}:{call.lineno}: {code} as {call.func.id}"
                for code in codes
                if kind and code in CATALOGUE and kind not in CATALOGUE[code].errors
            ]
    return faults


def never_raised(package: Mapping[str, str]) -> list[str]:
    raised = {code for text in package.values() for code in codes_in(ast.parse(text))}
    return [f"{code} is raised nowhere" for code in CATALOGUE if code not in raised]


def never_tested(tests: Mapping[str, str]) -> list[str]:
    named = {match.group() for text in tests.values() for match in CODE.finditer(text)}
    return [f"{code} stands in no test" for code in CATALOGUE if code not in named]


# --- the package keeps them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [without_a_code, not_in_the_catalogue, with_another_error, never_raised])
def test_the_package_keeps_the_law(law, package):
    assert law(package) == []


def test_every_code_is_tested(tests):
    assert never_tested(tests) == []


def test_the_whole_package_was_read(package):
    found = sum(1 for text in package.values() for _ in raises(ast.parse(text)))
    assert found > 150
    assert len(CATALOGUE) > 90


def test_a_code_stands_once_and_is_one_kind_of_error():
    assert len(catalogue._ALL) == len(CATALOGUE)
    sources = [ast.parse(path.read_text("utf-8")) for path in (ROOT / "medidiff" / "catalogue").glob("*.py")]
    tables = [n for source in sources for n in ast.walk(source) if isinstance(n, ast.Dict)]
    keys = [key.value for table in tables for key in table.keys if isinstance(key, ast.Constant)]
    assert sorted(keys) == list(CATALOGUE)  # a dict would hide a second row of one name
    assert {entry.errors for entry in CATALOGUE.values()} <= WAYS


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=CATALOGUE)
def test_each_row_is_plain_sentences(entry):
    assert CODE.fullmatch(entry.code)
    for text in (entry.meaning, entry.mend):
        assert text[0].isupper() or text.startswith("--")
        assert text.endswith(".")
        assert len(text.split()) <= 40
        assert "|" not in text
        assert "\n" not in text


def test_the_page_is_the_catalogue():
    assert (ROOT / "docs" / "errors.md").read_text("utf-8") == page(), "run: python validation/error_page.py"


def test_the_exit_codes_are_distinct_and_documented():
    codes = {kind.__name__: kind.exit_code for kind in KINDS.values()}
    assert len(set(codes.values())) == len(codes)
    shown = (ROOT / "docs" / "cli.md").read_text("utf-8")
    for number in (0, 1, *codes.values(), 7, 8, 130, 141, 143):
        assert f"| {number} |" in shown


def test_a_message_says_what_was_met_what_was_wanted_and_what_to_do():
    error = InputError("E-GAP", "5 mm apart", wanted="2.5 mm", mend="Fetch it.", file="a.dcm", attribute="Position")
    assert str(error) == "E-GAP: a.dcm Position: 5 mm apart (wanted: 2.5 mm). Fetch it."
    assert (error.code, error.file, error.attribute) == ("E-GAP", "a.dcm", "Position")
    assert isinstance(error, MedidiffError)
    assert str(SettingsError("E-USAGE", "no verb")) == "E-USAGE: no verb"


def test_a_refusal_that_is_given_a_file_says_all_else_as_before():
    told = {"wanted": "2.5 mm", "mend": "Fetch it.", "attribute": "Position"}
    again = InputError("E-GAP", "5 mm apart", **told).about("a.dcm")
    assert type(again) is InputError
    assert vars(again) == vars(InputError("E-GAP", "5 mm apart", file="a.dcm", **told))


# --- a broken package does not --------------------------------------------------------------------------------------

BROKEN = {
    "a computed code": (without_a_code, "raise InputError('E-' + kind, 'x')"),
    "a variable code": (without_a_code, "def f(code):\n    raise InputError(code, 'x')"),
    "a code from elsewhere": (without_a_code, "def f(code):\n    raise InputError(code, 'x')\nf(other())"),
    "a table without codes": (
        without_a_code,
        "T = (1,)\ndef f(rows):\n    for code in rows:\n        raise InputError(code, 'x')\nf(T)",
    ),
    "no code": (without_a_code, "raise OutputError()"),
    "a variable class": (without_a_code, "def f(kind: type[MedidiffError]):\n    raise kind(text)"),
    "an unknown code": (not_in_the_catalogue, "raise InputError('E-NEWFAULT', 'x')"),
    "an unknown code in a table": (not_in_the_catalogue, "RULES = (('E-NEWFAULT', 3),)"),
    "another error": (with_another_error, "raise SettingsError('E-GAP', 'x')"),
    "another error on a choice": (with_another_error, "raise InputError('E-DISK' if full else 'E-OUT', 'x')"),
    "a dead code": (never_raised, "raise InputError('E-GAP', 'x')"),
}
GOOD = """
raise InputError('E-GAP', 'x')
def chosen(n):
    code = 'E-4D' if n else 'E-2D'
    raise InputError(code, 'x')
def handed(code, found):
    return InputError(code, found)
handed('E-TRUNC', 'x')
TABLE = (('E-GAP', 1),)
def looped(rows):
    for code, number in rows:
        raise InputError(code, 'x')
looped(TABLE)
def passed(error):
    raise InputError(error.code, error.found)
def either(error: type[MedidiffError]):
    raise error('E-SHEAR', 'x')
"""


@pytest.mark.parametrize(("law", "source"), BROKEN.values(), ids=BROKEN)
def test_a_broken_package_breaks_the_law(law, source):
    assert law({"broken.py": source}) != []


@pytest.mark.parametrize("law", [without_a_code, not_in_the_catalogue, with_another_error])
def test_a_good_package_keeps_the_law(law):
    assert law({"good.py": GOOD}) == []


@pytest.mark.parametrize("kind", [*KINDS.values(), MedidiffError])
def test_an_error_goes_from_one_process_to_another_with_all_that_it_says(kind):
    told = kind("E-GAP", "a gap", wanted="none", mend="Fill it.", file="a.nii", attribute="Position")
    again = ForkingPickler.loads(ForkingPickler.dumps(told))
    assert type(again) is kind
    assert vars(again) == vars(told)
    assert str(again) == str(told)


def test_an_untested_code_is_named():
    assert "E-GAP stands in no test" in never_tested({"test_a.py": "E-GAPS E-TRUNC"})


def test_a_second_row_of_one_code_is_seen(monkeypatch):
    twice = (*catalogue._ALL, Entry("E-GAP", "Other.", "Other.", (InputError,)))
    monkeypatch.setattr(catalogue, "_ALL", twice)
    with pytest.raises(AssertionError):
        test_a_code_stands_once_and_is_one_kind_of_error()
