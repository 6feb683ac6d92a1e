/*
 * skimstone for C++17: skimstone.h with owners, exceptions and loops. Header only.
 *
 *   auto model = skim::Model::open("student.skim");
 *   auto session = skim::Session(model);
 *   session.set("route", "skip").append("Was last night long enough?");
 *   for (const skim::Event &event : session.ask())
 *     if (event.type() == SKIM_EVENT_ANSWER_TEXT) std::cout << event.text();
 *
 * Every object owns its handle: movable, not copyable. A failed call throws skim::Error with the status and the message. An
 * exception that a callback throws passes through generate(). Threads: as skimstone.h says of the functions behind each method.
 */
#ifndef SKIMSTONE_HPP
#define SKIMSTONE_HPP

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "skimstone.h"

namespace skim {

/* Why a call failed. what() is place, message and hint. */
class Error : public std::runtime_error {
 public:
  Error(int32_t status, const std::string &message, std::string kind = {}, std::string place = {}, std::string hint = {})
      : std::runtime_error(message), status_(status), kind_(std::move(kind)), place_(std::move(place)), hint_(std::move(hint)) {}

  /* One of SKIM_STATUS_…, negative. */
  int32_t status() const noexcept { return status_; }
  /* The exact kind, such as "truncated". */
  const std::string &kind() const noexcept { return kind_; }
  /* Where: a file, a tensor, a field; or empty. */
  const std::string &place() const noexcept { return place_; }
  /* What can be done, or empty. */
  const std::string &hint() const noexcept { return hint_; }

 private:
  int32_t status_;
  std::string kind_, place_, hint_;
};

namespace detail {

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T *handle) const noexcept {
    Free(handle);
  }
};

template <typename T, auto Free>
using Handle = std::unique_ptr<T, Deleter<Free>>;

/* Turns a status into an exception, and the error into its message. */
inline int32_t check(int32_t status, skim_error *error) {
  Handle<skim_error, skim_error_free> owner(error);
  if (status < 0)
    throw Error(status, skim_error_message(error), skim_error_kind(error), skim_error_place(error), skim_error_hint(error));
  return status;
}

/* A name, path or value, which ends in a NUL on the other side: one within would cut it. */
inline const char *name(const std::string &text) {
  if (text.find('\0') != std::string::npos)
    throw Error(SKIM_STATUS_INVALID_ARGUMENT, "a name, path or value has a NUL in it", "argument");
  return text.c_str();
}

/* Calls a function that ends in `error`. */
template <typename Function>
int32_t call(Function &&function) {
  skim_error *error = nullptr;
  int32_t status = function(&error);
  return check(status, error);
}

/* Calls a function that gives a string. */
template <typename Function>
std::string string(Function &&function) {
  char *text = nullptr;
  call([&](skim_error **error) { return function(&text, error); });
  Handle<char, skim_string_free> owner(text);
  return text;
}

}  // namespace detail

/* Refuses a library that does not fit this header. No other call needs it. */
inline void init() {
  detail::call([](skim_error **error) { return skim_init(SKIM_ABI_VERSION, error); });
}

/* Bytes that the library has on the heap. */
struct Allocated {
  uint64_t live;
  uint64_t peak;
};

inline Allocated allocated() {
  Allocated bytes{};
  detail::call([&](skim_error **error) { return skim_memory_allocated(&bytes.live, &bytes.peak, error); });
  return bytes;
}

/*
 * Sends the log of the whole library from `level` on, one of SKIM_LOG_…, to `sink`, from any thread and several at once; an empty one
 * switches it off. What it throws is dropped.
 */
inline void set_log(int32_t level, std::function<void(int32_t level, std::string_view target, std::string_view message)> sink) {
  using Sink = decltype(sink);
  auto line = [](int32_t level, const char *target, const char *message, void *box) {
    try {
      (*static_cast<Sink *>(box))(level, target, message);
    } catch (...) {
    }
  };
  auto destroy = [](void *box) { delete static_cast<Sink *>(box); };
  auto box = sink ? new Sink(std::move(sink)) : nullptr;
  detail::call([&](skim_error **error) { return skim_log_set(level, box ? +line : nullptr, box, box ? +destroy : nullptr, error); });
}

/* Settings by name, for what is opened or created next. */
class Options {
 public:
  Options() {
    skim_options *handle = nullptr;
    detail::call([&](skim_error **error) { return skim_options_new(&handle, error); });
    handle_.reset(handle);
  }

  Options &set(const std::string &key, const std::string &value) {
    detail::call([&](skim_error **error) { return skim_options_set(get(), detail::name(key), detail::name(value), error); });
    return *this;
  }

