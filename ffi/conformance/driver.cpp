// The steps of cases.json through skimstone.hpp. See README.md.
#include <fcntl.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <skimstone.hpp>

namespace {

std::optional<skim::Options> options;
std::optional<skim::Bundle> bundle;
std::optional<skim::Model> model;
std::optional<skim::Session> session, forked;
std::optional<skim::Cancel> cancel;
std::optional<skim::Event> event;

const skim::Options *chosen() { return options ? &*options : nullptr; }

std::string reset() {
  event.reset();
  cancel.reset();
  forked.reset();
  session.reset();
  model.reset();
  bundle.reset();
  options.reset();
  return "ok";
}

// Also through the call that has an error, for the status that a bare check gives.
std::string init(const std::string &more) {
  skim_error *error = nullptr;
  int32_t status = skim_init(SKIM_ABI_VERSION + static_cast<uint32_t>(std::stoul(more)), &error);
  skim::detail::check(status, error);
  return "ok";
}

std::string open_fd(const std::string &path, const std::string &offset) {
  int fd = ::open(path.c_str(), O_RDONLY);
  struct Close {
    int fd;
    ~Close() { ::close(fd); }
  } close{fd};
  bundle = skim::Bundle::open_fd(fd, std::stoull(offset), 0, chosen());
  return "ok";
}

std::string open_memory(const std::string &path, std::size_t length) {
  std::ifstream file(path, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(file), {}};
  bundle = skim::Bundle::copy(bytes.data(), length ? length : bytes.size(), chosen());
  return "ok";
}

std::string estimate() {
  auto bytes = bundle->estimate(1, chosen());
  return bytes.anonymous > 0 ? "file " + std::to_string(bytes.file_backed) : "nothing";
}

std::string next(int timeout_ms) {
  auto [status, seen] = session->next(std::chrono::milliseconds(timeout_ms));
  if (status == SKIM_STATUS_TIMEOUT) return "timeout";
  if (!seen) return "end";
  event = std::move(seen);
  return std::string(event->name());
}

std::string generate(int cancel_at) {
  event = session->generate([&](const skim::Event &) { return !(cancel_at > 0 && --cancel_at == 0); });
  return event->string("finish_reason");
}

// The names of all further events.
std::string rest() {
  std::string names, last;
  while (auto seen = session->next()) {
    event = std::move(seen);
    std::string name(event->name());
    if (name != last) names += (names.empty() ? "" : " ") + name;
    last = name;
  }
  return names;
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

// A result on one line.
std::string one_line(const std::string &text) {
  std::string line;
  for (char c : text) line += c == '\n' ? std::string("\\n") : std::string(1, c);
  return line;
}

using Words = const std::vector<std::string> &;

const std::map<std::string, std::function<std::string(Words)>> steps = {
    {"reset", [](Words) { return reset(); }},
    {"init", [](Words w) { return init(w[1]); }},
    {"options.set", [](Words w) {
       if (!options) options.emplace();
       options->set(w[1], w[2]);
       return "ok";
     }},
    {"bundle.open", [](Words w) { return bundle = skim::Bundle::open(w[1], chosen()), "ok"; }},
    {"bundle.fd", [](Words w) { return open_fd(w[1], w[2]); }},
    {"bundle.memory", [](Words w) { return open_memory(w[1], std::stoul(w[2])); }},
    {"bundle.estimate", [](Words) { return estimate(); }},
    {"model.open", [](Words w) { return model = skim::Model::open(w[1], chosen()), "ok"; }},
    {"model.new", [](Words) { return model.emplace(*bundle, chosen()), "ok"; }},
    {"model.tokens", [](Words w) { return std::to_string(model->tokenize(w[1]).size()); }},
    {"model.thermal", [](Words w) { return model->set_thermal(std::stoi(w[1])), "ok"; }},
    {"model.free", [](Words) { return model.reset(), "ok"; }},
    {"session.new", [](Words) { return session.emplace(*model, chosen()), "ok"; }},
    {"session.fork", [](Words) { return forked = session->fork(), "ok"; }},
    {"session.save", [](Words w) { return session->save(w[1]), "ok"; }},
    {"session.restore", [](Words w) { return session->restore(w[1]), "ok"; }},
    {"session.swap", [](Words) { return std::swap(session, forked), "ok"; }},
    {"session.free", [](Words) { return session.reset(), "ok"; }},
    {"session.set", [](Words w) { return session->set(w[1], w[2]), "ok"; }},
    {"session.unset", [](Words w) { return session->unset(w[1]), "ok"; }},
    {"session.get", [](Words w) { return session->value(w[1]); }},
    {"session.append", [](Words w) { return session->append(w[1]), "ok"; }},
    {"session.tokens", [](Words w) {
       auto token = static_cast<uint32_t>(std::stoul(w[2]));
       return session->append(std::vector<uint32_t>(std::stoul(w[1]), token)), "ok";
     }},
    {"session.message", [](Words w) { return session->append_message(w[1], w[2]), "ok"; }},
    {"session.clear", [](Words) { return session->clear(), "ok"; }},
    {"session.begin", [](Words) { return session->begin(), "ok"; }},
    {"session.next", [](Words w) { return next(std::stoi(w[1])); }},
    {"session.generate", [](Words w) { return generate(std::stoi(w[1])); }},
    {"session.events", [](Words) { return session->begin(), rest(); }},
    {"session.rest", [](Words) { return rest(); }},
    {"session.resume", [](Words w) { return session->resume(w[1]), rest(); }},
    {"session.memory_warning", [](Words) { return session->memory_warning(), "ok"; }},
    {"session.background", [](Words w) {
       return session->enter_background(w[1], std::chrono::milliseconds(std::stoul(w[2]))), "ok";
     }},
    {"session.foreground", [](Words) { return session->enter_foreground(), "ok"; }},
    {"cancel.get", [](Words) { return cancel = session->cancel_handle(), "ok"; }},
    {"cancel.trigger", [](Words) { return cancel->trigger(), "ok"; }},
    {"event.text", [](Words) { return std::string(event->text()); }},
    {"event.number", [](Words w) { return number(event->number(w[1])); }},
    {"event.string", [](Words w) { return event->string(w[1]); }},
};

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::vector<std::string> words(1);
    for (std::size_t i = 0; i < line.size(); ++i) {
      if (line[i] == '\t') {
        words.emplace_back();
      } else if (line.compare(i, 2, "\\n") == 0) {
        words.back() += '\n';
        ++i;
      } else {
        words.back() += line[i];
      }
    }
    words.resize(3);
    try {
      std::cout << one_line(steps.at(words[0])(words)) << std::endl;
    } catch (const skim::Error &error) {
      std::cout << "error " << error.status() << ' ' << error.kind() << std::endl;
    }
  }
  reset();
}
