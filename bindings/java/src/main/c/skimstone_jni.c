/*
 * The natives of io.github.skimstone.Native over skimstone.h, and nothing more: what they hand out is owned in Java.
 *
 * Texts cross as byte arrays of UTF-8, because JNI's own strings are "modified UTF-8", which spells NUL and everything beyond
 * the first plane otherwise. Every function returns at once once an exception is pending. Global references are: the
 * exception's class, for as long as the library is loaded; the log's listener, until the log is set anew; a borrowed buffer, until
 * the last model made of it is gone.
 */
#define SKIM_EXPERIMENTAL /* The sleep student's input format. */
#include <jni.h>
#include <pthread.h>
#include <skimstone.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static JavaVM *machine;
static pthread_key_t attached;
static jclass exception_class;
static jmethodID exception_of, log_method;

/* Threads ------------------------------------------------------------------------------------------------------------------- */

/* At the end of a thread that was attached here; a thread of Java never comes here. */
static void detach(void *unused) {
  (void)unused;
  (*machine)->DetachCurrentThread(machine);
}

/* The environment of this thread, which may be one of the library's own; null if the machine refuses it. */
static JNIEnv *environment(void) {
  void *env = NULL;
  if ((*machine)->GetEnv(machine, &env, JNI_VERSION_1_6) == JNI_OK) return env;
#ifdef __ANDROID__
  JNIEnv *new_env = NULL;
#else
  void *new_env = NULL;
#endif
  /* As a daemon: a thread of the library does not keep the program from ending. */
  if ((*machine)->AttachCurrentThreadAsDaemon(machine, &new_env, NULL) != JNI_OK) return NULL;
  pthread_setspecific(attached, machine);
  return (JNIEnv *)new_env;
}

/* Between Java and C -------------------------------------------------------------------------------------------------------- */

#define HANDLE(type, address) ((type *)(intptr_t)(address))
#define ADDRESS(handle) ((jlong)(intptr_t)(handle))

static void throw_out_of_memory(JNIEnv *env) {
  jclass class = (*env)->FindClass(env, "java/lang/OutOfMemoryError");
  if (class) (*env)->ThrowNew(env, class, "skimstone: out of memory");
}

/* Null with an exception pending if there is no memory. */
static jbyteArray bytes_of(JNIEnv *env, const char *text, size_t length) {
  if (length > INT32_MAX) {
    throw_out_of_memory(env);
    return NULL;
  }
  jbyteArray array = (*env)->NewByteArray(env, (jsize)length);
  if (array) (*env)->SetByteArrayRegion(env, array, 0, (jsize)length, (const jbyte *)text);
  return array;
}

static jbyteArray text_of(JNIEnv *env, const char *text) { return bytes_of(env, text, strlen(text)); }

/* A string that the library gave away. */
static jbyteArray give_string(JNIEnv *env, char *text) {
  jbyteArray array = text ? text_of(env, text) : NULL;
  skim_string_free(text);
  return array;
}

/* A copy that ends in a NUL, to free; null with an exception pending if there is no memory, and null for null. */
static char *copy_of(JNIEnv *env, jbyteArray array, size_t *length) {
  if (!array) return NULL;
  jsize size = (*env)->GetArrayLength(env, array);
  char *text = malloc((size_t)size + 1);
  if (!text) {
    throw_out_of_memory(env);
    return NULL;
  }
  (*env)->GetByteArrayRegion(env, array, 0, size, (jbyte *)text);
  text[size] = 0;
  if (length) *length = (size_t)size;
  return text;
}

/*
 * Whether the call failed; then the exception is pending and its error freed. The error's address is what is passed on: C does not
 * say whether the call, which is an argument here, or the error would be read first.
 */
static int failed(JNIEnv *env, int32_t status, skim_error **from) {
  if (status >= 0) return 0;
  skim_error *error = *from;
  jbyteArray kind = text_of(env, skim_error_kind(error));
  jbyteArray place = kind ? text_of(env, skim_error_place(error)) : NULL;
  jbyteArray message = place ? text_of(env, skim_error_message(error)) : NULL;
  jbyteArray hint = message ? text_of(env, skim_error_hint(error)) : NULL;
  skim_error_free(error);
  if (hint) {
    jobject exception =
        (*env)->CallStaticObjectMethod(env, exception_class, exception_of, (jint)status, kind, place, message, hint);
    if (!(*env)->ExceptionCheck(env)) (*env)->Throw(env, (jthrowable)exception);
  }
  return 1;
}

