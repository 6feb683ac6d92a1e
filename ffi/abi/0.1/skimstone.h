/*
 * skimstone: reasoning on the device.
 *
 *   skim_bundle ──▶ skim_model ──▶ skim_session ──▶ skim_event …
 *   file, checked    immutable      conversation     thinking, answer, cost
 *
 * A program that asks one question:
 *
 *   #include <stdio.h>
 *   #include <string.h>
 *   #include "skimstone.h"
 *
 *   static int32_t show(const skim_event *event, void *user_data) {
 *     (void)user_data;
 *     if (skim_event_type(event) == SKIM_EVENT_ANSWER_TEXT) fputs(skim_event_text(event, NULL), stdout);
 *     return 0;
 *   }
 *
 *   int main(int argc, char **argv) {
 *     skim_model *model = NULL;
 *     skim_session *session = NULL;
 *     skim_error *error = NULL;
 *     if (argc == 3 && skim_init(SKIM_ABI_VERSION, &error) == SKIM_STATUS_OK &&
 *         skim_model_open(argv[1], NULL, &model, &error) == SKIM_STATUS_OK &&
 *         skim_session_new(model, NULL, &session, &error) == SKIM_STATUS_OK &&
 *         skim_session_append_text(session, argv[2], strlen(argv[2]), &error) == SKIM_STATUS_OK)
 *       skim_session_generate(session, show, NULL, NULL, NULL, &error);
 *     if (error) fprintf(stderr, "%s\n", skim_error_message(error));
 *     int failed = error != NULL;
 *     skim_error_free(error);
 *     skim_session_free(session);
 *     skim_model_free(model);
 *     return failed;
 *   }
 *
 * Conventions, of every function:
 *
 * - It returns a status: 0 is success, negative an error, positive a success with something to know. Functions that only look
 *   something up return it directly.
 * - Handles are opaque. `skim_x_new` or `_open` gives one, `skim_x_free` takes it; freeing null does nothing. Handles may be freed
 *   in any order: each keeps what it needs.
 * - The handle comes first, then what goes in, then what comes out, and `error` last. Out-parameters are written only on success.
 *   `error` may be null; if it is not, it is written only on failure, whatever stood there before, and the caller frees it.
 * - A null pointer where none is allowed, a handle of another type, and values out of range give SKIM_STATUS_INVALID_ARGUMENT. What
 *   cannot be checked is the caller's promise: that a pointer which is not null points to what its type says, with the length
 *   that goes with it, and that a handle was not freed and is not being freed by another thread.
 * - Texts are UTF-8: names, keys and paths end in a NUL, others have a length. Texts from the library end in a NUL, too; a NUL
 *   within becomes U+FFFD.
 * - "Threads: any" may be called at any time. "Threads: one at a time" is checked: a second call on the same handle meanwhile
 *   returns SKIM_STATUS_BUSY and does nothing. Different sessions, also of one model, are independent.
 * - Nothing ends the process, prints, or connects to anything. A bug in the library ends in SKIM_STATUS_PANIC and poisons the
 *   handle: further calls return SKIM_STATUS_POISONED, and only freeing it is left.
 * - There is nothing to set up or to tear down. A process that forks must not use in the child what it made before.
 * - skim_x_… functions are experimental, declared only if SKIM_EXPERIMENTAL is defined, and may change in any version. Statuses,
 *   events, fields of JSON and settings may be added in any version; see ABI.md for what may not.
 */

#ifndef SKIMSTONE_H
#define SKIMSTONE_H

/* Generated from ffi/src by `SKIMSTONE_UPDATE=1 cargo test -p skimstone-ffi --test header`. Do not edit. */

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(SKIM_SHARED)
#define SKIM_API __declspec(dllimport)
#else
#define SKIM_API
#endif


/**
 * Major number of the ABI: programs built for another one do not work with this library. Also in the library's name.
 */
#define SKIM_ABI_MAJOR 0

/**
 * Minor number of the ABI: grows with every addition. A library serves programs built for the same or a lower one.
 */
