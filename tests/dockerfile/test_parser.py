"""From a Dockerfile's text to instructions, or to an error that says where and what."""

# ruff: noqa: E501 - tables, one case an item

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bandsox.dockerfile import instructions as ins
from bandsox.dockerfile.parser import parse
from bandsox.errors import InvalidDockerfile


def one(text: str) -> ins.Instruction:
    return parse(f"FROM scratch\n{text}\n".encode()).instructions[1]


def run(text: str) -> ins.Run:
    found = one(text)
    assert isinstance(found, ins.Run)
    return found


# ── lines ───────────────────────────────────────────────────────────────────────────────────────


def test_joins_continued_lines_and_drops_comments_and_blanks_between() -> None:
    assert run("RUN a \\\n  # comment\n\n   b \\  \n c").command.text == "a    b  c"


def test_comments_before_an_instruction_may_be_indented() -> None:
    assert len(parse(b"  # one\nFROM a\n\t# two\n  RUN x # not a comment\n").instructions) == 2


def test_windows_line_ends_and_a_byte_order_mark_do_not_matter() -> None:
    assert run("RUN a \\\r\n b\r").command.text == "a  b"
    assert parse("\ufeffFROM a\r\n".encode()).instructions[0].image == "a"  # type: ignore[attr-defined]


def test_the_escape_directive_changes_continuations() -> None:
    found = parse(b"# syntax=docker/dockerfile:1\n# escape=`\nFROM a\nRUN x `\n c:\\\\dir\\\n").instructions[1]
    assert isinstance(found, ins.Run) and found.command.text == "x  c:\\\\dir\\"


def test_a_directive_after_a_comment_is_a_comment() -> None:
    assert parse(b"# hello\n# escape=`\nFROM a\n").escape == "\\"


@pytest.mark.parametrize("text", ["# escape=x\nFROM a", "# escape=`\n# escape=`\nFROM a"])
def test_a_broken_directive_is_refused(text: str) -> None:
    with pytest.raises(InvalidDockerfile):
        parse(text.encode())


# ── here-documents ──────────────────────────────────────────────────────────────────────────────


def test_a_here_document_is_taken_as_it_is() -> None:
    found = run("RUN <<EOF\necho \\\n# no comment\nENV x\nEOF")
    assert [document.content for document in found.command.heredocs] == ["echo \\\n# no comment\nENV x\n"]
    assert found.command.heredocs[0].expands


def test_several_here_documents_quoted_and_with_a_dash() -> None:
    found = one("COPY <<one <<-'two' /dir/\n1\none\n\t\t2\n\ttwo")
    assert isinstance(found, ins.Copy)
    assert [(one.name, one.content, one.expands) for one in found.heredocs] == [("one", "1\n", True), ("two", "2\n", False)]
    assert found.destination == "/dir/"


def test_a_mark_inside_quotes_or_arithmetic_begins_no_here_document() -> None:
    assert run('RUN echo "<<EOF" $((1<<2)) <<<word').command.heredocs == ()


def test_an_open_here_document_is_refused_at_its_line() -> None:
    with pytest.raises(InvalidDockerfile, match=r"Dockerfile:2: the here-document EOF has no end"):
        one("RUN <<EOF\nabc")


# ── instructions ────────────────────────────────────────────────────────────────────────────────


def test_reads_from() -> None:
    found = parse(b"FROM --platform=$BUILDPLATFORM image:$TAG As Builder\n").instructions[0]
    assert isinstance(found, ins.From)
    assert (found.image, found.name, found.platform) == ("image:$TAG", "builder", "$BUILDPLATFORM")


def test_tells_json_from_shell_form() -> None:
    assert run('RUN ["a", "b c"]').command.words == ("a", "b c")
    assert run("RUN ['a']").command.words is None
    assert run("RUN [ -f x ] && y").command.words is None


def test_reads_flags_before_arguments_only() -> None:
    found = one('COPY --from=x --chown=a:b --chmod=755 --link --exclude=*.md --exclude="a b" --parents src --dst')
    assert isinstance(found, ins.Copy)
    assert (found.source_stage, found.chown, found.chmod, found.parents) == ("x", "a:b", "755", True)
    assert (found.sources, found.destination, found.exclude) == (("src",), "--dst", ("*.md", '"a b"'))