  /* The value as JSON. */
  std::string value(const std::string &key) const {
    return detail::string([&](char **out, skim_error **error) { return skim_options_get(get(), detail::name(key), out, error); });
  }

  /* What may be set, as JSON. */
  static std::string bounds() {
    return detail::string([](char **out, skim_error **error) { return skim_options_get_bounds(nullptr, out, error); });
  }

  skim_options *get() const noexcept { return handle_.get(); }

 private:
  detail::Handle<skim_options, skim_options_free> handle_;
};

namespace detail {
inline skim_options *get(const Options *options) noexcept { return options ? options->get() : nullptr; }
}  // namespace detail

/* Bytes that a model and its sessions will take. */
struct Estimate {
  uint64_t file_backed;
  uint64_t anonymous;
};

/* An open bundle: looked at before anything is loaded. */
class Bundle {
 public:
  static Bundle open(const std::string &path, const Options *options = nullptr) {
    return make([&](skim_bundle **out, skim_error **error) {
      return skim_bundle_open(detail::name(path), detail::get(options), out, error);
    });
  }

  /* A part of an open file; the descriptor stays the caller's. */
  static Bundle open_fd(int fd, uint64_t offset, uint64_t length, const Options *options = nullptr) {
    return make([&](skim_bundle **out, skim_error **error) {
      return skim_bundle_open_fd(fd, offset, length, detail::get(options), out, error);
    });
  }

  /* Copies `length` bytes. */
  static Bundle copy(const void *data, std::size_t length, const Options *options = nullptr) {
    return make([&](skim_bundle **out, skim_error **error) {
      return skim_bundle_open_memory(data, length, nullptr, nullptr, detail::get(options), out, error);
    });
  }

  /* Uses `length` bytes in place, which begin at a multiple of 64 and which `owner` keeps alive. */
  static Bundle borrow(const void *data, std::size_t length, std::shared_ptr<const void> owner,
                       const Options *options = nullptr) {
    auto box = new std::shared_ptr<const void>(std::move(owner));
    auto destroy = [](void *box) { delete static_cast<std::shared_ptr<const void> *>(box); };
    return make([&](skim_bundle **out, skim_error **error) {
      return skim_bundle_open_memory(data, length, destroy, box, detail::get(options), out, error);
    });
  }

  /* As JSON. */
  std::string inspect() const {
    return detail::string([&](char **out, skim_error **error) { return skim_bundle_inspect(get(), out, error); });
  }

  Estimate estimate(uint32_t sessions = 1, const Options *options = nullptr) const {
    Estimate bytes{};
    detail::call([&](skim_error **error) {
      return skim_bundle_estimate(get(), detail::get(options), sessions, &bytes.file_backed, &bytes.anonymous, error);
    });
    return bytes;
  }

  skim_bundle *get() const noexcept { return handle_.get(); }

 private:
  explicit Bundle(skim_bundle *handle) : handle_(handle) {}

  template <typename Function>
  static Bundle make(Function &&function) {
    skim_bundle *handle = nullptr;
    detail::call([&](skim_error **error) { return function(&handle, error); });
    return Bundle(handle);
  }

  detail::Handle<skim_bundle, skim_bundle_free> handle_;
};

/* A model: used by any number of sessions and threads at once. */
class Model {
 public:
  static Model open(const std::string &path, const Options *options = nullptr) {
    skim_model *handle = nullptr;
    detail::call([&](skim_error **error) {
      return skim_model_open(detail::name(path), detail::get(options), &handle, error);
    });
    return Model(handle);
  }

  explicit Model(const Bundle &bundle, const Options *options = nullptr) {
    skim_model *handle = nullptr;
    detail::call([&](skim_error **error) {
      return skim_model_new(bundle.get(), detail::get(options), &handle, error);
    });
    handle_.reset(handle);
  }

  /* As JSON. */
  std::string inspect() const {
    return detail::string([&](char **out, skim_error **error) { return skim_model_inspect(get(), out, error); });
  }

  /* How hot the device is, one of SKIM_THERMAL_…: less effort the hotter. From any thread. */
  void set_thermal(int32_t level) const {
    detail::call([&](skim_error **error) { return skim_model_set_thermal(get(), level, error); });
  }

  uint64_t memory_used() const {
    uint64_t bytes = 0;
    detail::call([&](skim_error **error) { return skim_model_memory_used(get(), &bytes, error); });
    return bytes;
  }

  void trim_memory() const {
    detail::call([&](skim_error **error) { return skim_model_trim_memory(get(), error); });
  }

