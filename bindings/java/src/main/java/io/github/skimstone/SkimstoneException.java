package io.github.skimstone;

/**
 * Why a call failed. The message is for people: place, what happened, and what can be done.
 *
 * <p>The nested classes are what an app may want to catch apart; everything else is of this class, and statuses may be added.
 */
public class SkimstoneException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    private final int status;
    private final String kind;
    private final String place;
    private final String hint;

    SkimstoneException(int status, String kind, String place, String message, String hint) {
        super(message);
        this.status = status;
        this.kind = kind;
        this.place = place;
        this.hint = hint;
    }

    /** One of SKIM_STATUS_… in skimstone.h; negative. */
    public int status() {
        return status;
    }

    /** The exact kind, such as "truncated" or "unknown_route". Kinds may be added. */
    public String kind() {
        return kind;
    }

    /** Where it went wrong: a file, a tensor, a field; or empty. Part of the message. */
    public String place() {
        return place;
    }

    /** What can be done, or empty. Part of the message. */
    public String hint() {
        return hint;
    }

    /** An argument is out of range, not known, or not a text. */
    public static final class Argument extends SkimstoneException {
        private static final long serialVersionUID = 1L;

        Argument(int status, String kind, String place, String message, String hint) {
            super(status, kind, place, message, hint);
        }
    }

    /** Another thread uses the session. */
    public static final class Busy extends SkimstoneException {
        private static final long serialVersionUID = 1L;

        Busy(int status, String kind, String place, String message, String hint) {
            super(status, kind, place, message, hint);
        }
    }

    /** Not possible in the present state. */
    public static final class State extends SkimstoneException {
        private static final long serialVersionUID = 1L;

        State(int status, String kind, String place, String message, String hint) {
            super(status, kind, place, message, hint);
        }
    }

    /** The system refused to read or write. */
    public static final class File extends SkimstoneException {
        private static final long serialVersionUID = 1L;

        File(int status, String kind, String place, String message, String hint) {
            super(status, kind, place, message, hint);
        }
    }

    /** The file breaks the rules of its format, is damaged, or of a kind or version that this library does not know. */
    public static final class Format extends SkimstoneException {
        private static final long serialVersionUID = 1L;

        Format(int status, String kind, String place, String message, String hint) {
            super(status, kind, place, message, hint);
        }
    }

    /** The prompt, or what must follow it, exceeds the context. */
    public static final class ContextFull extends SkimstoneException {
        private static final long serialVersionUID = 1L;

        ContextFull(int status, String kind, String place, String message, String hint) {
            super(status, kind, place, message, hint);
        }
    }

    /** More memory would be needed than {@code max_bytes} allows or the system has. */
    public static final class Memory extends SkimstoneException {
        private static final long serialVersionUID = 1L;

        Memory(int status, String kind, String place, String message, String hint) {
            super(status, kind, place, message, hint);
        }
    }

    /** A bug in the library; the object that was called can only be closed. */
    public static final class Bug extends SkimstoneException {
        private static final long serialVersionUID = 1L;

        Bug(int status, String kind, String place, String message, String hint) {
            super(status, kind, place, message, hint);
        }
    }

    static SkimstoneException argument(String message, String hint) {
        return new Argument(-1, "argument", "", message + "; " + hint, hint);
    }

    /** What skimstone_jni.c throws. */
    static SkimstoneException of(int status, byte[] kindBytes, byte[] placeBytes, byte[] messageBytes, byte[] hintBytes) {
        String kind = Native.text(kindBytes);
        String place = Native.text(placeBytes);
        String message = Native.text(messageBytes);
        String hint = Native.text(hintBytes);
        switch (status) {
            case -1: // SKIM_STATUS_INVALID_ARGUMENT
            case -29: // SKIM_STATUS_UNKNOWN_ROUTE
            case -30: // SKIM_STATUS_TOKEN
                return new Argument(status, kind, place, message, hint);
            case -2: // SKIM_STATUS_PANIC
            case -3: // SKIM_STATUS_POISONED
                return new Bug(status, kind, place, message, hint);
            case -4: // SKIM_STATUS_BUSY
                return new Busy(status, kind, place, message, hint);
            case -5: // SKIM_STATUS_STATE
                return new State(status, kind, place, message, hint);
            case -20: // SKIM_STATUS_IO
                return new File(status, kind, place, message, hint);
            case -21: // SKIM_STATUS_FORMAT
            case -22: // SKIM_STATUS_CHECKSUM
            case -23: // SKIM_STATUS_VERSION
            case -24: // SKIM_STATUS_UNSUPPORTED
            case -25: // SKIM_STATUS_CONFIG
            case -26: // SKIM_STATUS_TOKENIZER
            case -27: // SKIM_STATUS_TEMPLATE
            case -28: // SKIM_STATUS_REASONING
                return new Format(status, kind, place, message, hint);
            case -31: // SKIM_STATUS_CONTEXT_FULL
                return new ContextFull(status, kind, place, message, hint);
            case -32: // SKIM_STATUS_MEMORY
                return new Memory(status, kind, place, message, hint);
            default:
                return new SkimstoneException(status, kind, place, message, hint);
        }
    }
}