def test_reads_mounts() -> None:
    found = run("RUN --mount=type=cache,target=/c,sharing=locked,ro --mount=source=a,target=/b x")
    assert [(mount.type, mount.get("target"), mount.read_only) for mount in found.mounts] == [("cache", "/c", True), ("bind", "/b", None)]


def test_reads_both_forms_of_env() -> None:
    assert one('ENV a=1 b="2 3" c=4\\ 5').pairs == (("a", "1"), ("b", '"2 3"'), ("c", "4\\ 5"))  # type: ignore[attr-defined]
    assert one("ENV name the value").pairs == (("name", "the value"),)  # type: ignore[attr-defined]


def test_reads_healthcheck() -> None:
    found = one("HEALTHCHECK --interval=1m30s --retries=3 CMD curl x")
    assert isinstance(found, ins.Healthcheck) and found.command is not None
    assert (found.interval, found.retries, found.command.text) == (90 * 10**9, 3, "curl x")
    assert one("HEALTHCHECK NONE").command is None  # type: ignore[attr-defined]


# ── errors ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("RUNN x", "did you mean RUN"), ("RUN", "needs an argument"), ("COPY a", "destination"), ("COPY --form=x a b", "--from"),
        ("COPY --from= a b", "no value"), ("RUN --security=insecure x", "cannot be honoured"), ("RUN --mount=type=ssh x", "secret"),
        ("RUN --mount=type=odd x", "no type"), ("RUN --mount=nonsense x", "not an option"), ("RUN --network=host x", "host's network"),
        ("CMD [1]", "no string"), ('RUN []', "empty list"), ("SHELL sh", "JSON"), ("ONBUILD FROM x", "ONBUILD"), ("ONBUILD ONBUILD RUN x", "ONBUILD"),
        ("ENV x", "no value"), ("ENV a=1 b", "name=value"), ("HEALTHCHECK x", "NONE"), ("HEALTHCHECK --interval=1x CMD a", "not a time"),
        ("FROM a b", "AS"), ("FROM a AS 1x", "stage's name"), ("ONBUILD COPY <<EOF /x", "here-document"),
    ],
)  # fmt: skip
def test_an_error_names_file_line_text_and_remedy(text: str, says: str) -> None:
    with pytest.raises(InvalidDockerfile) as caught:
        parse(f"FROM scratch\n# comment\n\n{text}\n".encode(), "dir/Dockerfile")
    message = str(caught.value)
    assert message.startswith("dir/Dockerfile:4: ") and f"| {text}" in message and says in message
    assert caught.value.detail["line"] == 4


@pytest.mark.parametrize("data", [b"", b"# only\n", b"ARG x=1\n", b"\xff\xfe", b"FROM a\nRUN a\0b\n", b"x" * (5 << 20)])
def test_a_file_that_is_no_dockerfile_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidDockerfile):
        parse(data)


_WORDS = st.sampled_from(
    ["FROM", "RUN", "COPY", "ADD", "ENV", "ARG", "ONBUILD", "HEALTHCHECK", "SHELL", "LABEL", "--mount=", "--from=", "type=cache", ",", "=", "<<EOF",
     "<<-'E'", "EOF", "E", "\n", "\\\n", "# escape=`\n", "`", "[", "]", '"a"', "'", "$x", "${", "}", "CMD", "NONE", "a", "/b", "\t", " ", "\ufeff", "\r\n"]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(_WORDS, max_size=30).map(lambda words: " ".join(words).encode())))
@example(b"FROM a\nRUN " + b"[" * 100_000)
@example(b"FROM a\nHEALTHCHECK --interval=" + b"9" * 5000 + b"s CMD x")
def test_any_text_is_read_or_refused(data: bytes) -> None:
    try:
        parse(data)
    except InvalidDockerfile as error:
        assert str(error)


_NAME = st.text(st.characters(codec="ascii", categories=["L"]), min_size=1, max_size=8)


@given(
    st.dictionaries(
        _NAME, st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20).filter(str.strip), min_size=1, max_size=4
    )
)
def test_json_arguments_survive_a_round_trip(values: dict[str, str]) -> None:
    import json

    words = [*values.keys(), *values.values()]
    assert run("RUN " + json.dumps(words)).command.words == tuple(words)
