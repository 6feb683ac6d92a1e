/*
 * A program of ABI 0.1: compiled against the header in this folder, run with the library of today (tests/c.rs). Do not bring it up to
 * date; a later ABI gets a folder of its own.
 *
 *   program STUDENT.skim
 *
 * Prints "all of ABI 0.1 works", or what does not. It calls every function of that header but the experimental ones.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "skimstone.h"

static const char question[] = "age 34. in bed 23:05, up 07:15.\nhow long was I in bed?";
static skim_error *error;

#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) {                                                         \
      printf("line %d: %s; %s\n", __LINE__, #condition,                         \
             error ? skim_error_message(error) : "no error");                   \
      exit(1);                                                                  \
    }                                                                           \
  } while (0)
#define WORKS(call) CHECK((call) == SKIM_STATUS_OK)

static int destroyed, events, logged;

static void destroy(void *user_data) { ++*(int *)user_data; }

static int32_t count(const skim_event *event, void *user_data) {
  CHECK(skim_event_name(event) != NULL && user_data == &destroyed);
  ++events;
  return 0;
}

static void log_line(int32_t level, const char *target, const char *message, void *user_data) {
  (void)level, (void)target, (void)message, (void)user_data;
  ++logged;
}

/* Options, and a bundle opened in all three ways. */
static skim_bundle *bundles(const char *student, skim_options *options) {
  skim_bundle *by_path = NULL, *by_fd = NULL, *in_memory = NULL;
  uint64_t file_backed = 0, anonymous = 0;
  char *text = NULL;
  WORKS(skim_bundle_open(student, NULL, &by_path, &error));
  WORKS(skim_bundle_inspect(by_path, &text, &error));
  CHECK(strstr(text, "\"tokenizer\":true") != NULL);
  WORKS(skim_string_free(text));
  WORKS(skim_bundle_estimate(by_path, options, 1, &file_backed, &anonymous, &error));
  CHECK(file_backed > 0 && anonymous > 0);

  int fd = open(student, O_RDONLY);
  off_t size = lseek(fd, 0, SEEK_END);
  CHECK(fd >= 0 && size > 0);
  WORKS(skim_bundle_open_fd(fd, 0, (uint64_t)size, NULL, &by_fd, &error));
  WORKS(skim_bundle_free(by_fd));

  void *bytes = NULL;
  CHECK(posix_memalign(&bytes, 64, (size_t)size) == 0 && pread(fd, bytes, (size_t)size, 0) == size);
  close(fd);
  int freed = 0;
  WORKS(skim_bundle_open_memory(bytes, (size_t)size, destroy, &freed, NULL, &in_memory, &error));
  WORKS(skim_bundle_free(in_memory));
  CHECK(freed == 1);
  free(bytes);
  return by_path;
}

/* What a model says of itself. */
static void model_functions(const skim_model *model) {
  char *text = NULL;
  uint64_t used = 0, live = 0, peak = 0;
  uint32_t tokens[64];
  size_t needed = 0;
  WORKS(skim_model_inspect(model, &text, &error));
  WORKS(skim_string_free(text));
  WORKS(skim_model_memory_used(model, &used, &error));
  WORKS(skim_model_trim_memory(model, &error));
  WORKS(skim_model_tokenize(model, question, strlen(question), 1, tokens, 64, &needed, &error));
  CHECK(needed > 0 && needed <= 64);
  WORKS(skim_memory_allocated(&live, &peak, &error));
  CHECK(live > 0 && peak >= live);
}

/* Events pulled one by one, and what they hold. */
static void pull(skim_session *session) {
  int32_t status, finished = 0;
  skim_event *event = NULL;
  WORKS(skim_session_append_text(session, question, strlen(question), &error));
  WORKS(skim_session_begin(session, &error));
  while ((status = skim_session_next_event(session, -1, &event, &error)) == SKIM_STATUS_OK) {
    const char *json = NULL;
    size_t length = 0;
    WORKS(skim_event_json(event, &json, &error));
    CHECK(json[0] == '{');
    if (skim_event_type(event) == SKIM_EVENT_THINKING_TEXT) CHECK(strlen(skim_event_text(event, &length)) == length);
    if (skim_event_type(event) == SKIM_EVENT_FINISHED) {
      double generated = 0;
      char *answer = NULL;
      WORKS(skim_event_number(event, "usage.generated_tokens", &generated, &error));
      WORKS(skim_event_string(event, "text", &answer, &error));
      CHECK(generated > 0 && answer[0] != 0);
      WORKS(skim_string_free(answer));
      finished = 1;
    }
    WORKS(skim_event_free(event));
  }
  CHECK(status == SKIM_STATUS_END && finished);
}

