"""The model that a request's body names."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.errors import InvalidRequest
from supervisor.proxy.bodies import head_of_json, model_in_form

FORM = b"multipart/form-data; boundary=B"


# JSON.


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"model":"a"}', "a"),
        (b' \n{ "messages" : [], "model" :\t"a" } ', "a"),
        (rb'{"model":"\u0061\/\"b\"\ud83e\udd99"}', 'a/"b"🦙'),
        ('{"model":"é"}'.encode(), "é"),
        (rb'{"mod\u0065l":"escaped key"}', "escaped key"),
        (b'{"model":"a","x":{"model":"b","model":"c"}}', "a"),
        (b'{"x":{"model":"inner"},"y":[{"model":"inner"}]}', None),
        (b'{"x":{"model":"inner"},"model":"outer"}', "outer"),
        (b'{"x":"\\"model\\":\\"no\\"","model":"yes"}', "yes"),
        (b'{"model":null}', None),
        (b'{"Model":"A"}', None),
        (b'{"model":""}', ""),
        (b"{}", None),
    ],
)
def test_model_in_json(body: bytes, name: str | None) -> None:
    """The model is what a JSON parser finds at the top."""
    assert head_of_json(body).model == name


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"model":"a"',
        b'{"model":"a"} and more',
        b"[]",
        b'"a"',
        b"null",
        b"7",
        b'{"model":"a","model":"b"}',
        b'{"model":"a","x":{"model":"c"},"model":"a"}',
        b'{"model":["a"]}',
        b'{"model":{"id":"a"}}',
        b"\xef\xbb\xbf" + b'{"model":"a"}',
        b'{"model":"\\ud800"}',
        b"model=a",
        b"\x00",
    ],
)
def test_no_model_in_what_is_no_json(body: bytes) -> None:
    """What is not a JSON object with a text `model` is the client's mistake."""
    with pytest.raises(InvalidRequest, match="the request body"):
        head_of_json(body)


def test_large_json() -> None:
    """The model is found behind a long conversation, and before one."""
    messages = [{"role": "user", "content": "é" * 1000, "model": "inner"}] * 60

    assert head_of_json(json.dumps({"messages": messages, "model": "a"}).encode()).model == "a"
    assert head_of_json(json.dumps({"model": "a", "messages": messages}, ensure_ascii=False).encode()).model == "a"


# Forms.


def field(name: str, value: bytes, *more: bytes) -> bytes:
    head = b'Content-Disposition: form-data; name="' + name.encode() + b'"'
    return b"\r\n".join((head + b"".join(more), b"", value))


def form(*parts: bytes, boundary: bytes = b"B", preamble: bytes = b"") -> bytes:
    body = b"".join(b"--" + boundary + b"\r\n" + each + b"\r\n" for each in parts)
    return preamble + body + b"--" + boundary + b"--\r\n"


FILE = field("file", b"RIFF\r\n\r\n\x00\xff--B name=model\r\n", b'; filename="a.wav"', b"\r\nContent-Type: audio/wav")
MODEL = field("model", b"whisper")


@pytest.mark.parametrize(
    "body",
    [
        form(MODEL, FILE),
        form(FILE, MODEL),
        form(FILE, field("language", b"en"), MODEL, field("x", b"y")),
        form(MODEL, FILE, preamble=b"for old mail readers\r\n"),
        form(MODEL),
        form(b"content-disposition: FORM-DATA; name=model\r\n\r\nwhisper"),
        form(b'CONTENT-DISPOSITION:form-data;name="model"\r\nContent-Type: text/plain\r\n\r\nwhisper'),
        form(b'Content-Type: text/plain\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper'),
        form(field("model", b" whisper \t")),
        form(FILE, MODEL).removesuffix(b"\r\n"),
    ],
)
def test_model_in_form(body: bytes) -> None:
    """The field `model` is found first, last, between, and however a client writes its head."""
    assert model_in_form(FORM, body) == "whisper"


