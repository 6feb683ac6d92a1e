"""Reasoning on the device: libskimstone for Python.

    import skimstone

    model = skimstone.Model("student.skim", max_bytes=64 << 20)
    session = model.session(route="skip")
    session.append("Was last night long enough?")
    for event in session.ask():
        if event.name == "answer_text":
            print(event.text, end="", flush=True)

A model may be used by any number of threads, a session by one at a time; the interpreter is free while the library works. What an
object holds is freed with it, or at the end of a `with`.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
from dataclasses import dataclass
from typing import Any, AsyncIterator, Callable, Iterator, Optional, Sequence, TypeVar, Union

from ._library import ffi, lib

__all__ = [
    "Bundle",
    "Cancel",
    "Error",
    "Estimate",
    "Event",
    "Model",
    "Session",
    "bounds",
    "set_log",
    "sleep_prompt",
    "version",
]

Setting = Union[str, int, float, bool, Sequence[Any], None]
Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]

# Between two looks at Python's signals, milliseconds: Ctrl-C works while a long prompt is read.
_PULL_MS = 100


class Error(Exception):
    """Why a call failed. Its text is place, message and hint."""

    def __init__(self, status: int, message: str, kind: str = "", place: str = "", hint: str = "") -> None:
        super().__init__(message)
        #: One of SKIM_STATUS_…, negative.
        self.status = status
        #: The exact kind, such as "truncated".
        self.kind = kind
        #: Where: a file, a tensor, a field; or empty.
        self.place = place
        #: What can be done, or empty.
        self.hint = hint


def _text(pointer: Any) -> str:
    return ffi.string(pointer).decode("utf-8")


def _call(function: Callable[..., int], *arguments: Any) -> int:
    """Calls a function that ends in `error`."""
    error = ffi.new("skim_error **")
    status = function(*arguments, error)
    if status >= 0:
        return status
    owner = ffi.gc(error[0], lib.skim_error_free)
    parts = (lib.skim_error_message, lib.skim_error_kind, lib.skim_error_place, lib.skim_error_hint)
    raise Error(status, *(_text(part(owner)) for part in parts))


def _make(kind: str, function: Callable[..., int], *arguments: Any) -> Any:
    """Calls a function that gives a handle."""
    out = ffi.new(f"skim_{kind} **")
    _call(function, *arguments, out)
    return ffi.gc(out[0], getattr(lib, f"skim_{kind}_free"))


def _string(function: Callable[..., int], *arguments: Any) -> str:
    """Calls a function that gives a string."""
    out = ffi.new("char **")
    _call(function, *arguments, out)
    return _text(ffi.gc(out[0], lib.skim_string_free))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8")


def _name(text: str) -> bytes:
    """A name or value, which ends in a NUL on the other side: one within would cut it."""
    return _whole(_bytes(text))


def _path(path: Path) -> bytes:
    return _whole(os.fsencode(path))


def _whole(text: bytes) -> bytes:
    if b"\0" in text:
        raise ValueError("a name, path or value has a NUL in it")
    return text


def _value(value: Setting) -> Any:
    """A setting as the library reads it; None is null, which stands for the default."""
    if value is None:
        return ffi.NULL
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, (str, int, float)):
        return _name(str(value))
    return _name(json.dumps(value))


def _options(settings: dict[str, Setting]) -> Any:
    options = _make("options", lib.skim_options_new)
    for key, value in settings.items():
        _call(lib.skim_options_set, options, _name(key), _value(value))
    return options


def version() -> str:
    """The version of the library."""
    return _text(lib.skim_version())


def bounds() -> list[dict[str, Any]]:
    """Every setting, with its type, bounds, default and unit."""
    return json.loads(_string(lib.skim_options_get_bounds, ffi.NULL))


# What the library was given and has not given back yet.
_sinks: set[Any] = set()


@ffi.callback("skim_log_callback")
def _log_line(level: int, target: Any, message: Any, sink: Any) -> None:
    ffi.from_handle(sink)(level, _text(target), _text(message))


@ffi.callback("skim_destroy")
def _log_done(sink: Any) -> None:
    _sinks.discard(sink)


def set_log(level: int, sink: Optional[Callable[[int, str, str], None]]) -> None:
    """Sends the log of the whole library to `sink`: level, target, message. None switches it off.

    Levels: 1 error, 2 warn, 3 info, 4 debug, 5 trace; texts of the user from 5 on only. Called from any thread.
    """
    if sink is None:
        _call(lib.skim_log_set, level, ffi.NULL, ffi.NULL, ffi.NULL)
        return
    handle = ffi.new_handle(sink)
    _sinks.add(handle)
    _call(lib.skim_log_set, level, _log_line, handle, _log_done)


# No line may come while the interpreter is taken down.
atexit.register(set_log, 0, None)


@dataclass(frozen=True)
class Estimate:
    """Bytes that a model and its sessions will take."""

    file_backed: int
    anonymous: int


@dataclass(frozen=True)
class Event:
    """Something that happened: its name, such as "answer_text", and its fields."""

    name: str
    fields: dict[str, Any]

    @property
    def text(self) -> str:
        """The event's text; empty where there is none."""
        return self.fields.get("text", "")