/* Options of keys and values in turn; null, and no exception, for null. */
static skim_options *options_of(JNIEnv *env, jobjectArray settings) {
  skim_options *options = NULL;
  skim_error *error = NULL;
  if (!settings || failed(env, skim_options_new(&options, &error), &error)) return NULL;
  jsize count = (*env)->GetArrayLength(env, settings);
  for (jsize i = 0; i + 1 < count && !(*env)->ExceptionCheck(env); i += 2) {
    jbyteArray key_bytes = (*env)->GetObjectArrayElement(env, settings, i);
    jbyteArray value_bytes = (*env)->GetObjectArrayElement(env, settings, i + 1);
    char *key = copy_of(env, key_bytes, NULL);
    char *value = key ? copy_of(env, value_bytes, NULL) : NULL;
    if (key && !(*env)->ExceptionCheck(env)) failed(env, skim_options_set(options, key, value, &error), &error);
    free(key);
    free(value);
    (*env)->DeleteLocalRef(env, key_bytes);
    (*env)->DeleteLocalRef(env, value_bytes);
  }
  return options;
}

#define NATIVE(result, name, ...) static result JNICALL name(JNIEnv *env, jclass class, ##__VA_ARGS__)
#define PENDING() ((void)class, (*env)->ExceptionCheck(env))

/* The library --------------------------------------------------------------------------------------------------------------- */

NATIVE(void, init) {
  skim_error *error = NULL;
  if (!PENDING()) failed(env, skim_init(SKIM_ABI_VERSION, &error), &error);
}

/* For the cases: whether a program built for `more` than this ABI would be served. */
NATIVE(void, initWith, jint more) {
  skim_error *error = NULL;
  if (!PENDING()) failed(env, skim_init(SKIM_ABI_VERSION + (uint32_t)more, &error), &error);
}

NATIVE(jbyteArray, version) { return PENDING() ? NULL : text_of(env, skim_version()); }

NATIVE(void, checkOptions, jobjectArray settings) {
  (void)class;
  skim_options_free(options_of(env, settings));
}

NATIVE(jbyteArray, bounds) {
  char *text = NULL;
  skim_error *error = NULL;
  if (PENDING() || failed(env, skim_options_get_bounds(NULL, &text, &error), &error)) return NULL;
  return give_string(env, text);
}

NATIVE(jlongArray, memoryAllocated) {
  uint64_t bytes[2] = {0, 0};
  skim_error *error = NULL;
  if (PENDING() || failed(env, skim_memory_allocated(&bytes[0], &bytes[1], &error), &error)) return NULL;
  jlong values[2] = {(jlong)bytes[0], (jlong)bytes[1]};
  jlongArray array = (*env)->NewLongArray(env, 2);
  if (array) (*env)->SetLongArrayRegion(env, array, 0, 2, values);
  return array;
}

NATIVE(jbyteArray, sleepPrompt, jbyteArray night_bytes, jbyteArray question_bytes) {
  size_t night_length = 0, question_length = 0;
  char *night = copy_of(env, night_bytes, &night_length);
  char *question = night ? copy_of(env, question_bytes, &question_length) : NULL;
  char *prompt = NULL;
  skim_error *error = NULL;
  if (!PENDING())
    failed(env, skim_x_sleep_prompt(night, night_length, question, question_length, &prompt, &error), &error);
  free(night);
  free(question);
  return give_string(env, prompt);
}

/* From any thread of the library, also within a call of Java's. What the listener throws has nowhere to go. */
static void log_line(int32_t level, const char *target, const char *message, void *listener) {
  JNIEnv *env = environment();
  if (!env || (*env)->ExceptionCheck(env)) return;
  jbyteArray target_bytes = text_of(env, target);
  jbyteArray message_bytes = target_bytes ? text_of(env, message) : NULL;
  if (message_bytes)
    (*env)->CallVoidMethod(env, (jobject)listener, log_method, (jint)level, target_bytes, message_bytes);
  if ((*env)->ExceptionCheck(env)) (*env)->ExceptionClear(env);
  /* A thread that never returns to Java frees its references itself. */
  (*env)->DeleteLocalRef(env, target_bytes);
  (*env)->DeleteLocalRef(env, message_bytes);
}

