package io.github.skimstone;

import java.util.LinkedHashMap;
import java.util.Map;

/**
 * Settings by name, for what is opened or made next; {@link Skimstone#bounds} lists them. A call that takes options uses the
 * settings that concern it. What was made before does not change.
 *
 * <p>Threads: one at a time.
 */
public final class Options {
    private final Map<String, byte[]> values = new LinkedHashMap<>();

    /** Sets {@code key}: a number, {@code true} or {@code false}, a word, or JSON where the bounds say so. */
    public Options set(String key, String value) {
        byte[] valueBytes = Native.name(value);
        Native.checkOptions(new byte[][] {Native.name(key), valueBytes});
        values.put(key, valueBytes);
        return this;
    }

    public Options set(String key, long value) {
        return set(key, Long.toString(value));
    }

    public Options set(String key, double value) {
        return set(key, Double.toString(value));
    }

    public Options set(String key, boolean value) {
        return set(key, Boolean.toString(value));
    }

    /** Back to the default. */
    public Options unset(String key) {
        values.remove(key);
        return this;
    }

    /** Keys and values in turn. */
    byte[][] settings() {
        byte[][] settings = new byte[2 * values.size()][];
        int i = 0;
        for (Map.Entry<String, byte[]> entry : values.entrySet()) {
            settings[i++] = Native.name(entry.getKey());
            settings[i++] = entry.getValue();
        }
        return settings;
    }
}