@pytest.mark.parametrize(
    "content_type",
    [
        b'multipart/form-data; boundary="B"',
        b"Multipart/Form-Data; Boundary=B",
        b"multipart/form-data;charset=utf-8;boundary=B; x=y",
    ],
)
def test_ways_to_write_a_boundary(content_type: bytes) -> None:
    """A boundary may be quoted, and is no matter of case or place."""
    assert model_in_form(content_type, form(FILE, MODEL)) == "whisper"


def test_boundary_with_odd_characters() -> None:
    """A quoted boundary may hold what a bare one may not."""
    boundary = b"a+b'(c)/:=?.-_"

    assert (
        model_in_form(b'multipart/form-data; boundary="' + boundary + b'"', form(FILE, MODEL, boundary=boundary))
        == "whisper"
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        form(),
        form(FILE),
        form(field("models", b"a"), field("xmodel", b"b"), field("x", b'name="model"')),
        form(b'X-Content-Disposition: form-data; name="model"\r\n\r\na'),
        form(FILE, MODEL).replace(b"\r\n", b"\n"),
        form(MODEL, boundary=b"OTHER"),
        b"--B\r\nContent-Disposition: form-data; name=",
        b'{"model": "a"}',
    ],
)
def test_no_model_in_form(body: bytes) -> None:
    """A form that names no model, is cut short, or ends its lines wrongly names none; nothing hangs or breaks."""
    assert model_in_form(FORM, body) is None


def test_form_cut_in_its_value() -> None:
    """Without a last delimiter the value is what there is of it, within bounds."""
    value = model_in_form(FORM, form(FILE, field("model", b"w" * 10_000)).partition(b"www\r\n--B--")[0])

    assert value is not None
    assert set(value) == {"w"}
    assert len(value) == 4096


@pytest.mark.parametrize(
    "content_type", [b"", b"application/json", b"multipart/form-data", b"multipart/mixed; boundary=B", b"boundary=B"]
)
def test_no_form(content_type: bytes) -> None:
    """What does not call itself a form with a boundary is the client's mistake."""
    with pytest.raises(InvalidRequest, match="multipart/form-data"):
        model_in_form(content_type, form(MODEL))


@pytest.mark.parametrize(
    "body", [form(MODEL, FILE), form(FILE, MODEL), form(FILE, field("model", b"w" * 10_000), FILE)]
)
def test_model_in_a_form_on_its_way(body: bytes) -> None:
    """Of a form that is still coming, a name counts once its part has ended: half a name is never taken for one."""
    name = model_in_form(FORM, body)
    found = [model_in_form(FORM, body[:size], is_whole=False) for size in range(len(body) + 1)]
    first = found.index(name)

    assert set(found[:first]) == {None}
    assert set(found[first:]) == {name}


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=40)
others = st.lists(st.tuples(st.sampled_from(["file", "language", "models"]), st.binary(max_size=60)), max_size=4)


@given(names, others, others)
def test_model_in_any_form(name: str, before: list[tuple[str, bytes]], after: list[tuple[str, bytes]]) -> None:
    """Whatever files come before or after it, the model is found."""
    boundary = b"----WebKitFormBoundary7MA4YWxkTrZu0gW"
    parts = [*(field(*each) for each in before), field("model", name.encode()), *(field(*each) for each in after)]

    content_type = b"multipart/form-data; boundary=" + boundary

    assert model_in_form(content_type, form(*parts, boundary=boundary)) == name.strip()


fragments = st.lists(
    st.sampled_from([b"--B", b"--", b"\r\n", b"\n", b"content-disposition:", b'; name="model"', b"x", b"\xff"])
    | st.binary()
)


@given(st.binary() | st.just(FORM), fragments.map(b"".join) | st.binary())
@example(FORM, b"--B\r\ncontent-disposition: x; name=model\r\n\r\n\r\n--B\r\n\r\n--B")
def test_no_form_breaks_us(content_type: bytes, body: bytes) -> None:
    """Any bytes give a name, no name, or the client's mistake."""
    try:
        name = model_in_form(content_type, body)
    except InvalidRequest:
        return
    assert name is None or isinstance(name, str)