#define SKIM_ABI_MINOR 1

/**
 * The ABI that a program is built for; give it to skim_init.
 */
#define SKIM_ABI_VERSION 1

/**
 * Success.
 */
#define SKIM_STATUS_OK 0

/**
 * The time was over before anything happened; call again to go on.
 */
#define SKIM_STATUS_TIMEOUT 1

/**
 * There is no further event.
 */
#define SKIM_STATUS_END 2

/**
 * An argument is null, outside its range, not UTF-8, or not a handle of this type.
 */
#define SKIM_STATUS_INVALID_ARGUMENT -1

/**
 * A bug in the library. The handle that the call was made on is poisoned.
 */
#define SKIM_STATUS_PANIC -2

/**
 * An earlier call on this handle ended in SKIM_STATUS_PANIC; it can only be freed.
 */
#define SKIM_STATUS_POISONED -3

/**
 * The handle is in use by another thread, or by the function whose callback this call was made from.
 */
#define SKIM_STATUS_BUSY -4

/**
 * Not possible in the present state of the handle.
 */
#define SKIM_STATUS_STATE -5

/**
 * The library serves another ABI.
 */
#define SKIM_STATUS_ABI -6

/**
 * Cancelled where no answer can tell so.
 */
#define SKIM_STATUS_CANCELLED -7

/**
 * An error of a kind that this ABI has no number for.
 */
#define SKIM_STATUS_OTHER -8

/**
 * The system refused to read or write.
 */
#define SKIM_STATUS_IO -20

/**
 * The file or data break the rules of their format; skim_error_kind says which.
 */
#define SKIM_STATUS_FORMAT -21

/**
 * The bytes are not those that were written.
 */
#define SKIM_STATUS_CHECKSUM -22

/**
 * A format version that this library does not know.
 */
#define SKIM_STATUS_VERSION -23

/**
 * A model family or option that this library does not implement.
 */
#define SKIM_STATUS_UNSUPPORTED -24

/**
 * The model's configuration is malformed.
 */
#define SKIM_STATUS_CONFIG -25

/**
 * The tokenizer is missing or malformed.
 */
#define SKIM_STATUS_TOKENIZER -26

/**
 * The chat template is missing, malformed, or refused the messages.
 */
#define SKIM_STATUS_TEMPLATE -27

/**
 * The reasoning specification is malformed.
 */
#define SKIM_STATUS_REASONING -28

/**
 * The model does not know the route; the message lists those it knows.
 */
#define SKIM_STATUS_UNKNOWN_ROUTE -29

/**
 * A token outside the vocabulary.
 */
#define SKIM_STATUS_TOKEN -30

/**
 * The prompt, or what must follow it, exceeds the context.
 */
#define SKIM_STATUS_CONTEXT_FULL -31

/**
 * More memory would be needed than is allowed or there.
 */
#define SKIM_STATUS_MEMORY -32

/**
 * The device or its kernels refused.
 */
#define SKIM_STATUS_BACKEND -33

/**
 * A record or field of a data file is malformed.
 */
#define SKIM_STATUS_DATA -34

/**
 * An event that this header has no number for; skim_event_name tells which.
 */
#define SKIM_EVENT_OTHER 0

/**
 * A route was chosen; the prompt is read next. Fields: `route`, `prompt_tokens`.
 */
#define SKIM_EVENT_STARTED 1

/**
 * A chunk of thinking begins. Field: `index`.
 */
#define SKIM_EVENT_CHUNK_STARTED 2

/**
 * Text of the thinking. Fields: `text`, `ids`.
 */
#define SKIM_EVENT_THINKING_TEXT 3

/**
 * A chunk of thinking ended. Fields: `index`, `tokens`.
 */
#define SKIM_EVENT_CHUNK_FINISHED 4

/**
 * A latent step was taken. Field: `index`.
 */
#define SKIM_EVENT_LATENT_STEP 5

/**
 * Something was decided. Fields: `choice`, `generated_tokens`, `milliseconds`.
 */
