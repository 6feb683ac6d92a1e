package io.github.skimstone;

import java.nio.ByteBuffer;

/**
 * An open bundle: one file with weights, configuration and tokenizer, looked at before anything is loaded. Immutable.
 *
 * <p>Threads: any. Options may be null.
 */
public final class ModelBundle implements AutoCloseable {
    final Handle handle;

    private ModelBundle(long address) {
        handle = new BundleHandle(this, address);
    }

    /** Opens the file at {@code path}, which must not be changed in place while it is open; replacing it by a rename is fine. */
    public static ModelBundle open(String path, Options options) {
        return new ModelBundle(Native.bundleOpen(Native.name(path), Native.settings(options)));
    }

    /**
     * Opens a part of an open file, such as an uncompressed asset of an APK: of an AssetFileDescriptor the descriptor's number,
     * start offset and length. The offset is a multiple of 64; a length of 0 goes to the end of the file. The descriptor is
     * duplicated: close yours when you like.
     */
    public static ModelBundle open(int fd, long offset, long length, Options options) {
        return new ModelBundle(Native.bundleOpenFd(fd, offset, length, Native.settings(options)));
    }

    /** Copies the bytes of a bundle out of Java's heap. */
    public static ModelBundle copy(byte[] data, Options options) {
        return new ModelBundle(Native.bundleCopy(data, Native.settings(options)));
    }

    /**
     * Uses what remains of a direct buffer in place: it must begin at a multiple of 64, as a mapped file does, and must not
     * change. The buffer is kept until the last model made of this bundle is gone.
     */
    public static ModelBundle borrow(ByteBuffer buffer, Options options) {
        if (!buffer.isDirect()) {
            throw SkimstoneException.argument("the buffer is not direct", "use ModelBundle.copy, or map the file");
        }
        return new ModelBundle(Native.bundleBorrow(buffer, buffer.position(), buffer.remaining(), Native.settings(options)));
    }

    /** What the bundle holds, as JSON. */
    public String inspect() {
        long bundle = handle.use();
        try {
            return Native.text(Native.bundleInspect(bundle));
        } finally {
            handle.done();
        }
    }

    /** The memory that a model of this bundle and so many sessions will take, before anything of it is taken. */
    public Estimate estimate(int sessions, Options options) {
        if (sessions < 0) {
            throw SkimstoneException.argument(sessions + " sessions", "give 0 or more");
        }
        long bundle = handle.use();
        try {
            long[] bytes = Native.bundleEstimate(bundle, Native.settings(options), sessions);
            return new Estimate(bytes[0], bytes[1]);
        } finally {
            handle.done();
        }
    }

    /** Models made of it keep what they need. */
    @Override
    public void close() {
        handle.close();
    }

    private static final class BundleHandle extends Handle {
        BundleHandle(ModelBundle bundle, long address) {
            super("bundle", bundle, address);
        }

        @Override
        void free(long address) {
            Native.bundleFree(address);
        }
    }
}