  std::vector<uint32_t> tokenize(std::string_view text, bool add_special = false) const {
    std::size_t count = 0;
    // A token has at least one byte, but for the special ones around the text.
    std::vector<uint32_t> tokens(text.size() + 8);
    for (int round = 0; round < 2; ++round) {
      detail::call([&](skim_error **error) {
        return skim_model_tokenize(get(), text.data(), text.size(), add_special, tokens.data(), tokens.size(), &count,
                                   error);
      });
      bool fits = count <= tokens.size();
      tokens.resize(count);
      if (fits) break;
    }
    return tokens;
  }

  skim_model *get() const noexcept { return handle_.get(); }

 private:
  explicit Model(skim_model *handle) : handle_(handle) {}

  detail::Handle<skim_model, skim_model_free> handle_;
};

/* Something that happened. Either owned, or borrowed during a callback. */
class Event {
 public:
  explicit Event(skim_event *owned) : owner_(owned), event_(owned) {}
  explicit Event(const skim_event *borrowed) : event_(borrowed) {}

  /* One of SKIM_EVENT_…. */
  int32_t type() const noexcept { return skim_event_type(event_); }
  std::string_view name() const noexcept { return skim_event_name(event_); }

  /* Valid as long as the event. */
  std::string_view text() const noexcept {
    std::size_t length = 0;
    const char *text = skim_event_text(event_, &length);
    return {text, length};
  }

  /* The whole event; valid as long as it. */
  std::string_view json() const {
    const char *json = nullptr;
    detail::call([&](skim_error **error) { return skim_event_json(event_, &json, error); });
    return json;
  }

  double number(const std::string &path) const {
    double number = 0;
    detail::call([&](skim_error **error) { return skim_event_number(event_, detail::name(path), &number, error); });
    return number;
  }

  std::string string(const std::string &path) const {
    return detail::string(
        [&](char **out, skim_error **error) { return skim_event_string(event_, detail::name(path), out, error); });
  }

 private:
  detail::Handle<skim_event, skim_event_free> owner_;
  const skim_event *event_;
};

/* Stops a session's work, from any thread or signal handler. */
class Cancel {
 public:
  explicit Cancel(skim_cancel *handle) : handle_(handle) {}
  void trigger() const noexcept { skim_cancel_trigger(handle_.get()); }

 private:
  detail::Handle<skim_cancel, skim_cancel_free> handle_;
};

class Session;

/* The events of one question, for a range-for. Refers to its session. */
class Events {
 public:
  class iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = Event;
    using difference_type = std::ptrdiff_t;
    using pointer = const Event *;
    using reference = const Event &;

    iterator() = default;
    explicit iterator(Session *session) : session_(session) { ++*this; }
    inline iterator &operator++();
    reference operator*() const { return *event_; }
    pointer operator->() const { return &*event_; }
    bool operator==(const iterator &other) const { return session_ == other.session_; }
    bool operator!=(const iterator &other) const { return !(*this == other); }

   private:
    Session *session_ = nullptr;
    std::optional<Event> event_;
  };

  explicit Events(Session *session) : session_(session) {}
  iterator begin() const { return iterator(session_); }
  iterator end() const { return iterator(); }

 private:
  Session *session_;
};

/* One conversation. */
class Session {
 public:
  explicit Session(const Model &model, const Options *options = nullptr) {
    skim_session *handle = nullptr;
    detail::call([&](skim_error **error) {
      return skim_session_new(model.get(), detail::get(options), &handle, error);
    });
    handle_.reset(handle);
  }

  Session &set(const std::string &key, const std::string &value) {
    detail::call([&](skim_error **error) {
      return skim_session_set_param(get(), detail::name(key), detail::name(value), error);
    });
    return *this;
  }

  /* Back to the default. */
  Session &unset(const std::string &key) {
    detail::call([&](skim_error **error) { return skim_session_set_param(get(), detail::name(key), nullptr, error); });
    return *this;
  }

  /* The value as JSON. */
  std::string value(const std::string &key) const {
    return detail::string(
        [&](char **out, skim_error **error) { return skim_session_get_param(get(), detail::name(key), out, error); });
  }

  /* What may be set, as JSON. */
  std::string bounds() const {
    return detail::string(
        [&](char **out, skim_error **error) { return skim_session_get_bounds(get(), nullptr, out, error); });
  }

  Session &append(std::string_view text) {
    detail::call([&](skim_error **error) {
      return skim_session_append_text(get(), text.data(), text.size(), error);
    });
    return *this;
  }

  Session &append(const std::vector<uint32_t> &tokens) {
    detail::call([&](skim_error **error) {
      return skim_session_append_tokens(get(), tokens.data(), tokens.size(), error);
    });
    return *this;
  }

  Session &append_message(const std::string &role, std::string_view content) {
    detail::call([&](skim_error **error) {
      return skim_session_append_message(get(), detail::name(role), content.data(), content.size(), error);
    });
    return *this;
  }