#define SKIM_EVENT_DECISION 6

/**
 * Text of the answer. Fields: `text`, `ids`, `logprobs`: natural logarithms, one for each token.
 */
#define SKIM_EVENT_ANSWER_TEXT 7

/**
 * The end. Its text is the whole answer; fields: `text`, `thinking`, `route`, `confidence`, `usage`, `finish_reason`, `decisions`.
 */
#define SKIM_EVENT_FINISHED 8

/**
 * Nothing is told.
 */
#define SKIM_LOG_OFF 0

/**
 * Bugs of the library.
 */
#define SKIM_LOG_ERROR 1

/**
 * What may be a mistake.
 */
#define SKIM_LOG_WARN 2

/**
 * Once per model and session.
 */
#define SKIM_LOG_INFO 3

/**
 * Once per question. No text of the user.
 */
#define SKIM_LOG_DEBUG 4

/**
 * Everything.
 */
#define SKIM_LOG_TRACE 5

/**
 * An open bundle: one file with weights, configuration and tokenizer. Immutable.
 */
typedef struct skim_bundle skim_bundle;

/**
 * Stops the work of one session. Outlives it without harm.
 */
typedef struct skim_cancel skim_cancel;

/**
 * Why a call failed. May go from thread to thread.
 */
typedef struct skim_error skim_error;

/**
 * Something that happened while a question was answered. Immutable.
 */
typedef struct skim_event skim_event;

/**
 * A model: immutable, used by any number of sessions and threads at once.
 */
typedef struct skim_model skim_model;

/**
 * Settings by name. A call that takes options uses the settings that concern it; none is required.
 */
typedef struct skim_options skim_options;

/**
 * One conversation: what was appended, and the keys and values that the model computed for it.
 */
typedef struct skim_session skim_session;

/**
 * Called once, when the library no longer needs `user_data`. It must not throw, and not call back into the handle it was given to.
 */
typedef void (*skim_destroy)(void *user_data);

/**
 * Called with each event. The event is only valid during the call. A return value that is not 0 cancels.
 *
 * Runs on the thread that called the function it was given to. It must not throw or jump out of the call. It may call every
 * function but those of the session that the event comes from, which return SKIM_STATUS_BUSY; skim_cancel_trigger is always
 * allowed.
 */
typedef int32_t (*skim_event_callback)(const skim_event *event, void *user_data);

/**
 * Called with each line of the log; `level` is one of SKIM_LOG_…, both texts are NUL-terminated UTF-8 and only valid during the
 * call. It may be called from any thread, from several at once, and must not throw or jump out of the call.
 */
typedef void (*skim_log_callback)(int32_t level, const char *target, const char *message, void *user_data);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Checks that this library serves programs built for `abi_version`, which is always SKIM_ABI_VERSION. Nothing is set up: no
 * other function needs this call, and it may be made any number of times.
 *
 * Returns SKIM_STATUS_ABI if the library is too old or too new; use nothing else of it then.
 *
 * Owner: `*error` is the caller's.
 * Threads: any.
 */
SKIM_API int32_t skim_init(uint32_t abi_version, skim_error **error);

/**
 * The ABI of the library that is loaded: major number × 65536 + minor number.
 *
 * Owner: nothing changes hands.
 * Threads: any.
 */
SKIM_API uint32_t skim_abi_version(void);

/**
 * The version of the library that is loaded, such as "0.1.0".
 *
 * Owner: the library's, for ever.
 * Threads: any.
 */
SKIM_API const char *skim_version(void);

/**
 * The status that the failed call returned; SKIM_STATUS_OK for null.
 *
 * Owner: `error` stays the caller's.
 * Threads: any.
 */
SKIM_API int32_t skim_error_status(const skim_error *error);

/**
 * What went wrong, for people: place, message, hint. Empty for null.
 *
 * Owner: the text is the error's, valid until it is freed.
 * Threads: any.
 */
SKIM_API const char *skim_error_message(const skim_error *error);

