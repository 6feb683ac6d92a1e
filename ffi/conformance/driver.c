/* The steps of cases.json through the C functions. See README.md. */
#include <fcntl.h>
#include <skimstone.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static skim_options *options;
static skim_bundle *bundle;
static skim_model *model;
static skim_session *session, *forked;
static skim_cancel *cancel;
static skim_event *event;
static skim_error *error;

static void free_event(void) {
  skim_event_free(event);
  event = NULL;
}

static void reset(void) {
  free_event();
  skim_cancel_free(cancel);
  skim_session_free(forked);
  skim_session_free(session);
  skim_model_free(model);
  skim_bundle_free(bundle);
  skim_options_free(options);
  cancel = NULL, forked = session = NULL, model = NULL, bundle = NULL, options = NULL;
}

/* Prints a result, on one line. */
static void say(const char *text) {
  for (; *text; text++) {
    if (*text == '\n') fputs("\\n", stdout);
    else putchar(*text);
  }
  putchar('\n');
}

/* Prints what came of a step that has nothing to show. */
static void told(int32_t status) {
  if (status < 0) {
    printf("error %d %s\n", status, skim_error_kind(error));
    skim_error_free(error);
    error = NULL;
  } else {
    puts("ok");
  }
}

static void show_string(int32_t status, char *text) {
  if (status < 0) {
    told(status);
  } else {
    say(text);
    skim_string_free(text);
  }
}

static void unescape(char *text) {
  char *to = text;
  for (; *text; text++) {
    if (text[0] == '\\' && text[1] == 'n') {
      *to++ = '\n';
      text++;
    } else {
      *to++ = *text;
    }
  }
  *to = 0;
}

static int32_t open_fd(const char *path, const char *offset) {
  int fd = open(path, O_RDONLY);
  int32_t status = skim_bundle_open_fd(fd, strtoull(offset, NULL, 10), 0, options, &bundle, &error);
  close(fd);
  return status;
}

static int32_t open_memory(const char *path, size_t length) {
  FILE *file = fopen(path, "rb");
  size_t size = 64u << 20;
  char *bytes = malloc(size);
  if (!file || !bytes) exit(3);
  size = fread(bytes, 1, size, file);
  fclose(file);
  int32_t status = skim_bundle_open_memory(bytes, length ? length : size, NULL, NULL, options, &bundle, &error);
  free(bytes);
  return status;
}

/* Cancels at the event that `user_data` counts down to. */
static int32_t count_down(const skim_event *seen, void *user_data) {
  (void)seen;
  int *left = user_data;
  return *left > 0 && --*left == 0;
}

static void generate(int cancel_at) {
  free_event();
  int32_t status = skim_session_generate(session, count_down, &cancel_at, NULL, &event, &error);
  char *reason = NULL;
  if (status >= 0) status = skim_event_string(event, "finish_reason", &reason, &error);
  show_string(status, reason);
}

/* Pulls to the end, once `status` says that there is something to pull. */
static void all_events(int32_t status) {
  char names[4096] = "", last[64] = "";
  while (status == SKIM_STATUS_OK) {
    skim_event *next = NULL;
    status = skim_session_next_event(session, -1, &next, &error);
    if (status != SKIM_STATUS_OK) break;
    free_event();
    event = next;
    const char *name = skim_event_name(event);
    if (strcmp(name, last) != 0 && strlen(names) < 4000) {
      if (names[0]) strcat(names, " ");
      strcat(names, name);
      strcpy(last, name);
    }
  }
  if (status < 0) {
    told(status);
  } else {
    puts(names);
  }
}

static void next_event(int timeout_ms) {
  skim_event *next = NULL;
  int32_t status = skim_session_next_event(session, timeout_ms, &next, &error);
  if (status < 0) {
    told(status);
  } else if (status == SKIM_STATUS_OK) {
    free_event();
    event = next;
    puts(skim_event_name(event));
  } else {
    puts(status == SKIM_STATUS_TIMEOUT ? "timeout" : "end");
  }
}

static void append_tokens(size_t count, uint32_t token) {
  uint32_t *tokens = malloc(count * sizeof *tokens);
  if (!tokens) exit(3);
  for (size_t i = 0; i < count; i++) tokens[i] = token;
  told(skim_session_append_tokens(session, tokens, count, &error));
  free(tokens);
}

