package io.github.skimstone;

/** Bytes that a model and its sessions will take. */
public final class Estimate {
    private final long fileBacked;
    private final long anonymous;

    Estimate(long fileBacked, long anonymous) {
        this.fileBacked = fileBacked;
        this.anonymous = anonymous;
    }

    /** Mapped from the file: the system may drop and read it again. */
    public long fileBacked() {
        return fileBacked;
    }

    /** What the app is charged for, and {@code max_bytes} limits. */
    public long anonymous() {
        return anonymous;
    }

    @Override
    public String toString() {
        return fileBacked + " bytes of the file, " + anonymous + " bytes of its own";
    }
}
