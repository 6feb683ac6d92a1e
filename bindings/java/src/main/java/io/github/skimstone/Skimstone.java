package io.github.skimstone;

/** What concerns the whole library. Threads: any. */
public final class Skimstone {
    private Skimstone() {}

    /** The version of the library that is loaded. */
    public static String version() {
        return Native.text(Native.version());
    }

    /** Every setting, with its type, bounds, default and unit, as JSON. */
    public static String bounds() {
        return Native.text(Native.bounds());
    }

    /** Bytes that the library has on its heap, over all models and sessions. */
    public static long allocated() {
        return Native.memoryAllocated()[0];
    }

    /** The most that {@link #allocated} ever was. */
    public static long peakAllocated() {
        return Native.memoryAllocated()[1];
    }

    /** Sends the log from {@code level} on to {@code listener}, instead of wherever it went before; null switches it off. */
    public static void setLog(int level, final LogListener listener) {
        Native.logSet(level, listener == null ? null : new Native.Log() {
            @Override
            public void line(int lineLevel, byte[] target, byte[] message) {
                listener.onLine(lineLevel, Native.text(target), Native.text(message));
            }
        });
    }

    /** The prompt of a sleep student, of a night as JSON and a question. Experimental: may change in any version. */
    public static String sleepPrompt(String nightJson, String question) {
        return Native.text(Native.sleepPrompt(Native.utf8(nightJson), Native.utf8(question)));
    }
}
