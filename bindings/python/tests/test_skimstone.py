"""What is Python's own in the binding; the rest is in conformance.py. Run: python3 -m unittest discover bindings/python/tests"""

import asyncio
import gc
import threading
import unittest
from pathlib import Path

import skimstone

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
STUDENT = str(EXAMPLES / "students" / "sleep.skim")
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

    def test_memory_comes_back(self):
        used = self.model.memory_used
        session = self.session()
        session.answer()
        self.assertGreater(self.model.memory_used, used)
        del session
        gc.collect()
        self.model.trim_memory()
        # The tokenizer stays.
        tokenizer = 3 * 10**6
        self.assertLess(self.model.memory_used, used + tokenizer)


if __name__ == "__main__":
    unittest.main()