/**
 * The exact kind, such as "truncated" or "unknown_route". Kinds may be added. Empty for null.
 *
 * Owner: the text is the error's, valid until it is freed.
 * Threads: any.
 */
SKIM_API const char *skim_error_kind(const skim_error *error);

/**
 * Where it went wrong: a file, a tensor, a field. Empty if there is no place.
 *
 * Owner: the text is the error's, valid until it is freed.
 * Threads: any.
 */
SKIM_API const char *skim_error_place(const skim_error *error);

/**
 * What can be done. Empty if there is no hint.
 *
 * Owner: the text is the error's, valid until it is freed.
 * Threads: any.
 */
SKIM_API const char *skim_error_hint(const skim_error *error);

/**
 * Frees an error. Null does nothing.
 *
 * Owner: takes `error`.
 * Threads: any; no other thread may use `error`.
 */
SKIM_API int32_t skim_error_free(skim_error *error);

/**
 * Makes options in which nothing is set.
 *
 * Owner: `*options` is the caller's, to free with skim_options_free; `*error` is the caller's.
 * Threads: any.
 */
SKIM_API int32_t skim_options_new(skim_options **options, skim_error **error);

/**
 * Sets `key` to `value`, both NUL-terminated UTF-8: numbers in decimal, `true` or `false`, words, or JSON where
 * skim_options_get_bounds says so. Null for `value` sets it back to its default. A model or session that was made before does
 * not change.
 *
 * Owner: `key` and `value` stay the caller's, they are copied; `*error` is the caller's.
 * Threads: any.
 */
SKIM_API int32_t skim_options_set(skim_options *options, const char *key, const char *value, skim_error **error);

/**
 * The value of `key` as JSON; `null` where nothing was set and there is no default value.
 *
 * Owner: `*value` is the caller's, to free with skim_string_free; `*error` is the caller's.
 * Threads: any.
 */
SKIM_API int32_t skim_options_get(const skim_options *options, const char *key, char **value, skim_error **error);

/**
 * What may be set, as JSON: `key`, `type`, `min`, `max`, `values`, `default`, `unit`, `about`, and `when` it takes effect. Null
 * for `key` lists every one.
 *
 * Owner: `*bounds_json` is the caller's, to free with skim_string_free; `*error` is the caller's.
 * Threads: any.
 */
SKIM_API int32_t skim_options_get_bounds(const char *key, char **bounds_json, skim_error **error);

/**
 * Frees options. Null does nothing. What was made from them is not concerned.
 *
 * Owner: takes `options`.
 * Threads: any; no other thread may use `options`.
 */
SKIM_API int32_t skim_options_free(skim_options *options);

/**
 * Opens the bundle at `path`: maps it, checks its header and structure, and unless `verify` is false its checksums, which reads
 * the whole file. The file must not be changed in place while it is open; replacing it by a rename is fine. `path` is
 * NUL-terminated: UTF-8, on Unix any bytes. Uses `verify`, `copy_weights` and `max_bytes` of `options`, which may be null.
 *
 * Owner: `*bundle` is the caller's, to free with skim_bundle_free; `*error` is the caller's.
 * Threads: any.
 */
SKIM_API int32_t skim_bundle_open(const char *path, const skim_options *options, skim_bundle **bundle, skim_error **error);

/**
 * Opens a bundle that is a part of an open file, such as an uncompressed asset of an APK: `length` bytes from `offset` on, which
 * is a multiple of 64. A `length` of 0 means up to the end of the file. The descriptor is duplicated; the caller may close its
 * own at once, and its read position does not change. Not on Windows. Otherwise as skim_bundle_open.
 *
 * Owner: `fd` stays the caller's; `*bundle` is the caller's, to free with skim_bundle_free; `*error` is the caller's.
 * Threads: any.
 */
SKIM_API int32_t skim_bundle_open_fd(int32_t fd, uint64_t offset, uint64_t length, const skim_options *options, skim_bundle **bundle, skim_error **error);

