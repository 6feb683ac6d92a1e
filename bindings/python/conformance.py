"""The steps of ffi/conformance/cases.json through the Python binding. See the README there."""

from __future__ import annotations

import json
import sys

import skimstone


class Driver:
    def __init__(self) -> None:
        self.settings: dict[str, str] = {}
        self.bundle = self.model = self.session = self.forked = self.cancel = self.event = None

    def run(self, words: list[str]) -> str:
        result = getattr(self, words[0].replace(".", "_"))(*words[1:])
        return "ok" if result is None else str(result)

    def init(self, more):
        from skimstone._library import lib

        skimstone._call(lib.skim_init, lib.SKIM_ABI_VERSION + int(more))

    def options_set(self, key, value):
        skimstone._options({key: value})
        self.settings[key] = value

    def bundle_open(self, path):
        self.bundle = skimstone.Bundle(path, **self.settings)

    def bundle_fd(self, path, offset):
        with open(path, "rb") as file:
            self.bundle = skimstone.Bundle.from_fd(file.fileno(), int(offset), **self.settings)

    def bundle_memory(self, path, length):
        with open(path, "rb") as file:
            data = file.read()
        self.bundle = skimstone.Bundle.from_bytes(data[: int(length) or len(data)], **self.settings)

    def bundle_estimate(self):
        estimate = self.bundle.estimate(1, **self.settings)
        return f"file {estimate.file_backed}" if estimate.anonymous > 0 else "nothing"

    def model_open(self, path):
        self.model = skimstone.Model(path, **self.settings)

    def model_new(self):
        self.model = skimstone.Model(self.bundle, **self.settings)

    def model_tokens(self, text=""):
        return len(self.model.tokenize(text))

    def model_thermal(self, level):
        self.model.set_thermal(int(level))

    def model_free(self):
        self.model = None

    def session_new(self):
        self.session = self.model.session(**self.settings)

    def session_fork(self):
        self.forked = self.session.fork()

    def session_swap(self):
        self.session, self.forked = self.forked, self.session

    def session_save(self, path):
        self.session.save(path)

    def session_restore(self, path):
        self.session.restore(path)

    def session_free(self):
        self.session = None

    def session_set(self, key, value):
        self.session[key] = value

    def session_unset(self, key):
        self.session[key] = None

    def session_get(self, key):
        return json.dumps(self.session[key], separators=(",", ":"), ensure_ascii=False)

    def session_append(self, text):
        self.session.append(text)

    def session_tokens(self, count, token):
        self.session.append_tokens([int(token)] * int(count))

    def session_message(self, role, text):
        self.session.append_message(role, text)

    def session_clear(self):
        self.session.clear()

    def session_begin(self):
        self.session.begin()

    def session_next(self, timeout_ms):
        try:
            event = self.session.next_event(int(timeout_ms))
        except TimeoutError:
            return "timeout"
        if event is None:
            return "end"
        self.event = event
        return event.name

    def session_generate(self, cancel_at):
        cancel = self.session.cancel_handle()
        for count, self.event in enumerate(self.session.ask(), 1):
            if count == int(cancel_at):
                cancel.trigger()
        return self.event.fields["finish_reason"]

    def names(self, events):
        names: list[str] = []
        for self.event in events:
            if names[-1:] != [self.event.name]:
                names.append(self.event.name)
        return " ".join(names)

    def session_events(self):
        return self.names(self.session.ask())

    def session_rest(self):
        return self.names(iter(self.session.next_event, None))

    def session_resume(self, path):
        return self.names(self.session.resume(path))

    def session_memory_warning(self):
        self.session.memory_warning()

    def session_background(self, path, grace_ms):
        self.session.enter_background(path, int(grace_ms))

    def session_foreground(self):
        self.session.enter_foreground()

    def cancel_get(self):
        self.cancel = self.session.cancel_handle()

    def cancel_trigger(self):
        self.cancel.trigger()

    def event_text(self):
        return self.event.text

    def field(self, path):
        value = self.event.fields
        for key in path.split("."):
            value = value[int(key) if isinstance(value, list) else key]
        return value

    def event_number(self, path):
        # Fields are Python's own here: a missing or unfit one is an error of Python.
        try:
            return f"{float(self.field(path)):g}"
        except (KeyError, ValueError):
            return "error -1 argument"

    def event_string(self, path):
        value = self.field(path)
        return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def main() -> None:
    driver = Driver()
    for line in sys.stdin:
        words = [word.replace("\\n", "\n") for word in line.rstrip("\n").split("\t")]
        if words[0] == "reset":
            driver, result = Driver(), "ok"
        else:
            try:
                result = driver.run(words)
            except skimstone.Error as error:
                result = f"error {error.status} {error.kind}"
        print(result.replace("\n", "\\n"), flush=True)


if __name__ == "__main__":
    main()
