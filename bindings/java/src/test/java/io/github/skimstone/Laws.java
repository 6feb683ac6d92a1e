package io.github.skimstone;

import java.io.File;
import java.io.RandomAccessFile;
import java.lang.ref.WeakReference;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/** What is the Java binding's own: owners, threads, texts, the collector. Run with -Xcheck:jni: {@code Laws STUDENT.skim}. */
public final class Laws {
    private static final String QUESTION = "age 34. in bed 23:05, up 07:15.\nhow long was I in bed?";

    private Laws() {}

    static native boolean openOnThread(byte[] path);

    private interface Action {
        void run() throws Exception;
    }

    private static void must(boolean holds, String law) {
        if (!holds) {
            throw new AssertionError("broken: " + law);
        }
    }

    private static <E extends Throwable> E fails(Class<E> type, Action action, String law) {
        try {
            action.run();
        } catch (Throwable thrown) {
            must(type.isInstance(thrown), law + ", but " + thrown);
            return type.cast(thrown);
        }
        throw new AssertionError("broken: " + law);
    }

    private static void texts(Model model) {
        String path = "/nowhere/süß/\uD83D\uDE34";
        SkimstoneException error = fails(SkimstoneException.File.class, () -> Model.open(path), "a missing file is told");
        must(error.getMessage().startsWith(path + ": "), "characters beyond the first plane come and go: " + error.getMessage());
        must(error.place().equals(path) && error.status() == -20 && error.kind().equals("io"), "an error has its parts");
        must(model.tokenize("\uD83D\uDE34", false).length == model.tokenize("zzzz", false).length,
                "a character beyond the first plane has four bytes of UTF-8, and no tokens of its own here");
        fails(SkimstoneException.Argument.class, () -> model.tokenize("\uD83D", false), "half of a pair is refused");
        fails(SkimstoneException.Argument.class, () -> Model.open("/tmp\0/x"), "a NUL does not cut a path");
        fails(NullPointerException.class, () -> Model.open(null), "null is refused before it crosses");
        must(model.tokenize("a\0b", false).length >= 2, "a NUL within a text is part of it");
    }

    private static void json() {
        String json = "{\"event\":\"finished\",\"text\":\"a \\\"b\\\" \\u00e9\\n\",\"usage\":{\"tokens\":[1,2.5,-3e2]},\"ok\":true,\"empty\":{},"
                + "\"a.b\":1,\"none\":null}";
        Event event = new Event(EventType.OTHER, "", json);
        must(event.name().equals("finished"), "an event of a newer version has its name");
        must(event.string("text").equals("a \"b\" \u00e9\n"), "escapes are read");
        must(event.number("usage.tokens.1") == 2.5 && event.number("usage.tokens.2") == -300, "numbers are found in arrays");
        must(event.string("usage").equals("{\"tokens\":[1,2.5,-3e2]}"), "other fields are their JSON");
        must(event.number("ok") == 1 && event.string("none").equals("null"), "words are words");
        for (String path : new String[] {"", "usage.", "usage.tokens.3", "usage.tokens.x", "text.0", "empty.x", "usage.tokens.1.0"}) {
            fails(SkimstoneException.Argument.class, () -> event.string(path), "there is no field " + path);
        }
    }

    private static void errors(Model model) {
        try (Session session = model.session(new Options().set("route", "direct").set("seed", 7).set("temperature", 0.5))) {
            must(session.get("route").equals("\"direct\"") && session.get("temperature").equals("0.5"), "options arrive");
            SkimstoneException error =
                    fails(SkimstoneException.Argument.class, () -> session.set("route", "fast"), "an unknown route is told");
            must(error.kind().equals("unknown_route"), "and of its kind");
            fails(SkimstoneException.State.class, session::begin, "nothing to answer");
            session.append(QUESTION);
            int[] seen = {0};
            IllegalArgumentException enough = fails(IllegalArgumentException.class, () -> session.generate(event -> {
                if (++seen[0] == 2) {
                    throw new IllegalArgumentException("enough");
                }
                return true;
            }), "what a listener throws comes out");
            must(enough.getMessage().equals("enough") && seen[0] == 2, "at once");
            must(session.answer().string("finish_reason").equals("stop"), "and the session goes on");
        }
        fails(SkimstoneException.Format.class, () -> ModelBundle.copy(new byte[100], null), "bytes that are no bundle are refused");
        fails(SkimstoneException.Memory.class, () -> Model.open(student, new Options().set("max_bytes", 1000)), "a cap is a cap");
    }

