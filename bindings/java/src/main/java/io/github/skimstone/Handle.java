package io.github.skimstone;

import java.lang.ref.PhantomReference;
import java.lang.ref.Reference;
import java.lang.ref.ReferenceQueue;
import java.util.HashSet;
import java.util.Set;

/**
 * What an object holds of the library: an address that is freed once, when it is closed and no call uses it any more.
 *
 * <p>A call takes the address with {@link #use} and gives it back with {@link #done}. So another thread may close meanwhile, and
 * the collector may take the object whose method is running: nothing is freed under a call.
 *
 * <p>What was never closed is freed after its owner was collected, by a thread that is there for that: what
 * java.lang.ref.Cleaner does, which Android has from API 33 on only.
 */
abstract class Handle {
    private static final ReferenceQueue<Object> COLLECTED = new ReferenceQueue<>();
    /** Keeps the references themselves from being collected. */
    private static final Set<Owner> OWNERS = new HashSet<>();

    static {
        Thread reaper = new Thread("skimstone-reaper") {
            @Override
            public void run() {
                while (true) {
                    try {
                        Reference<?> collected = COLLECTED.remove();
                        ((Owner) collected).handle.close();
                    } catch (InterruptedException e) {
                        // Nobody's business but ours: go on.
                    }
                }
            }
        };
        reaper.setDaemon(true);
        reaper.start();
    }

    private final String name;
    private final long address;
    private final Owner owner;
    private int users;
    private boolean closed;

    /** @param object the one whose methods use this; never kept alive by it */
    Handle(String name, Object object, long address) {
        this.name = name;
        this.address = address;
        this.owner = new Owner(object, this);
        synchronized (OWNERS) {
            OWNERS.add(owner);
        }
    }

    /** Frees the address; called once. Must not refer to the owner. */
    abstract void free(long address);

    /** The address, for a call that ends in {@link #done}. */
    synchronized long use() {
        if (closed) {
            throw new IllegalStateException("the " + name + " is closed");
        }
        users++;
        return address;
    }

    /** As {@link #use}, but 0 and nothing to be done if it is closed. */
    synchronized long useIfOpen() {
        if (closed) {
            return 0;
        }
        users++;
        return address;
    }

    void done() {
        boolean last;
        synchronized (this) {
            users--;
            last = closed && users == 0;
        }
        if (last) {
            free(address);
        }
    }

    void close() {
        boolean last;
        synchronized (this) {
            last = !closed && users == 0;
            closed = true;
        }
        synchronized (OWNERS) {
            OWNERS.remove(owner);
        }
        if (last) {
            free(address);
        }
    }

    private static final class Owner extends PhantomReference<Object> {
        final Handle handle;

        Owner(Object object, Handle handle) {
            super(object, COLLECTED);
            this.handle = handle;
        }
    }
}
