/*
 * A small student reasons about one night of sleep, by every route that it was trained for: examples/sleep.rs in C.
 *
 *   cc sleep.c $(pkg-config --cflags --libs skimstone) -o sleep
 *   ./sleep students/sleep.skim nights/tuesday.json "How efficient was my sleep?"
 */
#define SKIM_EXPERIMENTAL /* The sleep student's input format. */
#include <skimstone.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Shows the thinking as it comes. */
static int32_t show(const skim_event *event, void *user_data) {
  (void)user_data;
  switch (skim_event_type(event)) {
    case SKIM_EVENT_CHUNK_STARTED: printf("   - "); break;
    case SKIM_EVENT_THINKING_TEXT: printf("%s", skim_event_text(event, NULL)); break;
    case SKIM_EVENT_CHUNK_FINISHED: printf("\n"); break;
    case SKIM_EVENT_FINISHED: printf("   => %s\n", skim_event_text(event, NULL)); break;
    default: break; /* Events may be added. */
  }
  return 0; /* Anything else cancels. */
}

static char *read_file(const char *path) {
  FILE *file = fopen(path, "rb");
  char *text = calloc(1, 1 << 16);
  if (!file || !text || fread(text, 1, (1 << 16) - 1, file) == 0) {
    perror(path);
    exit(2);
  }
  fclose(file);
  return text;
}

int main(int argc, char **argv) {
  const char *routes[] = {"direct", "skip", "cot"};
  skim_model *model = NULL;
  skim_session *session = NULL;
  skim_error *error = NULL;
  char *prompt = NULL;
  if (argc != 4) {
    fprintf(stderr, "usage: %s STUDENT.skim NIGHT.json QUESTION\n", argv[0]);
    return 2;
  }
  char *night = read_file(argv[2]);
  int ok = skim_init(SKIM_ABI_VERSION, &error) >= 0 &&
           skim_x_sleep_prompt(night, strlen(night), argv[3], strlen(argv[3]), &prompt, &error) >= 0 &&
           skim_model_open(argv[1], NULL, &model, &error) >= 0 &&
           skim_session_new(model, NULL, &session, &error) >= 0 &&
           skim_session_append_text(session, prompt, strlen(prompt), &error) >= 0;
  for (int i = 0; ok && i < 3; i++) {
    skim_event *finished = NULL;
    double tokens = 0;
    printf("%s\n", routes[i]);
    ok = skim_session_set_param(session, "route", routes[i], &error) >= 0 &&
         skim_session_generate(session, show, NULL, NULL, &finished, &error) >= 0 &&
         skim_event_number(finished, "usage.generated_tokens", &tokens, &error) >= 0;
    if (ok) printf("   %.0f tokens\n", tokens);
    skim_event_free(finished);
  }
  if (!ok) fprintf(stderr, "error: %s\n", skim_error_message(error));
  skim_error_free(error); /* Freeing null does nothing. */
  skim_string_free(prompt);
  skim_session_free(session);
  skim_model_free(model);
  free(night);
  return ok ? 0 : 2;
}
