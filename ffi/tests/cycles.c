/*
 * Opens, asks and closes ROUNDS times, and fails if anything grows: the library's own books of its heap must come back to the byte,
 * and the memory of the process must stay.
 *
 *   cycles STUDENT.skim ROUNDS
 */
#include <skimstone.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Rounds after which every lazily made thing is there. */
#define SETTLED 50

static const char question[] = "age 34. in bed 23:05, up 07:15.\nhow long was I in bed?";

static void must(int32_t status, skim_error *error) {
  if (status >= 0) return;
  fprintf(stderr, "error %d: %s\n", status, skim_error_message(error));
  exit(2);
}

static uint64_t heap(void) {
  uint64_t live = 0, peak = 0;
  must(skim_memory_allocated(&live, &peak, NULL), NULL);
  return live;
}

/* Pages that are in memory. */
static long resident(void) {
  long size = 0, pages = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  if (!file || fscanf(file, "%ld %ld", &size, &pages) != 2) exit(2);
  fclose(file);
  return pages;
}

static void cycle(const char *student, int round) {
  skim_error *error = NULL;
  skim_options *options = NULL;
  skim_model *model = NULL;
  skim_session *session = NULL, *fork = NULL;
  skim_cancel *cancel = NULL;
  skim_event *event = NULL;
  must(skim_options_new(&options, &error), error);
  must(skim_options_set(options, "threads", "2", &error), error);
  must(skim_model_open(student, options, &model, &error), error);
  must(skim_session_new(model, options, &session, &error), error);
  must(skim_session_set_param(session, "route", round % 2 ? "direct" : "skip", &error), error);
  must(skim_session_append_text(session, question, strlen(question), &error), error);
  must(skim_session_cancel_handle(session, &cancel, &error), error);
  must(skim_session_generate(session, NULL, NULL, NULL, &event, &error), error);
  skim_event_free(event);
  must(skim_session_fork(session, &fork, &error), error);
  must(skim_session_begin(fork, &error), error);
  must(skim_session_next_event(fork, 0, &event, &error), error);
  skim_event_free(event);
  /* An error and what it leaves behind, too. */
  if (skim_session_set_param(session, "route", "fast", &error) != SKIM_STATUS_UNKNOWN_ROUTE) exit(2);
  skim_error_free(error);
  skim_session_free(session);
  skim_model_free(model);
  skim_session_free(fork);
  skim_cancel_free(cancel);
  skim_options_free(options);
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s STUDENT.skim ROUNDS\n", argv[0]);
    return 2;
  }
  uint64_t heap_before = 0;
  long pages_before = 0;
  int rounds = atoi(argv[2]);
  for (int round = 0; round < rounds; round++) {
    if (round == SETTLED) {
      heap_before = heap();
      pages_before = resident();
    }
    cycle(argv[1], round);
  }
  long kib = (resident() - pages_before) * (sysconf(_SC_PAGESIZE) / 1024);
  printf("%d cycles: heap of the library %llu bytes, then %llu; the process grew by %ld KiB\n", rounds,
         (unsigned long long)heap_before, (unsigned long long)heap(), kib);
  /* The C library's allocator keeps some pages; a leak of a byte per cycle would show in the books above. */
  return rounds > SETTLED && (heap() != heap_before || kib > 4096);
}
