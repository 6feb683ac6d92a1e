package io.github.skimstone;

/**
 * A model: immutable, used by any number of sessions and threads at once.
 *
 * <p>Threads: any. Options may be null.
 */
public final class Model implements AutoCloseable {
    private final Handle handle;

    private Model(long address) {
        handle = new ModelHandle(this, address);
    }

    /** Opens the bundle at {@code path} and makes its model. */
    public static Model open(String path, Options options) {
        return new Model(Native.modelOpen(Native.name(path), Native.settings(options)));
    }

    /** Opens the bundle at {@code path} and makes its model. */
    public static Model open(String path) {
        return open(path, null);
    }

    /** Makes a model of an open bundle, which may be closed at once. */
    public static Model of(ModelBundle bundle, Options options) {
        long address = bundle.handle.use();
        try {
            return new Model(Native.modelNew(address, Native.settings(options)));
        } finally {
            bundle.handle.done();
        }
    }

    /** A new session: reserves the keys and values of its whole context. */
    public Session session(Options options) {
        long model = handle.use();
        try {
            return new Session(Native.sessionNew(model, Native.settings(options)));
        } finally {
            handle.done();
        }
    }

    /** A new session. */
    public Session session() {
        return session(null);
    }

    /** The bundle, and how it runs, as JSON. */
    public String inspect() {
        long model = handle.use();
        try {
            return Native.text(Native.modelInspect(model));
        } finally {
            handle.done();
        }
    }

    /** Anonymous bytes that the model and its sessions have booked. */
    public long memoryUsed() {
        long model = handle.use();
        try {
            return Native.modelMemoryUsed(model);
        } finally {
            handle.done();
        }
    }

    /**
     * Says how hot the device is; it is {@link ThermalLevel#NOMINAL} until then. When it is hot, thinking is shorter and goes by cheaper
     * routes, also in questions that are being answered, and answers get worse; the finished event says what was cut.
     */
    public void setThermal(ThermalLevel level) {
        // In the order of SKIM_THERMAL_….
        int number = level.ordinal();
        long model = handle.use();
        try {
            Native.modelSetThermal(model, number);
        } finally {
            handle.done();
        }
    }

    /**
     * Gives what closed sessions left for new ones back to the system: for {@code onTrimMemory}, besides {@link Session#memoryWarning} for
     * each session.
     */
    public void trimMemory() {
        long model = handle.use();
        try {
            Native.modelTrimMemory(model);
        } finally {
            handle.done();
        }
    }

    /** The tokens of a text, unsigned; with those that the tokenizer puts around a text, if {@code addSpecial}. */
    public int[] tokenize(String text, boolean addSpecial) {
        byte[] bytes = Native.utf8(text);
        long model = handle.use();
        try {
            return Native.modelTokenize(model, bytes, addSpecial);
        } finally {
            handle.done();
        }
    }

    /** Its sessions go on, and keep what they need. */
    @Override
    public void close() {
        handle.close();
    }

    private static final class ModelHandle extends Handle {
        ModelHandle(Model model, long address) {
            super("model", model, address);
        }

        @Override
        void free(long address) {
            Native.modelFree(address);
        }
    }
}