/**
 * Opens a bundle in memory. Without `destroy` the bytes are copied. With it they are used in place, and must begin at a multiple
 * of 64 and stay unchanged until `destroy(user_data)` is called: once, when the last model made from the bundle is gone, on
 * the thread that frees it; also, before this function returns, if it fails. Otherwise as skim_bundle_open.
 *
 * Owner: `data` stays the caller's without `destroy`, and is borrowed until that call with it; `*bundle` is the caller's, to
 * free with skim_bundle_free; `*error` is the caller's.
 * Threads: any.
 */
SKIM_API int32_t skim_bundle_open_memory(const void *data, size_t length, skim_destroy destroy, void *user_data, const skim_options *options, skim_bundle **bundle, skim_error **error);

/**
 * Describes the bundle as JSON: `file_bytes`, `weight_bytes`, `tensors`, `config`, `reasoning` with the routes and the default
 * one, `provenance`, `tokenizer` and `chat_template` as whether they are there.
 *
 * Owner: `*json` is the caller's, to free with skim_string_free; `*error` is the caller's.
 * Threads: any.
 */
SKIM_API int32_t skim_bundle_inspect(const skim_bundle *bundle, char **json, skim_error **error);

/**
 * The memory that a model of this bundle and `sessions` sessions of it will take, in bytes, before anything of it is taken:
 * `*file_backed` is mapped, and the system may drop and re-read it; `*anonymous` is what the app is charged for and `max_bytes`
 * limits. Uses `context`, `kv_format` and `copy_weights` of `options`, which may be null.
 *
 * Owner: nothing but `*error`, which is the caller's.
 * Threads: any.
 */
SKIM_API int32_t skim_bundle_estimate(const skim_bundle *bundle, const skim_options *options, uint32_t sessions, uint64_t *file_backed, uint64_t *anonymous, skim_error **error);

/**
 * Frees a bundle. Null does nothing. Models made from it keep what they need of it.
 *
 * Owner: takes `bundle`.
 * Threads: any; no other thread may use `bundle`.
 */
SKIM_API int32_t skim_bundle_free(skim_bundle *bundle);

/**
 * Opens the model at `path`: skim_bundle_open and skim_model_new in one, but that the cap is checked before the weights are read.
 *
 * Owner: `*model` is the caller's, to free with skim_model_free; `*error` is the caller's.
 * Threads: any.
 */
SKIM_API int32_t skim_model_open(const char *path, const skim_options *options, skim_model **model, skim_error **error);

/**
 * Makes a model from an open bundle. Starts the threads that compute; the first use of its tokenizer loads that. Uses `threads`,
 * `max_bytes`, `context` and `kv_format` of `options`, which may be null.
 *
 * Owner: `bundle` stays the caller's, who may free it at once; `*model` is the caller's, to free with skim_model_free; `*error`
 * is the caller's.
 * Threads: any.
 */
SKIM_API int32_t skim_model_new(const skim_bundle *bundle, const skim_options *options, skim_model **model, skim_error **error);

/**
 * Describes the model as JSON: what skim_bundle_inspect says, and `kernels`, `threads`, `context`, `memory_used`, `kv_blocks`.
 *
 * Owner: `*json` is the caller's, to free with skim_string_free; `*error` is the caller's.
 * Threads: any.
 */
SKIM_API int32_t skim_model_inspect(const skim_model *model, char **json, skim_error **error);

/**
 * Anonymous bytes that the model and its sessions have booked, which is what `max_bytes` limits.
 *
 * Owner: nothing but `*error`, which is the caller's.
 * Threads: any.
 */
SKIM_API int32_t skim_model_memory_used(const skim_model *model, uint64_t *bytes, skim_error **error);

/**
 * Gives the memory that freed sessions left for new ones back to the system: for a memory warning.
 *
 * Owner: nothing but `*error`, which is the caller's.
 * Threads: any.
 */
SKIM_API int32_t skim_model_trim_memory(const skim_model *model, skim_error **error);

