/*
 * Opens, asks, saves and closes with the n-th allocation refused, for every n: each round must end in a status, with the library's
 * books of its heap back where they were. Two ways: only that allocation is refused, or every one from it on until the call returns.
 *
 *   oom STUDENT.skim FILE STRIDE     FILE may be written; a stride above 1 leaves rounds out
 *
 * Refuses beneath the library, by taking the place of the C library's malloc: needs glibc.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <skimstone.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

/* Allocations until the refusal; negative: none is refused. Counted over all threads. */
static atomic_long left = -1;
static atomic_bool armed, ever_after, fired;
static atomic_long served, refused_bytes;

static bool refused(size_t size) {
  if (!atomic_load(&armed)) return false;
  atomic_fetch_add(&served, 1);
  long n = atomic_fetch_sub(&left, 1);
  if (n > 0 || (n < 0 && !(atomic_load(&ever_after) && atomic_load(&fired)))) return false;
  atomic_store(&fired, true);
  atomic_fetch_add(&refused_bytes, (long)size);
  errno = ENOMEM;
  return true;
}

void *malloc(size_t size) { return refused(size) ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return refused(count * size) ? NULL : __libc_calloc(count, size); }
void *realloc(void *old, size_t size) { return refused(size) ? NULL : __libc_realloc(old, size); }
void *memalign(size_t align, size_t size) { return refused(size) ? NULL : __libc_memalign(align, size); }
void *aligned_alloc(size_t align, size_t size) { return memalign(align, size); }
int posix_memalign(void **out, size_t align, size_t size) {
  void *memory = memalign(align, size);
  if (!memory) return ENOMEM;
  *out = memory;
  return 0;
}
void free(void *memory) { __libc_free(memory); }

static const char question[] = "age 34. in bed 23:05, up 07:15.\nhow long was I in bed?";

static uint64_t heap(void) {
  uint64_t live = 0, peak = 0;
  if (skim_memory_allocated(&live, &peak, NULL)) exit(2);
  return live;
}

/* One life of a model; the first status below 0, or 0. */
static int32_t life(const char *student, const char *file, long refuse, bool after) {
  skim_error *error = NULL;
  skim_options *options = NULL;
  skim_model *model = NULL;
  skim_session *session = NULL, *fork = NULL;
  skim_event *event = NULL;
  atomic_store(&left, refuse);
  atomic_store(&ever_after, after);
  atomic_store(&fired, false);
  atomic_store(&served, 0);
  atomic_store(&armed, true);
  int32_t status = 0;
/* "From it on" ends with the call that failed: the app frees memory then. */
#define STEP(call)                                  \
  if (status >= 0) {                                \
    status = (call);                                \
    if (status < 0) atomic_store(&ever_after, false); \
  }
  STEP(skim_options_new(&options, &error))
  /* Rust's standard library takes the handle of a thread, 48 bytes, from malloc itself, without a way to fail; see ffi/README.md. */
  STEP(skim_options_set(options, "threads", "1", &error))
  STEP(skim_options_set(options, "reuse_prefix", "true", &error))
  STEP(skim_model_open(student, options, &model, &error))
  STEP(skim_session_new(model, options, &session, &error))
  STEP(skim_session_set_param(session, "route", "skip", &error))
  STEP(skim_session_set_param(session, "budget_tokens", "30", &error))
  STEP(skim_session_append_text(session, question, strlen(question), &error))
  STEP(skim_session_generate(session, NULL, NULL, NULL, &event, &error))
  STEP(skim_session_save(session, file, &error))
  STEP(skim_session_restore(session, file, &error))
  STEP(skim_session_fork(session, &fork, &error))
  STEP(skim_session_memory_warning(fork, &error))
  STEP(skim_session_memory_warning(session, &error))
  atomic_store(&ever_after, false);
  if (status < 0) {
    /* What the caller sees of it is there, too. */
    if (!error || skim_error_status(error) != status || !*skim_error_message(error)) {
      fprintf(stderr, "allocation %ld: status %d without its error\n", refuse, status);
      exit(1);
    }
  }
  skim_error_free(error);
  skim_event_free(event);
  skim_session_free(fork);
  skim_session_free(session);
  skim_model_free(model);
  skim_options_free(options);
  atomic_store(&armed, false);
  return status;
}

int main(int argc, char **argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: %s STUDENT.skim FILE STRIDE\n", argv[0]);
    return 2;
  }
  long stride = atol(argv[3]);
  for (int i = 0; i < 3; i++)
    if (life(argv[1], argv[2], -1, false)) return 2;
  long count = atomic_load(&served);
  uint64_t before = heap();
  for (int after = 0; after < 2; after++) {
    long memory = 0, other = 0, fine = 0;
    for (long n = 0; n < count; n += stride) {
      /* A killed round names its n. */
      if (getenv("SKIMSTONE_TRACE")) fprintf(stderr, "%s %ld\n", after ? "from" : "only", n);
      int32_t status = life(argv[1], argv[2], n, after);
      if (heap() != before) {
        fprintf(stderr, "allocation %ld: %lld bytes are not given back\n", n, (long long)(heap() - before));
        return 1;
      }
      if (status == SKIM_STATUS_MEMORY) memory++;
      else if (status < 0) other++, fprintf(stderr, "allocation %ld: status %d\n", n, status);
      else fine++;
    }
    printf("%ld allocations, %s refused in turn: %ld end in SKIM_STATUS_MEMORY, %ld in other errors, %ld are made good\n", count,
           after ? "all from one on" : "one", memory, other, fine);
    /* A refusal that nobody hears of would be one too many in a row. */
    if (memory == 0) return 1;
  }
  /* What was refused while the last round gave its things back is told by the next call at work, as skimstone.h says; once. */
  int32_t told = life(argv[1], argv[2], -1, false);
  int32_t status = told == SKIM_STATUS_MEMORY ? life(argv[1], argv[2], -1, false) : told;
  if (status) fprintf(stderr, "with all memory there again: status %d\n", status);
  return status != 0;
}
