"""Ignore files and patterns of COPY, against what Docker documents."""

from __future__ import annotations

import time

import pytest

from bandsox.dockerfile.patterns import IgnoreRules, compile_match, read_ignore_file
from bandsox.dockerfile.source import Fault


@pytest.mark.parametrize(
    ("lines", "ignored", "kept"),
    [
        ("*/temp*", ["a/temporary.txt", "a/temp", "a/temp/x"], ["temp", "a/b/temp"]),
        ("*/*/temp*", ["a/b/temporary.txt"], ["a/temp"]),
        ("temp?", ["tempa", "tempb/x"], ["temp", "tempab", "a/tempa"]),
        ("**/*.go", ["a.go", "a/b/c.go"], ["a.gop"]),
        ("*.md\n!README.md", ["a.md"], ["README.md", "d/a.md"]),
        ("*.md\n!README*.md\nREADME-secret.md", ["README-secret.md", "x.md"], ["README.md", "README-a.md"]),
        ("*.md\nREADME-secret.md\n!README*.md", ["x.md"], ["README-secret.md"]),
        ("# comment\n\n  spaced  \n", ["spaced"], ["# comment", "a"]),
        ("/foo/bar\nfoo/baz/", ["foo/bar", "foo/baz/x"], ["foo", "bar"]),
        ("./a/../b", ["b"], ["a"]),
        ("node_modules\n!node_modules/keep", ["node_modules", "node_modules/x"], ["node_modules/keep", "node_modules/keep/y"]),
        ("*\n!src\n!*.toml", ["a", "b/c"], ["src", "src/x/y", "p.toml"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "ab"]),
        ("**/b", ["b", "a/b", "a/c/b/d"], ["ab", "bc"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["a/bb", "b"]),
        ("**", ["a", "a/b"], []),
        ("**foo", ["foo", "afoo", "a/foo"], ["foob"]),
        ("[a-c]x\n[^d]y", ["ax", "cx", "ey"], ["dx", "dy"]),
        ("a\\*b", ["a*b"], ["axb"]),
        ("a b", ["a b"], ["a", "b"]),
        ("x(1).+$", ["x(1).+$"], ["x1"]),
        (".", [], ["a"]),
        ("!a\n", [], ["a", "b"]),
    ],
)  # fmt: skip
def test_ignores_what_docker_ignores(lines: str, ignored: list[str], kept: list[str]) -> None:
    rules = IgnoreRules(read_ignore_file(lines))
    assert [path for path in ignored if not rules.ignores(path)] == []
    assert [path for path in kept if rules.ignores(path)] == []


@pytest.mark.parametrize("line", ["[", "a[", "[]a]", "[-]", "a\\", "!", "**/" * 5 + "x", "x" * 2000])
def test_a_malformed_pattern_is_refused(line: str) -> None:
    with pytest.raises(Fault):
        IgnoreRules(read_ignore_file(line))


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("abc", "abc", True), ("*", "abc", True), ("*c", "abc", True), ("a*", "a", True), ("a*", "ab/c", False), ("a*/b", "abc/b", True),
        ("a*b*c*d*e*/f", "axbxcxdxe/f", True), ("a*b*c*d*e*/f", "axbxcxdxexxx/f", True), ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", False),
        ("a*b?c*x", "abxbbxdbxebxczzx", True), ("a*b?c*x", "abxbbxdbxebxczzy", False), ("ab[c]", "abc", True), ("ab[b-d]", "abc", True),
        ("ab[e-g]", "abc", False), ("ab[^c]", "abc", False), ("a\\*b", "a*b", True), ("a?b", "a☺b", True), ("a[^a]b", "a☺b", True),
        ("a[^a][^a]b", "a☺b", False), ("[a-ζ]*", "α", True), ("a?b", "a/b", False), ("a*b", "a/b", False), ("[\\]a]", "]", True),
        ("*x", "xxx", True),
    ],
)  # fmt: skip
def test_matches_as_go_does(pattern: str, name: str, matches: bool) -> None:
    assert bool(compile_match(pattern).match(name)) is matches


def test_a_hostile_pattern_takes_no_time() -> None:
    begin = time.thread_time()
    assert not compile_match("*a" * 100 + "*b").match("a" * 255)
    assert time.thread_time() - begin < 1