_Self = TypeVar("_Self", bound="_Owner")


class _Owner:
    """What holds a handle: until it is collected, closed, or left as a context."""

    _handle: Any

    def close(self) -> None:
        """Gives back what this holds, once no call on another thread uses it; further calls are refused."""
        # Not ffi.release: a call under way has the handle, too, and keeps it as long as it lasts.
        self._handle = ffi.NULL

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Bundle(_Owner):
    """An open bundle: looked at before anything is loaded."""

    def __init__(self, path: Path, **settings: Setting) -> None:
        self._handle = _make("bundle", lib.skim_bundle_open, _path(path), _options(settings))

    @classmethod
    def _of(cls, handle: Any) -> Bundle:
        bundle = cls.__new__(cls)
        bundle._handle = handle
        return bundle

    @classmethod
    def from_fd(cls, fd: int, offset: int = 0, length: int = 0, **settings: Setting) -> Bundle:
        """A part of an open file; the descriptor stays the caller's. A length of 0: to the end."""
        return cls._of(_make("bundle", lib.skim_bundle_open_fd, fd, offset, length, _options(settings)))

    @classmethod
    def from_bytes(cls, data: bytes, **settings: Setting) -> Bundle:
        """A copy of bytes."""
        start = ffi.from_buffer(data)
        options = _options(settings)
        arguments = (start, len(data), ffi.NULL, ffi.NULL, options)
        return cls._of(_make("bundle", lib.skim_bundle_open_memory, *arguments))

    def inspect(self) -> dict[str, Any]:
        """What the bundle holds."""
        return json.loads(_string(lib.skim_bundle_inspect, self._handle))

    def estimate(self, sessions: int = 1, **settings: Setting) -> Estimate:
        """The memory that a model and so many sessions will take."""
        file_backed, anonymous = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        options = _options(settings)
        _call(lib.skim_bundle_estimate, self._handle, options, sessions, file_backed, anonymous)
        return Estimate(file_backed[0], anonymous[0])


class Model(_Owner):
    """A model, of a path or of an open bundle. Immutable."""

    def __init__(self, source: Union[Path, Bundle], **settings: Setting) -> None:
        options = _options(settings)
        if isinstance(source, Bundle):
            self._handle = _make("model", lib.skim_model_new, source._handle, options)
        else:
            self._handle = _make("model", lib.skim_model_open, _path(source), options)

    def inspect(self) -> dict[str, Any]:
        """The bundle, and how it runs."""
        return json.loads(_string(lib.skim_model_inspect, self._handle))

    @property
    def memory_used(self) -> int:
        """Anonymous bytes that the model and its sessions have booked."""
        used = ffi.new("uint64_t *")
        _call(lib.skim_model_memory_used, self._handle, used)
        return used[0]

    def set_thermal(self, level: int) -> None:
        """How hot the device is, from 0 to 3: less effort the hotter. Any thread may call this."""
        _call(lib.skim_model_set_thermal, self._handle, level)

    def trim_memory(self) -> None:
        """Gives what freed sessions left back to the system."""
        _call(lib.skim_model_trim_memory, self._handle)

    def tokenize(self, text: str, add_special: bool = False) -> list[int]:
        """The tokens of a text."""
        data, count = _bytes(text), ffi.new("size_t *")
        _call(lib.skim_model_tokenize, self._handle, data, len(data), add_special, ffi.NULL, 0, count)
        tokens = ffi.new("uint32_t[]", max(count[0], 1))
        _call(lib.skim_model_tokenize, self._handle, data, len(data), add_special, tokens, count[0], count)
        return list(ffi.unpack(tokens, count[0]))

    def session(self, **settings: Setting) -> Session:
        """A new session."""
        return Session(_make("session", lib.skim_session_new, self._handle, _options(settings)))