static void delete_global(void *object) {
  JNIEnv *env = environment();
  if (env) (*env)->DeleteGlobalRef(env, (jobject)object);
}

NATIVE(void, logSet, jint level, jobject listener) {
  skim_error *error = NULL;
  if (PENDING()) return;
  if (!listener) {
    failed(env, skim_log_set(level, NULL, NULL, NULL, &error), &error);
    return;
  }
  jobject global = (*env)->NewGlobalRef(env, listener);
  if (!global) throw_out_of_memory(env);
  else failed(env, skim_log_set(level, log_line, global, delete_global, &error), &error);
}

/* Bundles ------------------------------------------------------------------------------------------------------------------- */

NATIVE(jlong, bundleOpen, jbyteArray path_bytes, jobjectArray settings) {
  skim_options *options = options_of(env, settings);
  char *path = PENDING() ? NULL : copy_of(env, path_bytes, NULL);
  skim_bundle *bundle = NULL;
  skim_error *error = NULL;
  if (path) failed(env, skim_bundle_open(path, options, &bundle, &error), &error);
  free(path);
  skim_options_free(options);
  return ADDRESS(bundle);
}

NATIVE(jlong, bundleOpenFd, jint fd, jlong offset, jlong length, jobjectArray settings) {
  skim_options *options = options_of(env, settings);
  skim_bundle *bundle = NULL;
  skim_error *error = NULL;
  if (!PENDING())
    failed(env, skim_bundle_open_fd(fd, (uint64_t)offset, (uint64_t)length, options, &bundle, &error), &error);
  skim_options_free(options);
  return ADDRESS(bundle);
}

NATIVE(jlong, bundleCopy, jbyteArray data, jobjectArray settings) {
  skim_options *options = options_of(env, settings);
  jbyte *bytes = PENDING() ? NULL : (*env)->GetByteArrayElements(env, data, NULL);
  skim_bundle *bundle = NULL;
  skim_error *error = NULL;
  if (bytes) {
    size_t length = (size_t)(*env)->GetArrayLength(env, data);
    int32_t status = skim_bundle_open_memory(bytes, length, NULL, NULL, options, &bundle, &error);
    (*env)->ReleaseByteArrayElements(env, data, bytes, JNI_ABORT);
    failed(env, status, &error);
  }
  skim_options_free(options);
  return ADDRESS(bundle);
}

NATIVE(jlong, bundleBorrow, jobject buffer, jlong offset, jlong length, jobjectArray settings) {
  skim_options *options = options_of(env, settings);
  char *bytes = PENDING() ? NULL : (*env)->GetDirectBufferAddress(env, buffer);
  jobject owner = bytes ? (*env)->NewGlobalRef(env, buffer) : NULL;
  skim_bundle *bundle = NULL;
  skim_error *error = NULL;
  /* The reference is the library's from here on, also if it fails. */
  if (owner)
    failed(env, skim_bundle_open_memory(bytes + offset, (size_t)length, delete_global, owner, options, &bundle, &error),
           &error);
  else if (!(*env)->ExceptionCheck(env)) throw_out_of_memory(env);
  skim_options_free(options);
  return ADDRESS(bundle);
}

NATIVE(jbyteArray, bundleInspect, jlong bundle) {
  char *text = NULL;
  skim_error *error = NULL;
  if (PENDING() || failed(env, skim_bundle_inspect(HANDLE(skim_bundle, bundle), &text, &error), &error)) return NULL;
  return give_string(env, text);
}

NATIVE(jlongArray, bundleEstimate, jlong bundle, jobjectArray settings, jint sessions) {
  skim_options *options = options_of(env, settings);
  uint64_t bytes[2] = {0, 0};
  skim_error *error = NULL;
  if (!PENDING())
    failed(env,
           skim_bundle_estimate(HANDLE(skim_bundle, bundle), options, (uint32_t)sessions, &bytes[0], &bytes[1], &error),
           &error);
  skim_options_free(options);
  if ((*env)->ExceptionCheck(env)) return NULL;
  jlong values[2] = {(jlong)bytes[0], (jlong)bytes[1]};
  jlongArray array = (*env)->NewLongArray(env, 2);
  if (array) (*env)->SetLongArrayRegion(env, array, 0, 2, values);
  return array;
}

