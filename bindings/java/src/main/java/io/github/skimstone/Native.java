package io.github.skimstone;

import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.Charset;
import java.util.Arrays;

/** The functions of skimstone_jni.c, and how texts cross: as UTF-8, which strings of JNI are not. */
final class Native {
    private static final Charset UTF_8 = Charset.forName("UTF-8");

    static {
        // For programs beside a build of their own; an app has the library in its package.
        String path = System.getProperty("skimstone.library");
        if (path != null) {
            System.load(path);
        } else {
            System.loadLibrary("skimstone_jni");
        }
        init();
    }

    private Native() {}

    /** What the log calls, from any thread. */
    interface Log {
        void line(int level, byte[] target, byte[] message);
    }

    /** A text of the library. */
    static String text(byte[] utf8) {
        return new String(utf8, UTF_8);
    }

    /** A text for the library. Half of a surrogate pair, as a cut in the wrong place leaves it, is refused and not replaced. */
    static byte[] utf8(String text) {
        try {
            ByteBuffer bytes = UTF_8.newEncoder().encode(CharBuffer.wrap(text));
            return Arrays.copyOfRange(bytes.array(), bytes.arrayOffset() + bytes.position(), bytes.arrayOffset() + bytes.limit());
        } catch (CharacterCodingException e) {
            throw SkimstoneException.argument("the text has half of a surrogate pair", "cut texts between characters");
        }
    }

    /** A name, a path or a value, which end in a NUL on the other side. */
    static byte[] name(String text) {
        if (text.indexOf('\0') >= 0) {
            throw SkimstoneException.argument("a name, path or value has a NUL in it", "take it out");
        }
        return utf8(text);
    }

    static byte[][] settings(Options options) {
        return options == null ? null : options.settings();
    }

    static native void init();

    static native void initWith(int more);

    static native byte[] version();

    static native void checkOptions(byte[][] settings);

    static native byte[] bounds();

    static native long[] memoryAllocated();

    static native byte[] sleepPrompt(byte[] night, byte[] question);

    static native void logSet(int level, Log log);

    static native long bundleOpen(byte[] path, byte[][] settings);

    static native long bundleOpenFd(int fd, long offset, long length, byte[][] settings);

    static native long bundleCopy(byte[] data, byte[][] settings);

    static native long bundleBorrow(ByteBuffer buffer, long offset, long length, byte[][] settings);

    static native byte[] bundleInspect(long bundle);

    static native long[] bundleEstimate(long bundle, byte[][] settings, int sessions);

    static native void bundleFree(long bundle);

    static native long modelOpen(byte[] path, byte[][] settings);

    static native long modelNew(long bundle, byte[][] settings);

    static native byte[] modelInspect(long model);

    static native long modelMemoryUsed(long model);

    static native void modelTrimMemory(long model);

    static native void modelSetThermal(long model, int level);

    static native int[] modelTokenize(long model, byte[] text, boolean addSpecial);

    static native void modelFree(long model);

    static native long sessionNew(long model, byte[][] settings);

    static native long sessionFork(long session);

    static native void sessionSet(long session, byte[] key, byte[] value);

    static native byte[] sessionGet(long session, byte[] key);

    static native byte[] sessionBounds(long session);

    static native void sessionAppendText(long session, byte[] text);

    static native void sessionAppendTokens(long session, int[] tokens);

    static native void sessionAppendMessage(long session, byte[] role, byte[] content);

    static native void sessionClear(long session);

    static native void sessionBegin(long session);

    static native int sessionNext(long session, int timeoutMs, byte[][] out);

    static native long sessionCancelHandle(long session);

    static native void sessionSave(long session, byte[] path);

    static native void sessionRestore(long session, byte[] path);

    static native void sessionResume(long session, byte[] path);

    static native void sessionMemoryWarning(long session);

    static native void sessionEnterBackground(long session, byte[] path, int graceMs);

    static native void sessionEnterForeground(long session);

    static native byte[] sessionInspect(long session);

    static native void sessionFree(long session);

    static native void cancelTrigger(long cancel);

    static native void cancelFree(long cancel);
}