    private static void closing(Model model) throws Exception {
        Session session = model.session();
        session.append(QUESTION);
        session.close();
        session.close();
        session.cancel();
        fails(IllegalStateException.class, session::begin, "a closed session is not used");

        // A call under way keeps what it uses: the prompt below takes longer than the close.
        for (int round = 0; round < 20; round++) {
            Session running = model.session();
            int[] tokens = new int[400];
            Arrays.fill(tokens, 25);
            running.appendTokens(tokens).begin();
            CountDownLatch started = new CountDownLatch(1);
            List<Throwable> thrown = Collections.synchronizedList(new ArrayList<>());
            Thread worker = new Thread(() -> {
                try {
                    while (running.nextEvent() != null) {
                        started.countDown();
                    }
                } catch (IllegalStateException closed) {
                    // The next call after the close.
                } catch (Throwable other) {
                    thrown.add(other);
                }
            });
            worker.start();
            started.await();
            running.close();
            worker.join();
            must(thrown.isEmpty(), "a session may be closed while it works: " + thrown);
        }
    }

    private static Event last(Iterable<Event> events) {
        Event last = null;
        for (Event event : events) {
            last = event;
        }
        return last;
    }

    /** What the system tells an app: the cases have the answers, here are threads, owners and the heat of phones. */
    private static void lifeCycle(Model model) throws Exception {
        File file = File.createTempFile("question", ".skim");
        Options cot = new Options().set("route", "cot");
        Session session = model.session(cot);
        String expected = session.append(QUESTION).answer().text();

        // From another thread, as phones do, while this one works; the question then goes on from its file in a session of its own.
        CountDownLatch thinking = new CountDownLatch(1);
        Thread system = new Thread(() -> {
            try {
                thinking.await();
                session.enterBackground(file.getPath(), 1, TimeUnit.MINUTES);
                session.memoryWarning();
            } catch (InterruptedException e) {
                throw new AssertionError(e);
            }
        });
        system.start();
        Event suspended = session.generate(event -> {
            if (event.type() == EventType.CHUNK_STARTED) {
                thinking.countDown();
                try {
                    system.join();
                } catch (InterruptedException e) {
                    throw new AssertionError(e);
                }
            }
            return true;
        });
        must(suspended.string("finish_reason").equals("suspended"), "a question is suspended from another thread");
        try (Session later = model.session(cot)) {
            Iterable<Event> resumed = later.resume(file.getPath());
            must(last(resumed).text().equals(expected), "it goes on from its file");
            must(last(resumed).text().equals(expected), "each loop anew");
            fails(SkimstoneException.File.class, () -> last(later.resume("/nowhere")), "a missing file is told by the loop");
            fails(SkimstoneException.Format.class, () -> last(later.resume(student)), "and one that is no session");
        }
        must(file.delete(), "the file was written");
        must(session.answer().text().equals(expected), "the next question takes the request back");

        long before = model.memoryUsed();
        session.memoryWarning();
        must(model.memoryUsed() < before, "a warning gives memory back: " + model.memoryUsed() + " after " + before);
        session.close();
        session.memoryWarning();
        session.enterBackground("/nowhere/else", 0, TimeUnit.SECONDS);
        session.enterForeground();
        fails(IllegalStateException.class, () -> last(session.resume("/nowhere")), "a closed session only hears what the system tells");

        ThermalLevel[] ofStatus = {ThermalLevel.NOMINAL, ThermalLevel.FAIR, ThermalLevel.SERIOUS, ThermalLevel.SERIOUS, ThermalLevel.CRITICAL,
            ThermalLevel.CRITICAL, ThermalLevel.CRITICAL};
        for (int status = 0; status < ofStatus.length; status++) {
            must(ThermalLevel.ofAndroidStatus(status) == ofStatus[status], "Android's status " + status);
        }
        for (ThermalLevel level : ThermalLevel.values()) {
            model.setThermal(level);
            must(Json.find(model.inspect(), "thermal").equals('"' + level.name().toLowerCase(Locale.ROOT) + '"'), "the model knows " + level);
        }
        model.setThermal(ThermalLevel.NOMINAL);
    }

    private static void threads(Model model) throws Exception {
        String expected;
        try (Session session = model.session()) {
            expected = session.set("route", "skip").append(QUESTION).answer().text();
        }
        AtomicInteger right = new AtomicInteger();
        AtomicInteger stopped = new AtomicInteger();
        List<Throwable> thrown = Collections.synchronizedList(new ArrayList<>());
        List<Thread> workers = new ArrayList<>();
        for (int i = 0; i < 8; i++) {
            int number = i;
            Thread worker = new Thread(() -> {
                try (Session session = model.session()) {
                    session.set("route", "skip").append(QUESTION);
                    for (int round = 0; round < 10; round++) {
                        Thread canceller = new Thread(session::cancel);
                        if ((number + round) % 2 == 1) {
                            canceller.start();
                        }
                        try (Session fork = session.fork()) {
                            for (Session one : new Session[] {session, fork}) {
                                Event finished = one.answer();
                                boolean cancelled = finished.string("finish_reason").equals("cancelled");
                                must(cancelled || finished.text().equals(expected), "threads do not disturb each other");
                                (cancelled ? stopped : right).incrementAndGet();
                            }
                        }
                        canceller.join();
                    }
                } catch (Throwable other) {
                    thrown.add(other);
                }
            });
            workers.add(worker);
            worker.start();
        }
        for (Thread worker : workers) {
            worker.join();
        }
        must(thrown.isEmpty(), "no thread fails: " + thrown);
        must(right.get() + stopped.get() == 160 && right.get() >= 80, "every question is answered or cancelled");

        // Two threads on one session: the second is told so, and nothing else.
        try (Session session = model.session()) {
            int[] tokens = new int[400];
            Arrays.fill(tokens, 25);
            session.appendTokens(tokens).begin();
            List<Thread> pullers = new ArrayList<>();
            for (int i = 0; i < 4; i++) {
                Thread puller = new Thread(() -> {
                    try {
                        while (session.nextEvent() != null) {
                            continue;
                        }
                    } catch (SkimstoneException.Busy busy) {
                        // Told so.
                    } catch (Throwable other) {
                        thrown.add(other);
                    }
                });
                pullers.add(puller);
                puller.start();
            }
            for (Thread puller : pullers) {
                puller.join();
            }
            must(thrown.isEmpty(), "a busy session says so: " + thrown);
        }
    }