NATIVE(void, bundleFree, jlong bundle) {
  (void)env, (void)class;
  skim_bundle_free(HANDLE(skim_bundle, bundle));
}

/* Models -------------------------------------------------------------------------------------------------------------------- */

NATIVE(jlong, modelOpen, jbyteArray path_bytes, jobjectArray settings) {
  skim_options *options = options_of(env, settings);
  char *path = PENDING() ? NULL : copy_of(env, path_bytes, NULL);
  skim_model *model = NULL;
  skim_error *error = NULL;
  if (path) failed(env, skim_model_open(path, options, &model, &error), &error);
  free(path);
  skim_options_free(options);
  return ADDRESS(model);
}

NATIVE(jlong, modelNew, jlong bundle, jobjectArray settings) {
  skim_options *options = options_of(env, settings);
  skim_model *model = NULL;
  skim_error *error = NULL;
  if (!PENDING()) failed(env, skim_model_new(HANDLE(skim_bundle, bundle), options, &model, &error), &error);
  skim_options_free(options);
  return ADDRESS(model);
}

NATIVE(jbyteArray, modelInspect, jlong model) {
  char *text = NULL;
  skim_error *error = NULL;
  if (PENDING() || failed(env, skim_model_inspect(HANDLE(skim_model, model), &text, &error), &error)) return NULL;
  return give_string(env, text);
}

NATIVE(jlong, modelMemoryUsed, jlong model) {
  uint64_t bytes = 0;
  skim_error *error = NULL;
  if (!PENDING()) failed(env, skim_model_memory_used(HANDLE(skim_model, model), &bytes, &error), &error);
  return (jlong)bytes;
}

NATIVE(void, modelTrimMemory, jlong model) {
  skim_error *error = NULL;
  if (!PENDING()) failed(env, skim_model_trim_memory(HANDLE(skim_model, model), &error), &error);
}

NATIVE(void, modelSetThermal, jlong model, jint level) {
  skim_error *error = NULL;
  if (!PENDING()) failed(env, skim_model_set_thermal(HANDLE(skim_model, model), level, &error), &error);
}

NATIVE(jintArray, modelTokenize, jlong model, jbyteArray text_bytes, jboolean add_special) {
  size_t length = 0, count = 0;
  char *text = copy_of(env, text_bytes, &length);
  /* A token has at least one byte, but for the special ones around the text; for those the second round. */
  size_t capacity = length + 8;
  uint32_t *tokens = NULL;
  jintArray array = NULL;
  skim_error *error = NULL;
  for (int done = PENDING() || !text; !done; capacity = count) {
    free(tokens);
    tokens = malloc(capacity * sizeof *tokens);
    if (!tokens) throw_out_of_memory(env);
    done = !tokens || failed(env, skim_model_tokenize(HANDLE(skim_model, model), text, length, add_special, tokens, capacity, &count, &error), &error) || count <= capacity;
  }
  if (tokens && !(*env)->ExceptionCheck(env)) {
    array = (*env)->NewIntArray(env, (jsize)count);
    if (array) (*env)->SetIntArrayRegion(env, array, 0, (jsize)count, (const jint *)tokens);
  }
  free(tokens);
  free(text);
  return array;
}

NATIVE(void, modelFree, jlong model) {
  (void)env, (void)class;
  skim_model_free(HANDLE(skim_model, model));
}

/* Sessions ------------------------------------------------------------------------------------------------------------------ */

NATIVE(jlong, sessionNew, jlong model, jobjectArray settings) {
  skim_options *options = options_of(env, settings);
  skim_session *session = NULL;
  skim_error *error = NULL;
  if (!PENDING()) failed(env, skim_session_new(HANDLE(skim_model, model), options, &session, &error), &error);
  skim_options_free(options);
  return ADDRESS(session);
}

