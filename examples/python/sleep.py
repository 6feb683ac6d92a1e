"""A small student reasons about one night of sleep, by every route that it was trained for: examples/sleep.rs in Python.

    pip install skimstone-*.whl
    python3 sleep.py students/sleep.skim nights/tuesday.json "How efficient was my sleep?"
"""

import sys

import skimstone


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit(f"usage: {sys.argv[0]} STUDENT.skim NIGHT.json QUESTION")
    student, night, question = sys.argv[1:]
    with open(night, encoding="utf-8") as file:
        prompt = skimstone.sleep_prompt(file.read(), question)
    session = skimstone.Model(student).session()
    session.append(prompt)
    for route in ["direct", "skip", "cot"]:
        print(route)
        session["route"] = route
        for event in session.ask():
            if event.name == "chunk_started":
                print("   - ", end="")
            elif event.name == "thinking_text":
                print(event.text, end="", flush=True)
            elif event.name == "chunk_finished":
                print()
            elif event.name == "finished":
                print(f"   => {event.text}\n   {event.fields['usage']['generated_tokens']} tokens")


if __name__ == "__main__":
    try:
        main()
    except (OSError, skimstone.Error) as error:
        sys.exit(f"error: {error}")