class Cancel:
    """Stops a session's work, from any thread."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def trigger(self) -> None:
        """The question that is being answered finishes with what it has."""
        lib.skim_cancel_trigger(self._handle)


class Session(_Owner):
    """One conversation; made by `Model.session`."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __setitem__(self, key: str, value: Setting) -> None:
        """Sets how the next question is answered; None is the default."""
        _call(lib.skim_session_set_param, self._handle, _name(key), _value(value))

    def __getitem__(self, key: str) -> Any:
        return json.loads(_string(lib.skim_session_get_param, self._handle, _name(key)))

    def bounds(self) -> list[dict[str, Any]]:
        """What can be set."""
        return json.loads(_string(lib.skim_session_get_bounds, self._handle, ffi.NULL))

    def append(self, text: str) -> None:
        """Appends text to the prompt; it stays until `clear`."""
        data = _bytes(text)
        _call(lib.skim_session_append_text, self._handle, data, len(data))

    def append_tokens(self, tokens: Sequence[int]) -> None:
        """Appends tokens to the prompt."""
        _call(lib.skim_session_append_tokens, self._handle, list(tokens), len(tokens))

    def append_message(self, role: str, content: str) -> None:
        """Appends a message to a conversation that the model's chat template renders."""
        data = _bytes(content)
        _call(lib.skim_session_append_message, self._handle, _name(role), data, len(data))

    def clear(self) -> None:
        """Forgets what was appended."""
        _call(lib.skim_session_clear, self._handle)

    def begin(self) -> None:
        """Begins to answer what was appended; pull with `next_event`."""
        _call(lib.skim_session_begin, self._handle)

    def next_event(self, timeout_ms: int = -1) -> Event | None:
        """The next event, None after the end; TimeoutError if the time is over before one."""
        out = ffi.new("skim_event **")
        status = _call(lib.skim_session_next_event, self._handle, timeout_ms, out)
        if status == lib.SKIM_STATUS_TIMEOUT:
            raise TimeoutError(f"no event within {timeout_ms} ms")
        if status != lib.SKIM_STATUS_OK:
            return None
        owner, text = ffi.gc(out[0], lib.skim_event_free), ffi.new("const char **")
        _call(lib.skim_event_json, owner, text)
        fields = json.loads(_text(text[0]))
        return Event(fields.pop("event"), fields)

    def _pull(self) -> Event | None:
        while True:
            try:
                return self.next_event(_PULL_MS)
            except TimeoutError:
                pass

    def ask(self) -> Iterator[Event]:
        """The events of one question. To stop iterating is to pause: `next_event` goes on from there."""
        self.begin()
        while (event := self._pull()) is not None:
            yield event

    async def ask_async(self) -> AsyncIterator[Event]:
        """`ask`, with the work on another thread. A task that is cancelled stops the work, and waits for it to stop."""
        cancel = self.cancel_handle()
        self.begin()
        while True:
            pull = asyncio.ensure_future(asyncio.to_thread(self._pull))
            try:
                event = await asyncio.shield(pull)
            except asyncio.CancelledError:
                cancel.trigger()
                await asyncio.wait([pull])
                raise
            if event is None:
                return
            yield event

    def answer(self) -> Event:
        """Answers what was appended; the finished event."""
        last = Event("", {})
        for last in self.ask():
            pass
        return last

    def cancel_handle(self) -> Cancel:
        """What stops this session from any thread."""
        return Cancel(_make("cancel", lib.skim_session_cancel_handle, self._handle))

    def fork(self) -> Session:
        """A second session in the same state."""
        return Session(_make("session", lib.skim_session_fork, self._handle))

    def save(self, path: Path) -> None:
        """Writes what was read so far to a file that appears whole or not at all."""
        _call(lib.skim_session_save, self._handle, _path(path))

    def restore(self, path: Path) -> None:
        """Goes on from such a file, in a session of reuse_prefix."""
        _call(lib.skim_session_restore, self._handle, _path(path))

    def resume(self, path: Path) -> Iterator[Event]:
        """Goes on with the question in such a file; its events, from the start again."""
        _call(lib.skim_session_resume, self._handle, _path(path))
        return iter(self._pull, None)

    def memory_warning(self) -> None:
        """For a memory warning of the system. Any thread may call this, and the next two."""
        _call(lib.skim_session_memory_warning, self._handle)

    def enter_background(self, path: Path, grace_ms: int) -> None:
        """The app leaves the screen: the question ends with the reason "suspended", and is in the file."""
        _call(lib.skim_session_enter_background, self._handle, _path(path), grace_ms)

    def enter_foreground(self) -> None:
        """The app is back: a question that was not suspended yet goes on."""
        _call(lib.skim_session_enter_foreground, self._handle)

    def inspect(self) -> dict[str, Any]:
        """Position, context, and counts of what was computed."""
        return json.loads(_string(lib.skim_session_inspect, self._handle))


def sleep_prompt(night_json: str, question: str) -> str:
    """The prompt of a sleep student. Experimental."""
    night, question_bytes = _bytes(night_json), _bytes(question)
    return _string(lib.skim_x_sleep_prompt, night, len(night), question_bytes, len(question_bytes))


_call(lib.skim_init, lib.SKIM_ABI_VERSION)