NATIVE(jlong, sessionFork, jlong session) {
  skim_session *fork = NULL;
  skim_error *error = NULL;
  if (!PENDING()) failed(env, skim_session_fork(HANDLE(skim_session, session), &fork, &error), &error);
  return ADDRESS(fork);
}

NATIVE(void, sessionSet, jlong session, jbyteArray key_bytes, jbyteArray value_bytes) {
  char *key = copy_of(env, key_bytes, NULL);
  char *value = key ? copy_of(env, value_bytes, NULL) : NULL;
  skim_error *error = NULL;
  if (!PENDING()) failed(env, skim_session_set_param(HANDLE(skim_session, session), key, value, &error), &error);
  free(key);
  free(value);
}

NATIVE(jbyteArray, sessionGet, jlong session, jbyteArray key_bytes) {
  char *key = copy_of(env, key_bytes, NULL);
  char *text = NULL;
  skim_error *error = NULL;
  if (!PENDING()) failed(env, skim_session_get_param(HANDLE(skim_session, session), key, &text, &error), &error);
  free(key);
  return give_string(env, text);
}

NATIVE(jbyteArray, sessionBounds, jlong session) {
  char *text = NULL;
  skim_error *error = NULL;
  if (PENDING() || failed(env, skim_session_get_bounds(HANDLE(skim_session, session), NULL, &text, &error), &error))
    return NULL;
  return give_string(env, text);
}

NATIVE(void, sessionAppendText, jlong session, jbyteArray text_bytes) {
  size_t length = 0;
  char *text = copy_of(env, text_bytes, &length);
  skim_error *error = NULL;
  if (!PENDING()) failed(env, skim_session_append_text(HANDLE(skim_session, session), text, length, &error), &error);
  free(text);
}

NATIVE(void, sessionAppendTokens, jlong session, jintArray array) {
  jint *tokens = PENDING() ? NULL : (*env)->GetIntArrayElements(env, array, NULL);
  skim_error *error = NULL;
  if (!tokens) return;
  size_t count = (size_t)(*env)->GetArrayLength(env, array);
  int32_t status =
      skim_session_append_tokens(HANDLE(skim_session, session), (const uint32_t *)tokens, count, &error);
  (*env)->ReleaseIntArrayElements(env, array, tokens, JNI_ABORT);
  failed(env, status, &error);
}

NATIVE(void, sessionAppendMessage, jlong session, jbyteArray role_bytes, jbyteArray content_bytes) {
  size_t length = 0;
  char *role = copy_of(env, role_bytes, NULL);
  char *content = role ? copy_of(env, content_bytes, &length) : NULL;
  skim_error *error = NULL;
  if (!PENDING())
    failed(env, skim_session_append_message(HANDLE(skim_session, session), role, content, length, &error), &error);
  free(role);
  free(content);
}

NATIVE(void, sessionClear, jlong session) {
  skim_error *error = NULL;
  if (!PENDING()) failed(env, skim_session_clear(HANDLE(skim_session, session), &error), &error);
}

NATIVE(void, sessionBegin, jlong session) {
  skim_error *error = NULL;
  if (!PENDING()) failed(env, skim_session_begin(HANDLE(skim_session, session), &error), &error);
}

/* The type of the event, whose text and JSON come into `out`; otherwise the negative of SKIM_STATUS_TIMEOUT or SKIM_STATUS_END. */
NATIVE(jint, sessionNext, jlong session, jint timeout_ms, jobjectArray out) {
  skim_event *event = NULL;
  skim_error *error = NULL;
  if (PENDING()) return 0;
  int32_t status = skim_session_next_event(HANDLE(skim_session, session), timeout_ms, &event, &error);
  if (failed(env, status, &error)) return 0;
  if (status != SKIM_STATUS_OK) return -status;
  size_t length = 0;
  const char *text = skim_event_text(event, &length), *json = NULL;
  jint type = skim_event_type(event);
  if (!failed(env, skim_event_json(event, &json, &error), &error)) {
    jbyteArray text_bytes = bytes_of(env, text, length);
    jbyteArray json_bytes = text_bytes ? text_of(env, json) : NULL;
    if (json_bytes) {
      (*env)->SetObjectArrayElement(env, out, 0, text_bytes);
      (*env)->SetObjectArrayElement(env, out, 1, json_bytes);
    }
  }
  skim_event_free(event);
  return type;
}