static void step(const char *what, char *a, char *b) {
  char *text = NULL;
  double number = 0;
  size_t count = 0;
  uint64_t file_backed = 0, anonymous = 0;
  int32_t status;
#define IS(name) (strcmp(what, name) == 0)
  if (IS("reset")) reset(), puts("ok");
  else if (IS("init")) told(skim_init(SKIM_ABI_VERSION + (uint32_t)atoi(a), &error));
  else if (IS("options.set")) {
    status = options ? SKIM_STATUS_OK : skim_options_new(&options, &error);
    told(status < 0 ? status : skim_options_set(options, a, b, &error));
  }
  else if (IS("bundle.open")) told(skim_bundle_open(a, options, &bundle, &error));
  else if (IS("bundle.fd")) told(open_fd(a, b));
  else if (IS("bundle.memory")) told(open_memory(a, (size_t)atoi(b)));
  else if (IS("bundle.estimate")) {
    status = skim_bundle_estimate(bundle, options, 1, &file_backed, &anonymous, &error);
    if (status < 0) told(status);
    else if (anonymous > 0) printf("file %llu\n", (unsigned long long)file_backed);
    else puts("nothing");
  }
  else if (IS("model.open")) told(skim_model_open(a, options, &model, &error));
  else if (IS("model.new")) told(skim_model_new(bundle, options, &model, &error));
  else if (IS("model.tokens")) {
    status = skim_model_tokenize(model, a, strlen(a), 0, NULL, 0, &count, &error);
    if (status < 0) told(status);
    else printf("%zu\n", count);
  }
  else if (IS("model.thermal")) told(skim_model_set_thermal(model, atoi(a), &error));
  else if (IS("model.free")) told(skim_model_free(model)), model = NULL;
  else if (IS("session.new")) {
    skim_session_free(session), session = NULL;
    told(skim_session_new(model, options, &session, &error));
  }
  else if (IS("session.fork")) told(skim_session_fork(session, &forked, &error));
  else if (IS("session.save")) told(skim_session_save(session, a, &error));
  else if (IS("session.restore")) told(skim_session_restore(session, a, &error));
  else if (IS("session.swap")) {
    skim_session *other = session;
    session = forked, forked = other;
    puts("ok");
  }
  else if (IS("session.free")) told(skim_session_free(session)), session = NULL;
  else if (IS("session.set")) told(skim_session_set_param(session, a, b, &error));
  else if (IS("session.unset")) told(skim_session_set_param(session, a, NULL, &error));
  else if (IS("session.get")) status = skim_session_get_param(session, a, &text, &error), show_string(status, text);
  else if (IS("session.append")) told(skim_session_append_text(session, a, strlen(a), &error));
  else if (IS("session.tokens")) append_tokens((size_t)atoi(a), (uint32_t)strtoul(b, NULL, 10));
  else if (IS("session.message")) told(skim_session_append_message(session, a, b, strlen(b), &error));
  else if (IS("session.clear")) told(skim_session_clear(session, &error));
  else if (IS("session.begin")) told(skim_session_begin(session, &error));
  else if (IS("session.next")) next_event(atoi(a));
  else if (IS("session.generate")) generate(atoi(a));
  else if (IS("session.events")) all_events(skim_session_begin(session, &error));
  else if (IS("session.rest")) all_events(SKIM_STATUS_OK);
  else if (IS("session.resume")) all_events(skim_session_resume(session, a, &error));
  else if (IS("session.memory_warning")) told(skim_session_memory_warning(session, &error));
  else if (IS("session.background")) told(skim_session_enter_background(session, a, (uint32_t)atoi(b), &error));
  else if (IS("session.foreground")) told(skim_session_enter_foreground(session, &error));
  else if (IS("cancel.get")) told(skim_session_cancel_handle(session, &cancel, &error));
  else if (IS("cancel.trigger")) told(skim_cancel_trigger(cancel));
  else if (IS("event.text")) say(skim_event_text(event, NULL));
  else if (IS("event.number")) {
    status = skim_event_number(event, a, &number, &error);
    if (status < 0) told(status);
    else printf("%g\n", number);
  }
  else if (IS("event.string")) status = skim_event_string(event, a, &text, &error), show_string(status, text);
  else printf("unknown step %s\n", what);
}

int main(void) {
  static char line[1 << 16];
  while (fgets(line, sizeof line, stdin)) {
    char *words[3] = {line, "", ""};
    line[strcspn(line, "\n")] = 0;
    for (int i = 0; i < 2; i++) {
      char *tab = strchr(words[i], '\t');
      if (!tab) break;
      *tab = 0;
      words[i + 1] = tab + 1;
    }
    unescape(words[0]);
    if (*words[1]) unescape(words[1]);
    if (*words[2]) unescape(words[2]);
    step(words[0], words[1], words[2]);
    fflush(stdout);
  }
  reset();
  return 0;
}