  Session &clear() {
    detail::call([&](skim_error **error) { return skim_session_clear(get(), error); });
    return *this;
  }

  void begin() {
    detail::call([&](skim_error **error) { return skim_session_begin(get(), error); });
  }

  /* The next event; none after the end. */
  std::optional<Event> next() {
    skim_event *event = nullptr;
    detail::call([&](skim_error **error) { return skim_session_next_event(get(), -1, &event, error); });
    return event ? std::optional<Event>(event) : std::nullopt;
  }

  /* SKIM_STATUS_OK and an event, or SKIM_STATUS_TIMEOUT or SKIM_STATUS_END and none. */
  std::pair<int32_t, std::optional<Event>> next(std::chrono::milliseconds timeout) {
    skim_event *event = nullptr;
    int32_t status = detail::call([&](skim_error **error) {
      return skim_session_next_event(get(), static_cast<int32_t>(timeout.count()), &event, error);
    });
    return {status, event ? std::optional<Event>(event) : std::nullopt};
  }

  /* Begins, and gives the events one by one. */
  Events ask() {
    begin();
    return Events(this);
  }

  /* Begins, hands every event to `callback`, and returns the finished one. `callback` returns whether to go on. */
  Event generate(const std::function<bool(const Event &)> &callback = {}) {
    struct Call {
      const std::function<bool(const Event &)> &callback;
      std::exception_ptr thrown;
    } state{callback, nullptr};
    auto trampoline = [](const skim_event *event, void *user_data) -> int32_t {
      auto &state = *static_cast<Call *>(user_data);
      if (state.thrown || !state.callback) return 0;
      try {
        return state.callback(Event(event)) ? 0 : 1;
      } catch (...) {
        state.thrown = std::current_exception();
        return 1;
      }
    };
    skim_event *finished = nullptr;
    detail::call([&](skim_error **error) {
      return skim_session_generate(get(), trampoline, &state, nullptr, &finished, error);
    });
    Event event(finished);
    if (state.thrown) std::rethrow_exception(state.thrown);
    return event;
  }

  Cancel cancel_handle() const {
    skim_cancel *handle = nullptr;
    detail::call([&](skim_error **error) { return skim_session_cancel_handle(get(), &handle, error); });
    return Cancel(handle);
  }

  /* To a file that appears whole or not at all. */
  void save(const std::string &path) const {
    detail::call([&](skim_error **error) { return skim_session_save(get(), detail::name(path), error); });
  }

  /* From such a file; in a session of `reuse_prefix`. */
  void restore(const std::string &path) {
    detail::call([&](skim_error **error) { return skim_session_restore(get(), detail::name(path), error); });
  }

  /* Goes on with the question in such a file; for a range-for. */
  Events resume(const std::string &path) {
    detail::call([&](skim_error **error) { return skim_session_resume(get(), detail::name(path), error); });
    return Events(this);
  }

  /* For a memory warning. From any thread, as the next two. */
  void memory_warning() const {
    detail::call([&](skim_error **error) { return skim_session_memory_warning(get(), error); });
  }

  /* The app leaves the screen: the question ends with the reason "suspended", and is in the file at `path`. */
  void enter_background(const std::string &path, std::chrono::milliseconds grace) const {
    /* None that ends before it began, and none that wraps. */
    auto milliseconds = static_cast<uint32_t>(std::clamp<int64_t>(grace.count(), 0, UINT32_MAX));
    detail::call([&](skim_error **error) {
      return skim_session_enter_background(get(), detail::name(path), milliseconds, error);
    });
  }

  void enter_foreground() const {
    detail::call([&](skim_error **error) { return skim_session_enter_foreground(get(), error); });
  }

  Session fork() const {
    skim_session *handle = nullptr;
    detail::call([&](skim_error **error) { return skim_session_fork(get(), &handle, error); });
    return Session(handle);
  }

  /* As JSON. */
  std::string inspect() const {
    return detail::string([&](char **out, skim_error **error) { return skim_session_inspect(get(), out, error); });
  }

  skim_session *get() const noexcept { return handle_.get(); }

 private:
  explicit Session(skim_session *handle) : handle_(handle) {}

  detail::Handle<skim_session, skim_session_free> handle_;
};

inline Events::iterator &Events::iterator::operator++() {
  event_ = session_->next();
  if (!event_) session_ = nullptr;
  return *this;
}

#ifdef SKIM_EXPERIMENTAL
/* The prompt of a sleep student. */
inline std::string sleep_prompt(std::string_view night_json, std::string_view question) {
  return detail::string([&](char **out, skim_error **error) {
    return skim_x_sleep_prompt(night_json.data(), night_json.size(), question.data(), question.size(), out, error);
  });
}
#endif

}  // namespace skim

#endif /* SKIMSTONE_HPP */
