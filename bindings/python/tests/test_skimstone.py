"""What is Python's own in the binding; the rest is in conformance.py. Run: python3 -m unittest discover bindings/python/tests"""

import asyncio
import gc
import os
import tempfile
import threading
import unittest
from pathlib import Path

import skimstone

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
STUDENT = str(EXAMPLES / "students" / "sleep.skim")
# Bytes that stay with a model once a text was tokenized.
TOKENIZER = 3 * 10**6
QUESTION = "age 34. in bed 23:05, up 07:15.\nhow long was I in bed?"


class Sessions(unittest.TestCase):
    def setUp(self):
        self.model = skimstone.Model(STUDENT, threads=1)

    def session(self, **settings):
        session = self.model.session(**settings)
        session.append(QUESTION)
        return session

    def test_events_build_the_answer(self):
        events = list(self.session(route="cot").ask())
        answer = events[-1]
        self.assertEqual(answer.name, "finished")
        pieces = [event.text for event in events if event.name == "answer_text"]
        self.assertEqual("".join(pieces), answer.text)
        self.assertGreater(answer.fields["usage"]["thinking_tokens"], 0)

    def test_async_says_the_same(self):
        async def names(session):
            return [event.name async for event in session.ask_async()]

        expected = [event.name for event in self.session().ask()]
        self.assertEqual(asyncio.run(names(self.session())), expected)

    def test_a_cancelled_task_stops(self):
        session = self.model.session()
        session.append_tokens([25] * 400)

        async def ask():
            async for _ in session.ask_async():
                pass

        async def cancelled(seconds):
            task = asyncio.create_task(ask())
            await asyncio.sleep(seconds)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            # No call runs any more.
            self.assertIsNone(session["budget_tokens"])

        for seconds in [0, 0.001, 0.002]:
            asyncio.run(cancelled(seconds))
        session.clear()
        session.append(QUESTION)
        self.assertEqual(session.answer().fields["finish_reason"], "stop")

    def test_a_nul_cuts_nothing(self):
        for refused in [
            lambda: skimstone.Model(STUDENT + "\0"),
            lambda: skimstone.Model(STUDENT, **{"threads\0": 1}),
            lambda: self.session(route="skip\0"),
        ]:
            with self.assertRaises(ValueError):
                refused()
        self.assertGreaterEqual(len(self.model.tokenize("a\0b")), 2)

    def test_paths_are_paths(self):
        skimstone.Model(Path(STUDENT)).session()
        skimstone.Bundle(STUDENT.encode()).inspect()
        with self.assertRaises(TypeError):
            skimstone.Model(None)
        with self.assertRaises(skimstone.Error) as caught:
            skimstone.Model("/nowhere/\U0001f634")
        self.assertEqual(caught.exception.place, "/nowhere/\U0001f634")

    def test_contexts_close(self):
        used = self.model.memory_used
        with self.session() as session:
            session.answer()
        self.model.trim_memory()
        self.assertLess(self.model.memory_used, used + TOKENIZER)
        with self.assertRaises(skimstone.Error) as caught:
            session.append("more")
        self.assertEqual(caught.exception.status, -1)

    def test_the_log_is_told(self):
        lines = []
        skimstone.set_log(3, lambda *line: lines.append(line))
        self.session()
        self.assertEqual(lines[0][0], 3)
        for _ in range(10):
            skimstone.set_log(3, print)
        skimstone.set_log(0, None)
        self.assertEqual(skimstone._sinks, set())

    def test_settings_take_python_values(self):
        session = self.session(stop=["\n\n"], temperature=0.5)
        self.assertEqual(session["stop"], ["\n\n"])
        self.assertEqual(session["temperature"], 0.5)
        session["temperature"] = None
        self.assertEqual(session["temperature"], 0.0)
        with self.assertRaises(skimstone.Error) as caught:
            session["route"] = "fast"
        self.assertEqual(caught.exception.kind, "unknown_route")
        self.assertIn("this model knows", str(caught.exception))

    def test_iterating_less_pauses(self):
        session = self.session(route="direct")
        first = next(iter(session.ask()))
        self.assertEqual(first.name, "started")
        rest = []
        while (event := session.next_event()) is not None:
            rest.append(event)
        self.assertEqual(rest[-1].name, "finished")

    def test_threads_and_cancel(self):
        expected = self.session(route="skip").answer().text
        texts = []

        def work():
            session = self.session(route="skip")
            fork = session.fork()
            texts.extend([session.answer().text, fork.answer().text])

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(texts, [expected] * 8)
        session = self.session(route="cot")
        cancel = session.cancel_handle()
        for event in session.ask():
            if event.name == "thinking_text":
                cancel.trigger()
        self.assertEqual(event.fields["finish_reason"], "cancelled")

    def test_a_busy_session_says_so(self):
        session = self.model.session()
        session.append_tokens([25] * 400)
        session.begin()
        statuses = []

        def pull():
            try:
                while session.next_event() is not None:
                    pass
            except skimstone.Error as error:
                statuses.append(error.status)

        threads = [threading.Thread(target=pull) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertTrue(set(statuses) <= {-4}, statuses)

    def test_a_question_is_suspended_and_goes_on(self):
        session = self.session(route="cot")
        expected = session.answer().text
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "question")
            for event in session.ask():
                if event.name == "chunk_started":
                    session.enter_background(path, 60_000)
            self.assertEqual(event.fields["finish_reason"], "suspended")
            later = self.model.session(route="cot")
            for event in later.resume(path):
                pass
            self.assertEqual(event.text, expected)

    def test_warnings_of_the_system(self):
        session = self.session(route="cot")
        first = session.answer()
        used = self.model.memory_used
        session.memory_warning()
        self.assertLess(self.model.memory_used, used)
        self.model.set_thermal(2)
        second = session.answer()
        self.model.set_thermal(0)
        self.assertLess(second.fields["usage"]["layer_passes"], first.fields["usage"]["layer_passes"])
        with self.assertRaises(skimstone.Error):
            self.model.set_thermal(4)

    def test_memory_comes_back(self):
        used = self.model.memory_used
        session = self.session()
        session.answer()
        self.assertGreater(self.model.memory_used, used)
        del session
        gc.collect()
        self.model.trim_memory()
        self.assertLess(self.model.memory_used, used + TOKENIZER)


if __name__ == "__main__":
    unittest.main()
