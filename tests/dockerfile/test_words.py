"""Variables, quotes and escapes in a Dockerfile's words."""

# ruff: noqa: E501 - tables, one case an item

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandsox.dockerfile.source import Fault
from bandsox.dockerfile.words import expand, expand_words, split_words

VARIABLES = {
    "PWD": "/home", "SHELL": "bash", "KOREAN": "한국어", "NULL": "", "FOO": "xxyy", "STARS": "a***yy*", "PATHS": "/foo*/*/*.txt",
    "STR": "foobarbaz", "BAR": "x", "NEEDLE": "\\*/",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello", "hello"), ("he'll'o", "hello"), ("he'llo'", "hello"), ("he\\'llo", "he'llo"), ("he\\\\'llo'", "he\\llo"),
        ("abc\\tdef", "abctdef"), ('"abc\\tdef"', "abc\\tdef"), ("'abc\\tdef'", "abc\\tdef"), ("hello\\", "hello"), ('"hello\\"\\"there"', 'hello""there'),
        ("\"''\"", "''"), ("$.", "$."), ("he$1x", "hex"), ("he$.x", "he$.x"), ("he$pwd.", "he."), ("he$PWD", "he/home"),
        ("he\\$PWD", "he$PWD"), ("he\\\\$PWD", "he\\/home"), ('"he\\$PWD"', "he$PWD"), ("'he$PWD'", "he$PWD"), ("he${PWD}xx", "he/homexx"),
        ("${NULL:-x}", "x"), ("${NULL-x}", ""), ("${NONE-x}", "x"), ("${PWD:+x}", "x"), ("${NULL:+x}", ""), ("${NULL+x}", "x"),
        ("${NONE:-${NULL:-${PWD}}}", "/home"), ("${NONE:-$PWD/$SHELL}", "/home/bash"), ("${PWD:?missing}", "/home"), ("${NULL?missing}", ""),
        ("${KOREAN}국", "한국어국"), ("안녕${NONE:-하세요}", "안녕하세요"), ('"${NONE:-"a b"}"', "a b"),
        ("${STR#f*b}", "arbaz"), ("${STR##f*b}", "az"), ("${STR%b*}", "foobar"), ("${STR%%b*}", "foo"), ("${STR/ba/fo}", "fooforbaz"),
        ("${STR//ba/fo}", "fooforfoz"), ("${STR#nothing}", "foobarbaz"), ("${STARS%%\\**}", "a"), ("${STARS%%\\**\\*}", "a"),
        ("${FOO#*}", "xxyy"), ("${FOO##*}", ""), ("${FOO#*x*y}", "y"), ("${FOO#$BAR}", "xyy"), ("${FOO#}", "xxyy"), ("${FOO%x}", "xxyy"),
        ("${PATHS/$NEEDLE/.} - ${PATHS//$NEEDLE/.}", "/foo.*/*.txt - /foo..*.txt"), ("${FOO/$NULL/ww}", "wwxxyy"), ("${FOO///}", "xxyy"),
        ("${FOO//?/z}", "zzzz"), ("${NONE#x}", ""),
    ],
)  # fmt: skip
def test_expands_as_the_reference_says(text: str, expected: str) -> None:
    assert expand(text, VARIABLES) == expected


@pytest.mark.parametrize(
    "text",
    [
        "he'll", '"abc', "${", "${}", "${:}", "${{a}}", "${PWD", "${PWD:", "${PWD:x", "${PWD=x}", "${NULL:?gone}", "${NONE?gone}",
        "${FOO//ww}", "${FOO#\\x}", "$" + "{a:-" * 500,
    ],
)  # fmt: skip
def test_refuses_what_cannot_be_expanded(text: str) -> None:
    with pytest.raises(Fault):
        expand(text, VARIABLES)


def test_splits_after_replacing_and_never_inside_quotes() -> None:
    variables = {"TWO": "a b", "ONE": "c"}
    assert expand_words("$TWO '$TWO' \"$TWO\" $ONE$ONE x\\ y", variables) == ["a", "b", "$TWO", "a b", "cc", "x y"]


def test_keeps_quotes_until_they_are_expanded() -> None:
    assert split_words("a=\"x y\" b='1 2' c=d\\ e") == ['a="x y"', "b='1 2'", "c=d\\ e"]


def test_takes_another_escape_character() -> None:
    assert expand("c:\\dir`$PWD", VARIABLES, "`") == "c:\\dir$PWD"


def test_leaves_quotes_of_a_document_alone() -> None:
    assert expand('it\'s "$PWD" \\$PWD', VARIABLES, quotes=False) == 'it\'s "/home" $PWD'


@given(st.text(alphabet="ab$*?#%/{}:-+\"'\\ ", max_size=60))
def test_any_text_is_expanded_or_refused(text: str) -> None:
    try:
        expand(text, {"a": "ab*?", "b": ""})
        split_words(text)
    except Fault:
        pass


def test_hostile_patterns_take_no_time() -> None:
    variables = {"X": "a" * 4000}
    assert expand("${X##" + "*a" * 60 + "b}", variables) == variables["X"]
    with pytest.raises(Fault):
        expand("${X//" + "*b" * 100 + "/y}" * 1, {"X": "a" * 5000})