    private static void collect(WeakReference<?> reference, String law) throws InterruptedException {
        for (int i = 0; i < 100 && reference.get() != null; i++) {
            System.gc();
            Thread.sleep(10);
        }
        must(reference.get() == null, law);
    }

    private static void forgotten(Model model) throws Exception {
        for (int i = 0; i < 20; i++) {
            model.session().append(QUESTION).answer();
        }
        long before = -1;
        long after = 0;
        // Objects that nobody closed come back through the collector, which takes its time.
        for (int i = 0; i < 200; i++) {
            System.gc();
            Thread.sleep(5);
            model.trimMemory();
            after = model.memoryUsed();
            if (after == before) {
                break;
            }
            before = after;
        }
        long idle = model.memoryUsed();
        for (int i = 0; i < 100; i++) {
            Session session = model.session();
            session.append(QUESTION);
            session.fork();
        }
        for (int i = 0; i < 400 && model.memoryUsed() > idle; i++) {
            System.gc();
            Thread.sleep(5);
            model.trimMemory();
        }
        must(model.memoryUsed() <= idle, "sessions that nobody closed are freed: " + model.memoryUsed() + " after " + idle);
    }

    private static WeakReference<ByteBuffer> borrowed() throws Exception {
        ByteBuffer buffer;
        try (RandomAccessFile file = new RandomAccessFile(student, "r")) {
            buffer = file.getChannel().map(FileChannel.MapMode.READ_ONLY, 0, file.length());
        }
        fails(SkimstoneException.Argument.class, () -> ModelBundle.borrow(ByteBuffer.allocate(64), null), "a buffer of the heap is no memory");
        WeakReference<ByteBuffer> watch = new WeakReference<>(buffer);
        Model model;
        try (ModelBundle bundle = ModelBundle.borrow(buffer, null)) {
            model = Model.of(bundle, null);
        }
        ByteBuffer odd = buffer.duplicate();
        odd.position(8);
        fails(SkimstoneException.class, () -> ModelBundle.borrow(odd, null), "a misaligned buffer is refused, and given back");
        buffer = null;
        System.gc();
        must(watch.get() != null, "a model keeps the memory that it borrowed");
        try (Session session = model.session()) {
            model.close();
            must(session.append(QUESTION).answer().string("finish_reason").equals("stop") && watch.get() != null, "so does a session");
        }
        return watch;
    }

    private static WeakReference<LogListener> listen(Set<String> threads, Model model) {
        LogListener listener = (level, target, message) -> {
            threads.add(Thread.currentThread().getName());
            throw new IllegalStateException("what a listener throws is dropped");
        };
        for (int i = 0; i < 1000; i++) {
            Skimstone.setLog(i % 6, listener);
        }
        Skimstone.setLog(5, listener);
        model.session().close();
        must(threads.contains("main"), "the log is told on the thread of the call");
        must(openOnThread(Native.name(student)), "a thread of C opens a model");
        must(threads.size() == 2, "the log is told on a thread that Java did not make: " + threads);
        int before = Thread.activeCount();
        for (int i = 0; i < 50; i++) {
            openOnThread(Native.name(student));
        }
        must(Thread.activeCount() <= before, "threads that ended are detached");
        Skimstone.setLog(0, null);
        return new WeakReference<>(listener);
    }

    private static String student;

    public static void main(String[] arguments) throws Exception {
        student = arguments[0];
        must(!Skimstone.version().isEmpty() && Skimstone.bounds().startsWith("["), "the library is there");
        json();
        try (Model model = Model.open(student, new Options().set("threads", 2))) {
            texts(model);
            errors(model);
            closing(model);
            lifeCycle(model);
            threads(model);
            forgotten(model);
            collect(listen(Collections.synchronizedSet(new TreeSet<>()), model), "a listener that was replaced is let go");
        }
        collect(borrowed(), "the last model gives a buffer back");
        must(Skimstone.allocated() < Skimstone.peakAllocated(), "the heap is counted");
        System.out.println("all laws hold");
    }
}
