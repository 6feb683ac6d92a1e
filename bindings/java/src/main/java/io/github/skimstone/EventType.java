package io.github.skimstone;

/** Which event it is. Types may be added: a {@code switch} needs a default. */
public enum EventType {
    /** One that this version does not know; {@link Event#name} tells which. */
    OTHER("other"),
    /** A route was chosen; the prompt is read next. Fields: route, prompt_tokens. */
    STARTED("started"),
    /** A chunk of thinking begins. Field: index. */
    CHUNK_STARTED("chunk_started"),
    /** Text of the thinking. Fields: text, ids. */
    THINKING_TEXT("thinking_text"),
    /** A chunk of thinking ended. Fields: index, tokens. */
    CHUNK_FINISHED("chunk_finished"),
    /** A latent step was taken. Field: index. */
    LATENT_STEP("latent_step"),
    /** Something was decided. Fields: choice, generated_tokens, milliseconds. */
    DECISION("decision"),
    /** Text of the answer. Fields: text, ids, logprobs: natural logarithms, one for each token. */
    ANSWER_TEXT("answer_text"),
    /** The end. Fields: text, thinking, route, confidence, usage, finish_reason, decisions. */
    FINISHED("finished");

    /** In the order of SKIM_EVENT_…. */
    private static final EventType[] TYPES = values();

    final String text;

    EventType(String text) {
        this.text = text;
    }

    static EventType of(int number) {
        return number > 0 && number < TYPES.length ? TYPES[number] : OTHER;
    }
}
