package io.github.skimstone;

/** Something that happened while a question was answered. Immutable, and nothing to close: it is a copy. */
public final class Event {
    private final EventType type;
    private final String text;
    private final String json;

    Event(EventType type, String text, String json) {
        this.type = type;
        this.text = text;
        this.json = json;
    }

    public EventType type() {
        return type;
    }

    /** Its name, such as "answer_text"; also of a type that this version does not know. */
    public String name() {
        return type == EventType.OTHER ? string("event") : type.text;
    }

    /** The event's text, whole characters of it; of a finished event the whole answer. Empty where there is none. */
    public String text() {
        return text;
    }

    /** The whole event: its name as "event", and its fields. Fields may be added. */
    public String json() {
        return json;
    }

    /** A number among the fields, such as "usage.generated_tokens"; true and false are 1 and 0. */
    public double number(String path) {
        String value = Json.find(json, path);
        if (value.equals("true") || value.equals("false")) {
            return value.equals("true") ? 1 : 0;
        }
        try {
            return Double.parseDouble(value);
        } catch (NumberFormatException e) {
            throw SkimstoneException.argument("the field `" + path + "` is no number", "ask for its string");
        }
    }

    /** A text among the fields, such as "route"; of other fields their JSON. */
    public String string(String path) {
        String value = Json.find(json, path);
        return value.startsWith("\"") ? Json.unquote(value) : value;
    }

    @Override
    public String toString() {
        return json;
    }
}
