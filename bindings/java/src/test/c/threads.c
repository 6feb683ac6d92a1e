/* skimstone_jni.c, and a thread that Java does not know, which opens a model and so writes to the log. */
#include "../../main/c/skimstone_jni.c"

static void *open_model(void *path) {
  skim_model *model = NULL;
  intptr_t opened = skim_model_open(path, NULL, &model, NULL) >= 0;
  skim_model_free(model);
  return (void *)opened;
}

JNIEXPORT jboolean JNICALL Java_io_github_skimstone_Laws_openOnThread(JNIEnv *env, jclass class, jbyteArray path_bytes) {
  (void)class;
  char *path = copy_of(env, path_bytes, NULL);
  pthread_t thread;
  void *opened = NULL;
  if (path && pthread_create(&thread, NULL, open_model, path) == 0) pthread_join(thread, &opened);
  free(path);
  return opened ? JNI_TRUE : JNI_FALSE;
}