NATIVE(jlong, sessionCancelHandle, jlong session) {
  skim_cancel *cancel = NULL;
  skim_error *error = NULL;
  if (!PENDING()) failed(env, skim_session_cancel_handle(HANDLE(skim_session, session), &cancel, &error), &error);
  return ADDRESS(cancel);
}

NATIVE(void, sessionSave, jlong session, jbyteArray path_bytes) {
  char *path = copy_of(env, path_bytes, NULL);
  skim_error *error = NULL;
  if (!PENDING()) failed(env, skim_session_save(HANDLE(skim_session, session), path, &error), &error);
  free(path);
}

NATIVE(void, sessionRestore, jlong session, jbyteArray path_bytes) {
  char *path = copy_of(env, path_bytes, NULL);
  skim_error *error = NULL;
  if (!PENDING()) failed(env, skim_session_restore(HANDLE(skim_session, session), path, &error), &error);
  free(path);
}

NATIVE(void, sessionResume, jlong session, jbyteArray path_bytes) {
  char *path = copy_of(env, path_bytes, NULL);
  skim_error *error = NULL;
  if (!PENDING()) failed(env, skim_session_resume(HANDLE(skim_session, session), path, &error), &error);
  free(path);
}

NATIVE(void, sessionMemoryWarning, jlong session) {
  skim_error *error = NULL;
  if (!PENDING()) failed(env, skim_session_memory_warning(HANDLE(skim_session, session), &error), &error);
}

NATIVE(void, sessionEnterBackground, jlong session, jbyteArray path_bytes, jint grace_ms) {
  char *path = copy_of(env, path_bytes, NULL);
  skim_error *error = NULL;
  if (!PENDING())
    failed(env, skim_session_enter_background(HANDLE(skim_session, session), path, (uint32_t)grace_ms, &error), &error);
  free(path);
}

NATIVE(void, sessionEnterForeground, jlong session) {
  skim_error *error = NULL;
  if (!PENDING()) failed(env, skim_session_enter_foreground(HANDLE(skim_session, session), &error), &error);
}

NATIVE(jbyteArray, sessionInspect, jlong session) {
  char *text = NULL;
  skim_error *error = NULL;
  if (PENDING() || failed(env, skim_session_inspect(HANDLE(skim_session, session), &text, &error), &error)) return NULL;
  return give_string(env, text);
}

NATIVE(void, sessionFree, jlong session) {
  (void)env, (void)class;
  skim_session_free(HANDLE(skim_session, session));
}

NATIVE(void, cancelTrigger, jlong cancel) {
  (void)env, (void)class;
  skim_cancel_trigger(HANDLE(skim_cancel, cancel));
}

NATIVE(void, cancelFree, jlong cancel) {
  (void)env, (void)class;
  skim_cancel_free(HANDLE(skim_cancel, cancel));
}

/* Loading ------------------------------------------------------------------------------------------------------------------- */

#define TEXT "[B"
#define SETTINGS "[[B"
#define ENTRY(name, signature) {#name, signature, (void *)name}

