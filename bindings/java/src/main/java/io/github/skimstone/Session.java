package io.github.skimstone;

import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * One conversation: what was appended, and the keys and values that the model computed for it.
 *
 * <p>Threads: one at a time; a second call meanwhile throws {@link SkimstoneException.Busy} and does nothing. {@link #cancel},
 * {@link #close}, and what the system tells an app ({@link #memoryWarning}, {@link #enterBackground}, {@link #enterForeground}) may be
 * called from any thread at any time. Nothing computes but in {@link #nextEvent} and what calls it: not
 * for the main thread.
 */
public final class Session implements AutoCloseable {
    private final Handle handle;
    private final Handle canceller;

    Session(long address) {
        handle = new SessionHandle(this, address);
        canceller = new CancelHandle(this, Native.sessionCancelHandle(address));
    }

    /** Sets how the next question is answered; see {@link #bounds}. */
    public Session set(String key, String value) {
        return put(key, Native.name(value));
    }

    public Session set(String key, long value) {
        return set(key, Long.toString(value));
    }

    public Session set(String key, double value) {
        return set(key, Double.toString(value));
    }

    public Session set(String key, boolean value) {
        return set(key, Boolean.toString(value));
    }

    /** Back to the default. */
    public Session unset(String key) {
        return put(key, null);
    }

    private Session put(String key, byte[] value) {
        byte[] keyBytes = Native.name(key);
        long session = handle.use();
        try {
            Native.sessionSet(session, keyBytes, value);
            return this;
        } finally {
            handle.done();
        }
    }

    /** The value of {@code key} as JSON; "null" where nothing was set and there is no default. */
    public String get(String key) {
        byte[] keyBytes = Native.name(key);
        long session = handle.use();
        try {
            return Native.text(Native.sessionGet(session, keyBytes));
        } finally {
            handle.done();
        }
    }

    /** What may be set, as JSON. */
    public String bounds() {
        long session = handle.use();
        try {
            return Native.text(Native.sessionBounds(session));
        } finally {
            handle.done();
        }
    }

    /** Appends text to the prompt; it stays until {@link #clear}. */
    public Session append(String text) {
        byte[] bytes = Native.utf8(text);
        long session = handle.use();
        try {
            Native.sessionAppendText(session, bytes);
            return this;
        } finally {
            handle.done();
        }
    }

    /** Appends tokens, unsigned, as they are. */
    public Session appendTokens(int... tokens) {
        long session = handle.use();
        try {
            Native.sessionAppendTokens(session, tokens);
            return this;
        } finally {
            handle.done();
        }
    }

    /** Appends a message of "system", "user", "assistant" or "tool", for the model's chat template. */
    public Session appendMessage(String role, String content) {
        byte[] roleBytes = Native.name(role);
        byte[] contentBytes = Native.utf8(content);
        long session = handle.use();
        try {
            Native.sessionAppendMessage(session, roleBytes, contentBytes);
            return this;
        } finally {
            handle.done();
        }
    }

    /** Forgets what was appended. Keys and values stay for what the next prompt may share. */
    public Session clear() {
        long session = handle.use();
        try {
            Native.sessionClear(session);
            return this;
        } finally {
            handle.done();
        }
    }

    /** Begins to answer what was appended; pull with {@link #nextEvent}. A question that was not answered to its end is dropped. */
    public void begin() {
        long session = handle.use();
        try {
            Native.sessionBegin(session);
        } finally {
            handle.done();
        }
    }

    /** Works until something happens, and tells it; null after the finished event. Not to call again is to pause. */
    public Event nextEvent() {
        try {
            return next(-1);
        } catch (TimeoutException e) {
            throw new AssertionError(e);
        }
    }

    /**
     * As {@link #nextEvent()}, but gives up at the first step after that time; call again to go on. At least one step is taken.
     *
     * @throws TimeoutException the time was over before anything happened
     */
    public Event nextEvent(long timeout, TimeUnit unit) throws TimeoutException {
        return next(milliseconds(timeout, unit));
    }

    private static int milliseconds(long time, TimeUnit unit) {
        return (int) Math.min(Math.max(unit.toMillis(time), 0), Integer.MAX_VALUE);
    }

    private Event next(int timeoutMs) throws TimeoutException {
        byte[][] out = new byte[2][];
        int type;
        long session = handle.use();
        try {
            type = Native.sessionNext(session, timeoutMs, out);
        } finally {
            handle.done();
        }
        if (type == -1) {
            throw new TimeoutException("no event within " + timeoutMs + " ms");
        }
        return type < 0 ? null : new Event(EventType.of(type), Native.text(out[0]), Native.text(out[1]));
    }

    /** Answers what was appended and tells the listener every event; the finished one. */
    public Event generate(EventListener listener) {
        begin();
        Event finished = null;
        boolean going = true;
        for (Event event = nextEvent(); event != null; event = nextEvent()) {
            finished = event;
            // After a cancel only the finished event follows.
            if (going && !listener.onEvent(event)) {
                going = false;
                cancel();
            }
        }
        return finished;
    }

    /** Answers what was appended; the finished event. */
    public Event answer() {
        return generate(new EventListener() {
            @Override
            public boolean onEvent(Event event) {
                return true;
            }
        });
    }

    /** The events of one question, for a for loop: each loop asks anew. To leave it is to pause: {@link #nextEvent} goes on. */
    public Iterable<Event> ask() {
        return new Iterable<Event>() {
            @Override
            public Iterator<Event> iterator() {
                begin();
                return new Events(Session.this);
            }
        };
    }

    /**
     * Goes on with the question in a file that {@link #save} or {@link #enterBackground} wrote, in this process or another, as if it had
     * not been interrupted: its events, from the start again, for a for loop. Each loop goes on from the file anew.
     *
     * <p>The settings must be those of the question; time limits begin anew. The loop throws where the file does not fit or has no
     * question, and the session stays as it was. What was appended is not touched.
     */
    public Iterable<Event> resume(String path) {
        final byte[] bytes = Native.name(path);
        return new Iterable<Event>() {
            @Override
            public Iterator<Event> iterator() {
                long session = handle.use();
                try {
                    Native.sessionResume(session, bytes);
                } finally {
                    handle.done();
                }
                return new Events(Session.this);
            }
        };
    }

    /**
     * For a memory warning of the system: between questions the session gives all its memory back, which the next question reserves
     * again; within one, what that needs no more, at its next step. Answers do not change. From any thread; nothing once closed.
     */
    public void memoryWarning() {
        long session = handle.useIfOpen();
        if (session != 0) {
            try {
                Native.sessionMemoryWarning(session);
            } finally {
                handle.done();
            }
        }
    }

    /**
     * The app leaves the screen: the question ends at the end of its chunk of thinking, or after {@code grace} at its next step, with
     * the finish reason "suspended", and is in the file at {@code path} for {@link #resume}. From any thread; nothing once closed.
     *
     * <p>Where no other thread works on the session, the file is written before this returns, in case that nobody pulls any more. Where
     * it cannot be written, whoever pulls gets the exception, and the question stays.
     */
    public void enterBackground(String path, long grace, TimeUnit unit) {
        byte[] bytes = Native.name(path);
        int graceMs = milliseconds(grace, unit);
        long session = handle.useIfOpen();
        if (session != 0) {
            try {
                Native.sessionEnterBackground(session, bytes, graceMs);
            } finally {
                handle.done();
            }
        }
    }

    /** The app is back: a question that was not suspended yet goes on. From any thread; nothing once closed. */
    public void enterForeground() {
        long session = handle.useIfOpen();
        if (session != 0) {
            try {
                Native.sessionEnterForeground(session);
            } finally {
                handle.done();
            }
        }
    }

    /**
     * Stops the work from any thread, within one layer of one step: the question finishes with what it has, its finish reason is
     * "cancelled". Without a question, and after {@link #close}, it does nothing.
     */
    public void cancel() {
        long cancel = canceller.useIfOpen();
        if (cancel != 0) {
            try {
                Native.cancelTrigger(cancel);
            } finally {
                canceller.done();
            }
        }
    }

    /** A second session in the same state, which shares the keys and values. A question that is being answered stays here. */
    public Session fork() {
        long session = handle.use();
        try {
            return new Session(Native.sessionFork(session));
        } finally {
            handle.done();
        }
    }

    /** Writes what was read so far to a file that appears whole or not at all. */
    public void save(String path) {
        byte[] bytes = Native.name(path);
        long session = handle.use();
        try {
            Native.sessionSave(session, bytes);
        } finally {
            handle.done();
        }
    }

    /** Goes on from such a file, in a session of {@code reuse_prefix}; a file that does not fit leaves the session as it was. */
    public void restore(String path) {
        byte[] bytes = Native.name(path);
        long session = handle.use();
        try {
            Native.sessionRestore(session, bytes);
        } finally {
            handle.done();
        }
    }

    /** Position, context, and counts of what was computed, as JSON. */
    public String inspect() {
        long session = handle.use();
        try {
            return Native.text(Native.sessionInspect(session));
        } finally {
            handle.done();
        }
    }

    /** From any thread: a call that runs is cancelled, and what it uses is freed when it returns. */
    @Override
    public void close() {
        cancel();
        canceller.close();
        handle.close();
    }

    private static final class Events implements Iterator<Event> {
        private final Session session;
        private Event next;
        private boolean ended;

        Events(Session session) {
            this.session = session;
        }

        @Override
        public boolean hasNext() {
            if (next == null && !ended) {
                next = session.nextEvent();
                ended = next == null;
            }
            return next != null;
        }

        @Override
        public Event next() {
            if (!hasNext()) {
                throw new NoSuchElementException();
            }
            Event event = next;
            next = null;
            return event;
        }

        @Override
        public void remove() {
            throw new UnsupportedOperationException();
        }
    }

    private static final class SessionHandle extends Handle {
        SessionHandle(Session session, long address) {
            super("session", session, address);
        }

        @Override
        void free(long address) {
            Native.sessionFree(address);
        }
    }

    private static final class CancelHandle extends Handle {
        CancelHandle(Session session, long address) {
            super("session", session, address);
        }

        @Override
        void free(long address) {
            Native.cancelFree(address);
        }
    }
}
