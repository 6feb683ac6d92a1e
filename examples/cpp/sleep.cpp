// A small student reasons about one night of sleep, by every route that it was trained for: examples/sleep.rs in C++.
//
//   c++ -std=c++17 sleep.cpp $(pkg-config --cflags --libs skimstone) -o sleep
//   ./sleep students/sleep.skim nights/tuesday.json "How efficient was my sleep?"
#define SKIM_EXPERIMENTAL  // The sleep student's input format.
#include <fstream>
#include <iostream>
#include <iterator>
#include <skimstone.hpp>

static std::string read_file(const char *path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(std::string(path) + ": cannot be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

static void run(const char *student, const char *night, const char *question) {
  skim::init();
  auto model = skim::Model::open(student);
  skim::Session session(model);
  session.append(skim::sleep_prompt(read_file(night), question));
  for (const char *route : {"direct", "skip", "cot"}) {
    std::cout << route << '\n';
    for (const skim::Event &event : session.set("route", route).ask()) {
      switch (event.type()) {
        case SKIM_EVENT_CHUNK_STARTED: std::cout << "   - "; break;
        case SKIM_EVENT_THINKING_TEXT: std::cout << event.text(); break;
        case SKIM_EVENT_CHUNK_FINISHED: std::cout << '\n'; break;
        case SKIM_EVENT_FINISHED:
          std::cout << "   => " << event.text() << "\n   " << event.number("usage.generated_tokens") << " tokens\n";
          break;
        default: break;  // Events may be added.
      }
    }
  }
}

int main(int argc, char **argv) {
  if (argc != 4) {
    std::cerr << "usage: " << argv[0] << " STUDENT.skim NIGHT.json QUESTION\n";
    return 2;
  }
  try {
    run(argv[1], argv[2], argv[3]);
    return 0;
  } catch (const std::exception &error) {
    std::cerr << "error: " << error.what() << '\n';
    return 2;
  }
}
