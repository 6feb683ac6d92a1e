// What is the C++ wrapper's own: exceptions that pass through a callback, owners of borrowed memory, sessions on threads.
//
//   laws STUDENT.skim
#include <atomic>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <skimstone.hpp>
#include <thread>

static const char question[] = "age 34. in bed 23:05, up 07:15.\nhow long was I in bed?";

static void must(bool holds, const char *law) {
  if (holds) return;
  std::cerr << "broken: " << law << '\n';
  std::exit(1);
}

static void exceptions(const skim::Model &model) {
  skim::Session session(model);
  session.append(question);
  int seen = 0;
  try {
    session.generate([&](const skim::Event &) -> bool {
      if (++seen == 3) throw std::runtime_error("enough");
      return true;
    });
    must(false, "the exception of a callback passes through generate");
  } catch (const std::runtime_error &error) {
    must(std::string(error.what()) == "enough" && seen == 3, "it is the same exception, and the callback is not called again");
  }
  must(session.generate().string("finish_reason") == "stop", "the session can be used afterwards");
  try {
    session.set("route", "fast");
    must(false, "a failed call throws");
  } catch (const skim::Error &error) {
    must(error.status() == SKIM_STATUS_UNKNOWN_ROUTE && error.kind() == "unknown_route", "an error has status and kind");
  }
  try {
    skim::Model::open("/nowhere.skim");
    must(false, "a missing file is told");
  } catch (const skim::Error &error) {
    must(error.status() == SKIM_STATUS_IO && error.place() == "/nowhere.skim", "an error has its place");
  }
  try {
    session.set("route", std::string("skip\0fast", 9));
    must(false, "a NUL does not cut a value");
  } catch (const skim::Error &error) {
    must(error.status() == SKIM_STATUS_INVALID_ARGUMENT, "it is an argument out of place");
  }
}

static void logs(const skim::Model &model) {
  auto lines = std::make_shared<std::atomic<int>>(0);
  std::weak_ptr<std::atomic<int>> watch = lines;
  skim::set_log(SKIM_LOG_INFO, [lines](int32_t, std::string_view, std::string_view) {
    ++*lines;
    throw std::runtime_error("dropped");
  });
  skim::Session session(model);
  must(*lines > 0, "the log is told");
  lines.reset();
  skim::set_log(SKIM_LOG_OFF, {});
  must(watch.expired(), "a sink that was replaced is let go");
}

static void borrowed_memory(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(file), {}};
  std::size_t size = (bytes.size() + 63) / 64 * 64;
  std::shared_ptr<void> memory(std::aligned_alloc(64, size), std::free);
  std::copy(bytes.begin(), bytes.end(), static_cast<char *>(memory.get()));
  std::weak_ptr<void> watch = memory;
  const void *data = memory.get();
  std::optional<skim::Model> model(skim::Bundle::borrow(data, bytes.size(), std::move(memory)));
  must(!watch.expired(), "a model keeps the memory that it borrowed");
  skim::Session session(*model);
  model.reset();
  must(session.append(question).generate().string("finish_reason") == "stop" && !watch.expired(), "so does a session");
  session = skim::Session(skim::Model::open(path));
  must(watch.expired(), "the last one gives it back");
}

static void threads(const skim::Model &model) {
  skim::Session first(model);
  first.append(question).set("route", "skip");
  const std::string expected(first.generate().text());
  std::atomic<int> right{0}, cancelled{0};
  std::vector<std::thread> workers;
  for (int i = 0; i < 8; ++i) {
    workers.emplace_back([&, i, session = first.fork()]() mutable {
      auto cancel = session.cancel_handle();
      for (int round = 0; round < 10; ++round) {
        std::thread canceller;
        if ((i + round) % 2) canceller = std::thread([&] { cancel.trigger(); });
        auto fork = session.fork();
        for (auto *one : {&session, &fork}) {
          auto finished = one->generate();
          (finished.string("finish_reason") == "cancelled" ? cancelled : right) += 1;
          must(finished.string("finish_reason") == "cancelled" || finished.text() == expected, "threads do not disturb each other");
        }
        if (canceller.joinable()) canceller.join();
      }
    });
  }
  for (auto &worker : workers) worker.join();
  must(right + cancelled == 160 && right >= 80, "every question is answered or cancelled");
}

static void life_cycle(const skim::Model &model, const std::string &file) {
  skim::Session session(model);
  session.append(question).set("route", "cot");
  const std::string expected(session.generate().text());
  /* Suspended after its first chunk, and gone on with in another session. */
  session.begin();
  std::string reason;
  for (auto event = session.next(); event; event = session.next()) {
    if (event->type() == SKIM_EVENT_CHUNK_STARTED) session.enter_background(file, std::chrono::seconds(60));
    if (event->type() == SKIM_EVENT_FINISHED) reason = event->string("finish_reason");
  }
  must(reason == "suspended", "the background ends the question");
  skim::Session later(model);
  later.set("route", "cot");
  std::string text;
  for (const skim::Event &event : later.resume(file))
    if (event.type() == SKIM_EVENT_FINISHED) text = event.text();
  must(text == expected, "a suspended question goes on to the same answer");
  /* From another thread, in the middle of a question; and at rest. */
  session.begin();
  session.next();
  std::thread([&] { session.memory_warning(); }).join();
  std::string after;
  for (auto event = session.next(); event; event = session.next()) after = event->text();
  must(after == expected, "a memory warning changes no answer");
  const auto full = model.memory_used();
  session.memory_warning();
  must(model.memory_used() < full, "a memory warning gives memory back");
  must(session.generate().text() == expected && model.memory_used() == full, "the next question takes it again");
  const double passes = session.generate().number("usage.layer_passes");
  model.set_thermal(SKIM_THERMAL_SERIOUS);
  auto hot = session.generate();
  must(hot.number("usage.layer_passes") < passes && hot.string("route") == "skip", "heat lowers the effort");
  model.set_thermal(SKIM_THERMAL_NOMINAL);
}

int main(int, char **argv) {
  auto model = skim::Model::open(argv[1]);
  exceptions(model);
  logs(model);
  borrowed_memory(argv[1]);
  threads(model);
  life_cycle(model, argv[2]);
}
