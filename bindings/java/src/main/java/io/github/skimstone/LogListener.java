package io.github.skimstone;

/** Receives the log. Called from any thread, from several at once; what it throws is dropped. */
public interface LogListener {
    /** @param level 1 error, 2 warn, 3 info, 4 debug, 5 trace; texts of the user from 5 on only */
    void onLine(int level, String target, String message);
}
