package io.github.skimstone;

import java.io.BufferedReader;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.Field;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** The steps of ffi/conformance/cases.json through the Java binding. See the README there. */
public final class Conformance {
    private Options options;
    private ModelBundle bundle;
    private Model model;
    private Session session;
    private Session forked;
    private Session cancelled;
    private Event event;

    private static void close(AutoCloseable object) throws Exception {
        if (object != null) {
            object.close();
        }
    }

    private void reset() throws Exception {
        close(forked);
        close(session);
        close(model);
        close(bundle);
        options = null;
        bundle = null;
        model = null;
        session = null;
        forked = null;
        cancelled = null;
        event = null;
    }

    /** Android's ParcelFileDescriptor has getFd; plain Java keeps the number to itself. */
    private static int number(FileDescriptor descriptor) throws ReflectiveOperationException {
        Field fd = FileDescriptor.class.getDeclaredField("fd");
        fd.setAccessible(true);
        return fd.getInt(descriptor);
    }

    private String next(int timeoutMs) {
        try {
            Event next = timeoutMs < 0 ? session.nextEvent() : session.nextEvent(timeoutMs, TimeUnit.MILLISECONDS);
            if (next == null) {
                return "end";
            }
            event = next;
            return event.name();
        } catch (TimeoutException e) {
            return "timeout";
        }
    }

    private String generate(int cancelAt) {
        int[] seen = {0};
        event = session.generate(each -> ++seen[0] != cancelAt);
        return event.string("finish_reason");
    }

    private static Iterable<Event> rest(Session session) {
        List<Event> events = new ArrayList<>();
        for (Event each = session.nextEvent(); each != null; each = session.nextEvent()) {
            events.add(each);
        }
        return events;
    }

    private String names(Iterable<Event> events) {
        StringBuilder names = new StringBuilder();
        String last = "";
        for (Event each : events) {
            event = each;
            if (!each.name().equals(last)) {
                names.append(names.length() == 0 ? "" : " ").append(each.name());
            }
            last = each.name();
        }
        return names.toString();
    }

    private static byte[] bytes(String path, int length) throws Exception {
        byte[] data = Files.readAllBytes(Paths.get(path));
        return length == 0 ? data : Arrays.copyOf(data, length);
    }

    private static String short_(double number) {
        return number == Math.rint(number) ? Long.toString((long) number) : Double.toString(number);
    }

    private String step(String what, String a, String b) throws Exception {
        switch (what) {
            case "reset": reset(); return "ok";
            case "init": Native.initWith(Integer.parseInt(a)); return "ok";
            case "options.set":
                options = options == null ? new Options() : options;
                options.set(a, b);
                return "ok";
            case "bundle.open": bundle = ModelBundle.open(a, options); return "ok";
            case "bundle.fd":
                try (FileInputStream file = new FileInputStream(a)) {
                    bundle = ModelBundle.open(number(file.getFD()), Long.parseLong(b), 0, options);
                    return "ok";
                }
            case "bundle.memory": bundle = ModelBundle.copy(bytes(a, Integer.parseInt(b)), options); return "ok";
            case "bundle.estimate":
                Estimate estimate = bundle.estimate(1, options);
                return estimate.anonymous() > 0 ? "file " + estimate.fileBacked() : "nothing";
            case "model.open": model = Model.open(a, options); return "ok";
            case "model.new": model = Model.of(bundle, options); return "ok";
            case "model.tokens": return Integer.toString(model.tokenize(a, false).length);
            case "model.thermal": model.setThermal(ThermalLevel.values()[Integer.parseInt(a)]); return "ok";
            case "model.free": model.close(); return "ok";
            case "session.new":
                close(session);
                session = model.session(options);
                return "ok";
            case "session.fork": forked = session.fork(); return "ok";
            case "session.swap":
                Session other = session;
                session = forked;
                forked = other;
                return "ok";
            case "session.save": session.save(a); return "ok";
            case "session.restore": session.restore(a); return "ok";
            case "session.free": session.close(); return "ok";
            case "session.set": session.set(a, b); return "ok";
            case "session.unset": session.unset(a); return "ok";
            case "session.get": return session.get(a);
            case "session.append": session.append(a); return "ok";
            case "session.tokens":
                int[] tokens = new int[Integer.parseInt(a)];
                Arrays.fill(tokens, Integer.parseUnsignedInt(b));
                session.appendTokens(tokens);
                return "ok";
            case "session.message": session.appendMessage(a, b); return "ok";
            case "session.clear": session.clear(); return "ok";
            case "session.begin": session.begin(); return "ok";
            case "session.next": return next(Integer.parseInt(a));
            case "session.generate": return generate(Integer.parseInt(a));
            case "session.events": return names(session.ask());
            case "session.rest": return names(rest(session));
            case "session.resume": return names(session.resume(a));
            case "session.memory_warning": session.memoryWarning(); return "ok";
            case "session.background":
                session.enterBackground(a, Long.parseLong(b), TimeUnit.MILLISECONDS);
                return "ok";
            case "session.foreground": session.enterForeground(); return "ok";
            case "cancel.get": cancelled = session; return "ok";
            case "cancel.trigger": cancelled.cancel(); return "ok";
            case "event.text": return event.text();
            case "event.number": return short_(event.number(a));
            case "event.string": return event.string(a);
            default: return "unknown step " + what;
        }
    }

    public static void main(String[] arguments) throws Exception {
        Conformance driver = new Conformance();
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        PrintStream out = new PrintStream(System.out, true, "UTF-8");
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] words = Arrays.copyOf(line.split("\t", -1), 3);
            for (int i = 0; i < 3; i++) {
                words[i] = words[i] == null ? "" : words[i].replace("\\n", "\n");
            }
            String result;
            try {
                result = driver.step(words[0], words[1], words[2]);
            } catch (SkimstoneException e) {
                result = "error " + e.status() + " " + e.kind();
            }
            out.println(result.replace("\n", "\\n"));
        }
        driver.reset();
    }
}