/**
 * The tokens of `length` bytes of UTF-8: `*count` tells how many, and the first `capacity` of them are written to `tokens`, which
 * may be null if `capacity` is 0. Special tokens that are spelled out are recognized; if `add_special` is not 0, those that the
 * tokenizer puts around a text are added.
 *
 * Owner: nothing but `*error`, which is the caller's.
 * Threads: any.
 */
SKIM_API int32_t skim_model_tokenize(const skim_model *model, const char *text_utf8, size_t length, int32_t add_special, uint32_t *tokens, size_t capacity, size_t *count, skim_error **error);

/**
 * Frees a model. Null does nothing. Sessions of it go on and keep what they need.
 *
 * Owner: takes `model`.
 * Threads: any; no other thread may use `model`.
 */
SKIM_API int32_t skim_model_free(skim_model *model);

/**
 * Makes a session of `model`: reserves the keys and values of its whole context, so that answering allocates none. Uses
 * `context`, `reuse_prefix` and, as a start, everything that skim_session_set_param can change, of `options`, which may be null.
 *
 * Owner: `model` stays the caller's, who may free it at once; `*session` is the caller's, to free with skim_session_free;
 * `*error` is the caller's.
 * Threads: any.
 */
SKIM_API int32_t skim_session_new(const skim_model *model, const skim_options *options, skim_session **session, skim_error **error);

/**
 * Sets how the next question is answered; see skim_options_set for the values. Null sets `key` back to its default. A question
 * that is being answered does not change.
 *
 * Owner: `key` and `value` stay the caller's; `*error` is the caller's.
 * Threads: one at a time.
 */
SKIM_API int32_t skim_session_set_param(skim_session *session, const char *key, const char *value, skim_error **error);

/**
 * The value of `key` as JSON; `null` where nothing was set and there is no default value.
 *
 * Owner: `*value` is the caller's, to free with skim_string_free; `*error` is the caller's.
 * Threads: one at a time.
 */
SKIM_API int32_t skim_session_get_param(const skim_session *session, const char *key, char **value, skim_error **error);

/**
 * What skim_session_set_param can set, as skim_options_get_bounds; of a route also the names that the model knows.
 *
 * Owner: `*bounds_json` is the caller's, to free with skim_string_free; `*error` is the caller's.
 * Threads: one at a time.
 */
SKIM_API int32_t skim_session_get_bounds(const skim_session *session, const char *key, char **bounds_json, skim_error **error);

/**
 * Appends `length` bytes of UTF-8 to the prompt. What was appended stays until skim_session_clear: for a second turn append the
 * first answer and what follows. A session of `reuse_prefix` then reads only what is new.
 *
 * Owner: `text_utf8` stays the caller's, it is copied; `*error` is the caller's.
 * Threads: one at a time.
 */
SKIM_API int32_t skim_session_append_text(skim_session *session, const char *text_utf8, size_t length, skim_error **error);

/**
 * Appends tokens to the prompt, as they are.
 *
 * Owner: `tokens` stays the caller's, it is copied; `*error` is the caller's.
 * Threads: one at a time.
 */
SKIM_API int32_t skim_session_append_tokens(skim_session *session, const uint32_t *tokens, size_t count, skim_error **error);

/**
 * Appends a message of `role` ("system", "user", "assistant", "tool") to the conversation, which the model's chat template turns
 * into a prompt. The assistant's own answers are appended by the caller, too. Not together with text or tokens.
 *
 * Owner: `role` and `content` stay the caller's, they are copied; `*error` is the caller's.
 * Threads: one at a time.
 */
SKIM_API int32_t skim_session_append_message(skim_session *session, const char *role, const char *content, size_t length, skim_error **error);

/**
 * Forgets everything that was appended. Keys and values stay for what the next prompt may share.
 *
 * Owner: nothing but `*error`, which is the caller's.
 * Threads: one at a time.
 */
SKIM_API int32_t skim_session_clear(skim_session *session, skim_error **error);