/* Knobs, callbacks, forks, cancels. */
static void session_functions(skim_session *session) {
  char *text = NULL;
  skim_session *fork = NULL;
  skim_cancel *cancel = NULL;
  WORKS(skim_session_set_param(session, "route", "skip", &error));
  WORKS(skim_session_get_param(session, "route", &text, &error));
  CHECK(strstr(text, "skip") != NULL);
  WORKS(skim_string_free(text));
  WORKS(skim_session_get_bounds(session, "route", &text, &error));
  WORKS(skim_string_free(text));
  pull(session);

  WORKS(skim_session_clear(session, &error));
  WORKS(skim_session_append_text(session, question, strlen(question), &error));
  WORKS(skim_session_fork(session, &fork, &error));
  WORKS(skim_session_generate(fork, count, &destroyed, destroy, NULL, &error));
  CHECK(events > 2 && destroyed == 1);
  WORKS(skim_session_free(fork));

  WORKS(skim_session_cancel_handle(session, &cancel, &error));
  WORKS(skim_session_begin(session, &error));
  WORKS(skim_cancel_trigger(cancel));
  skim_event *event = NULL;
  int cancelled = 0;
  while (skim_session_next_event(session, -1, &event, &error) == SKIM_STATUS_OK) {
    if (skim_event_type(event) == SKIM_EVENT_FINISHED) {
      WORKS(skim_event_string(event, "finish_reason", &text, &error));
      cancelled = strcmp(text, "cancelled") == 0;
      WORKS(skim_string_free(text));
    }
    WORKS(skim_event_free(event));
  }
  CHECK(cancelled);
  WORKS(skim_cancel_free(cancel));
  WORKS(skim_session_inspect(session, &text, &error));
  WORKS(skim_string_free(text));
}

/* Errors have all their parts. */
static void refusals(skim_session *session) {
  uint32_t foreign = UINT32_MAX;
  CHECK(skim_session_set_param(session, "route", "fast", &error) == SKIM_STATUS_UNKNOWN_ROUTE);
  CHECK(skim_error_status(error) == SKIM_STATUS_UNKNOWN_ROUTE && skim_error_kind(error) != NULL);
  CHECK(strstr(skim_error_message(error), "fast") != NULL);
  (void)skim_error_place(error), (void)skim_error_hint(error);
  WORKS(skim_error_free(error));
  error = NULL;
  WORKS(skim_session_clear(session, &error));
  CHECK(skim_session_append_tokens(session, &foreign, 1, &error) < 0 ||
        skim_session_generate(session, NULL, NULL, NULL, NULL, &error) < 0);
  WORKS(skim_error_free(error));
  error = NULL;
  /* The student has no chat template. */
  WORKS(skim_session_clear(session, NULL));
  CHECK(skim_session_append_message(session, "user", "x", 1, NULL) < 0 ||
        skim_session_generate(session, NULL, NULL, NULL, NULL, NULL) < 0);
}

int main(int argc, char **argv) {
  skim_options *options = NULL;
  skim_model *model = NULL, *opened = NULL;
  skim_session *session = NULL;
  char *text = NULL;
  CHECK(argc == 2);
  WORKS(skim_init(SKIM_ABI_VERSION, &error));
  CHECK(skim_abi_version() >> 16 == SKIM_ABI_MAJOR && skim_version() != NULL);
  WORKS(skim_log_set(SKIM_LOG_DEBUG, log_line, NULL, NULL, &error));

  WORKS(skim_options_new(&options, &error));
  WORKS(skim_options_set(options, "threads", "1", &error));
  WORKS(skim_options_get(options, "threads", &text, &error));
  CHECK(strcmp(text, "1") == 0);
  WORKS(skim_string_free(text));
  WORKS(skim_options_get_bounds("threads", &text, &error));
  WORKS(skim_string_free(text));

  skim_bundle *bundle = bundles(argv[1], options);
  WORKS(skim_model_new(bundle, options, &model, &error));
  WORKS(skim_bundle_free(bundle));
  WORKS(skim_model_open(argv[1], options, &opened, &error));
  WORKS(skim_model_free(opened));
  WORKS(skim_session_new(model, NULL, &session, &error));
  model_functions(model);
  session_functions(session);
  refusals(session);
  CHECK(logged > 0);

  WORKS(skim_session_free(session));
  WORKS(skim_model_free(model));
  WORKS(skim_options_free(options));
  puts("all of ABI 0.1 works");
  return 0;
}