static const JNINativeMethod natives[] = {
    ENTRY(init, "()V"),
    ENTRY(initWith, "(I)V"),
    ENTRY(version, "()" TEXT),
    ENTRY(checkOptions, "(" SETTINGS ")V"),
    ENTRY(bounds, "()" TEXT),
    ENTRY(memoryAllocated, "()[J"),
    ENTRY(sleepPrompt, "(" TEXT TEXT ")" TEXT),
    ENTRY(logSet, "(ILio/github/skimstone/Native$Log;)V"),
    ENTRY(bundleOpen, "(" TEXT SETTINGS ")J"),
    ENTRY(bundleOpenFd, "(IJJ" SETTINGS ")J"),
    ENTRY(bundleCopy, "([B" SETTINGS ")J"),
    ENTRY(bundleBorrow, "(Ljava/nio/ByteBuffer;JJ" SETTINGS ")J"),
    ENTRY(bundleInspect, "(J)" TEXT),
    ENTRY(bundleEstimate, "(J" SETTINGS "I)[J"),
    ENTRY(bundleFree, "(J)V"),
    ENTRY(modelOpen, "(" TEXT SETTINGS ")J"),
    ENTRY(modelNew, "(J" SETTINGS ")J"),
    ENTRY(modelInspect, "(J)" TEXT),
    ENTRY(modelMemoryUsed, "(J)J"),
    ENTRY(modelTrimMemory, "(J)V"),
    ENTRY(modelSetThermal, "(JI)V"),
    ENTRY(modelTokenize, "(J" TEXT "Z)[I"),
    ENTRY(modelFree, "(J)V"),
    ENTRY(sessionNew, "(J" SETTINGS ")J"),
    ENTRY(sessionFork, "(J)J"),
    ENTRY(sessionSet, "(J" TEXT TEXT ")V"),
    ENTRY(sessionGet, "(J" TEXT ")" TEXT),
    ENTRY(sessionBounds, "(J)" TEXT),
    ENTRY(sessionAppendText, "(J" TEXT ")V"),
    ENTRY(sessionAppendTokens, "(J[I)V"),
    ENTRY(sessionAppendMessage, "(J" TEXT TEXT ")V"),
    ENTRY(sessionClear, "(J)V"),
    ENTRY(sessionBegin, "(J)V"),
    ENTRY(sessionNext, "(JI[[B)I"),
    ENTRY(sessionCancelHandle, "(J)J"),
    ENTRY(sessionSave, "(J" TEXT ")V"),
    ENTRY(sessionRestore, "(J" TEXT ")V"),
    ENTRY(sessionResume, "(J" TEXT ")V"),
    ENTRY(sessionMemoryWarning, "(J)V"),
    ENTRY(sessionEnterBackground, "(J" TEXT "I)V"),
    ENTRY(sessionEnterForeground, "(J)V"),
    ENTRY(sessionInspect, "(J)" TEXT),
    ENTRY(sessionFree, "(J)V"),
    ENTRY(cancelTrigger, "(J)V"),
    ENTRY(cancelFree, "(J)V"),
};

/* A class by name, for good. */
static jclass global_class(JNIEnv *env, const char *name) {
  jclass local = (*env)->FindClass(env, name);
  jclass global = local ? (*env)->NewGlobalRef(env, local) : NULL;
  if (local) (*env)->DeleteLocalRef(env, local);
  return global;
}

/* The exception that is pending after a failure here becomes that of System.loadLibrary. */
JNIEXPORT jint JNICALL JNI_OnLoad(JavaVM *vm, void *reserved) {
  (void)reserved;
  void *found = NULL;
  machine = vm;
  if ((*vm)->GetEnv(vm, &found, JNI_VERSION_1_6) != JNI_OK || pthread_key_create(&attached, detach) != 0) return JNI_ERR;
  JNIEnv *env = found;
  jclass native_class = (*env)->FindClass(env, "io/github/skimstone/Native");
  jclass log_class = native_class ? (*env)->FindClass(env, "io/github/skimstone/Native$Log") : NULL;
  exception_class = log_class ? global_class(env, "io/github/skimstone/SkimstoneException") : NULL;
  if (!exception_class) return JNI_ERR;
  exception_of = (*env)->GetStaticMethodID(env, exception_class, "of", "(I[B[B[B[B)Lio/github/skimstone/SkimstoneException;");
  log_method = exception_of ? (*env)->GetMethodID(env, log_class, "line", "(I[B[B)V") : NULL;
  if (!log_method) return JNI_ERR;
  if ((*env)->RegisterNatives(env, native_class, natives, sizeof natives / sizeof natives[0]) != JNI_OK) return JNI_ERR;
  return JNI_VERSION_1_6;
}

JNIEXPORT void JNICALL JNI_OnUnload(JavaVM *vm, void *reserved) {
  (void)reserved;
  void *env = NULL;
  skim_log_set(SKIM_LOG_OFF, NULL, NULL, NULL, NULL);
  if ((*vm)->GetEnv(vm, &env, JNI_VERSION_1_6) == JNI_OK)
    (*(JNIEnv *)env)->DeleteGlobalRef((JNIEnv *)env, exception_class);
  pthread_key_delete(attached);
}