/**
 * Begins to answer what was appended. Computes nothing yet; pull with skim_session_next_event. A question that was not answered
 * to its end is dropped, and a cancel that was asked for before is taken back.
 *
 * Owner: nothing but `*error`, which is the caller's.
 * Threads: one at a time.
 */
SKIM_API int32_t skim_session_begin(skim_session *session, skim_error **error);

/**
 * Works, on the calling thread and those of the model, until something happens, and tells it. Nothing is computed between calls:
 * to stop pulling is to pause. With a `timeout_ms` of 0 or more it also returns SKIM_STATUS_TIMEOUT, without an event, at the
 * first step after that time; a step is a token, a latent step or a chunk of the prompt, and at least one is taken. Negative: no
 * timeout. SKIM_STATUS_END after the finished event, and if there is no question. An error ends the question.
 *
 * Owner: `*event` is the caller's, to free with skim_event_free, written only with SKIM_STATUS_OK; `*error` is the caller's.
 * Threads: one at a time.
 */
SKIM_API int32_t skim_session_next_event(skim_session *session, int32_t timeout_ms, skim_event **event, skim_error **error);

/**
 * skim_session_begin, and all events to the end: each is handed to `callback`, which may be null. If the callback returns other
 * than 0 the question is cancelled, and of the events only the finished one follows. `finished`, which may be null, receives
 * that last event; with a cancel, too, this function returns SKIM_STATUS_OK.
 *
 * Owner: takes `user_data`; `destroy(user_data)` is called, if it is not null, before this function returns, also if it fails.
 * `*finished` is the caller's, to free with skim_event_free; `*error` is the caller's.
 * Threads: one at a time; the callback runs on the calling thread.
 */
SKIM_API int32_t skim_session_generate(skim_session *session, skim_event_callback callback, void *user_data, skim_destroy destroy, skim_event **finished, skim_error **error);

/**
 * A handle that stops this session's work from anywhere.
 *
 * Owner: `*cancel` is the caller's, to free with skim_cancel_free; `*error` is the caller's.
 * Threads: one at a time.
 */
SKIM_API int32_t skim_session_cancel_handle(const skim_session *session, skim_cancel **cancel, skim_error **error);

/**
 * A second session in the same state: what was appended, the parameters, and the keys and values, which both share. A question
 * that is being answered stays with the first. The fork has a cancel handle of its own.
 *
 * Owner: `*fork` is the caller's, to free with skim_session_free, in any order; `*error` is the caller's.
 * Threads: one at a time; afterwards each session on its own.
 */
SKIM_API int32_t skim_session_fork(const skim_session *session, skim_session **fork, skim_error **error);

/**
 * Describes the session as JSON: `context`, `position`, `kv_bytes`, `tokens`, `latent_steps`, `layer_passes`, `head_passes`, all
 * since it was made.
 *
 * Owner: `*json` is the caller's, to free with skim_string_free; `*error` is the caller's.
 * Threads: one at a time.
 */
SKIM_API int32_t skim_session_inspect(const skim_session *session, char **json, skim_error **error);

/**
 * Frees a session. Null does nothing. SKIM_STATUS_BUSY, and nothing is freed, while another call on it runs, such as the one whose
 * callback this is called from.
 *
 * Owner: takes `session`, unless it is busy.
 * Threads: any; no other thread may use `session`.
 */
SKIM_API int32_t skim_session_free(skim_session *session);

/**
 * Which event it is: one of SKIM_EVENT_…, 0 for others and for null.
 *
 * Owner: `event` stays as it is.
 * Threads: any, several at once.
 */
SKIM_API int32_t skim_event_type(const skim_event *event);

/**
 * The name of a known event such as "answer_text", otherwise "other"; the field `event` always has the name. Empty for null.
 *
 * Owner: the library's, for ever.
 * Threads: any, several at once.
 */
SKIM_API const char *skim_event_name(const skim_event *event);

/**
 * The event's text: whole characters of UTF-8, NUL-terminated. Empty where there is none, and for null. `length`, which may be
 * null, receives its bytes.
 *
 * Owner: the text is the event's, valid as long as that.
 * Threads: any, several at once.
 */
SKIM_API const char *skim_event_text(const skim_event *event, size_t *length);

/**
 * The whole event as JSON: `event` is its name, the rest are its fields. Fields may be added.
 *
 * Owner: `*json` is the event's, valid as long as that; `*error` is the caller's.
 * Threads: any, several at once.
 */
SKIM_API int32_t skim_event_json(const skim_event *event, const char **json, skim_error **error);

/**
 * A number among the event's fields, such as "usage.generated_tokens" of a finished one; true and false are 1 and 0.
 *
 * Owner: nothing but `*error`, which is the caller's.
 * Threads: any, several at once.
 */
SKIM_API int32_t skim_event_number(const skim_event *event, const char *path, double *number, skim_error **error);

/**
 * A text among the event's fields, such as "route"; of other fields their JSON.
 *
 * Owner: `*text` is the caller's, to free with skim_string_free; `*error` is the caller's.
 * Threads: any, several at once.
 */
SKIM_API int32_t skim_event_string(const skim_event *event, const char *path, char **text, skim_error **error);

/**
 * Frees an event that skim_session_next_event or skim_session_generate gave. Null does nothing. Not for events that a callback
 * receives.
 *
 * Owner: takes `event`.
 * Threads: any; no other thread may use `event`.
 */
SKIM_API int32_t skim_event_free(skim_event *event);

/**
 * Asks the session to stop. The question that is being answered finishes with what it has and the finish reason "cancelled",
 * within one layer of one chunk of the prompt or one step. Without a question it does nothing: the next skim_session_begin takes
 * the request back.
 *
 * Owner: `cancel` stays the caller's.
 * Threads: any, at any time, also in a signal handler: one atomic store, without lock or allocation.
 */
SKIM_API int32_t skim_cancel_trigger(const skim_cancel *cancel);

/**
 * Frees a cancel handle. Null does nothing. The session is not concerned.
 *
 * Owner: takes `cancel`.
 * Threads: any; no other thread or signal handler may use `cancel`.
 */
SKIM_API int32_t skim_cancel_free(skim_cancel *cancel);

/**
 * Sends the log of the whole library, from `level` on, to `callback`, instead of wherever it went before; null switches it off.
 * Without this call nothing is told, and nothing is ever printed.
 *
 * Owner: takes `user_data`; `destroy(user_data)` is called, if it is not null, once the callback is replaced and no call of it
 * runs any more, also if this function fails. `*error` is the caller's.
 * Threads: any.
 */
SKIM_API int32_t skim_log_set(int32_t level, skim_log_callback callback, void *user_data, skim_destroy destroy, skim_error **error);

/**
 * Bytes that the library has on the heap, over all models and sessions: now, and at most since it was loaded. Mapped files and
 * copied weights are not on the heap; see skim_model_memory_used for what is booked against a cap.
 *
 * Owner: nothing but `*error`, which is the caller's.
 * Threads: any.
 */
SKIM_API int32_t skim_memory_allocated(uint64_t *live, uint64_t *peak, skim_error **error);

/**
 * Frees a string that the library gave away. Null does nothing.
 *
 * Owner: takes `text`.
 * Threads: any; no other thread may use `text`.
 */
SKIM_API int32_t skim_string_free(char *text);

#if defined(SKIM_EXPERIMENTAL)
/**
 * The prompt of a sleep student: a night as JSON and a question, as the text that the student was trained on. Experimental:
 * declared if SKIM_EXPERIMENTAL is defined, and may change in any version.
 *
 * Owner: `*prompt` is the caller's, to free with skim_string_free; `*error` is the caller's.
 * Threads: any.
 */
SKIM_API int32_t skim_x_sleep_prompt(const char *night_json, size_t night_length, const char *question, size_t question_length, char **prompt, skim_error **error);
#endif

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SKIMSTONE_H */
