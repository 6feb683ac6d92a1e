import io.github.skimstone.Event;
import io.github.skimstone.Model;
import io.github.skimstone.Session;
import io.github.skimstone.Skimstone;
import io.github.skimstone.SkimstoneException;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;

/**
 * A small student reasons about one night of sleep, by every route that it was trained for: examples/sleep.rs in Java.
 *
 * <pre>
 *   java -cp skimstone.jar -Djava.library.path=. Sleep.java students/sleep.skim nights/tuesday.json "How efficient was my sleep?"
 * </pre>
 */
public final class Sleep {
    private static void run(String student, String night, String question) throws IOException {
        String nightJson = new String(Files.readAllBytes(Paths.get(night)), StandardCharsets.UTF_8);
        try (Model model = Model.open(student); Session session = model.session()) {
            session.append(Skimstone.sleepPrompt(nightJson, question));
            for (String route : new String[] {"direct", "skip", "cot"}) {
                System.out.println(route);
                for (Event event : session.set("route", route).ask()) {
                    show(event);
                }
            }
        }
    }

    private static void show(Event event) {
        switch (event.type()) {
            case CHUNK_STARTED -> System.out.print("   - ");
            case THINKING_TEXT -> System.out.print(event.text());
            case CHUNK_FINISHED -> System.out.println();
            case FINISHED -> System.out.printf("   => %s%n   %.0f tokens%n", event.text(), event.number("usage.generated_tokens"));
            default -> { } // Events may be added.
        }
    }

    public static void main(String[] arguments) {
        if (arguments.length != 3) {
            System.err.println("usage: Sleep STUDENT.skim NIGHT.json QUESTION");
            System.exit(2);
        }
        try {
            run(arguments[0], arguments[1], arguments[2]);
        } catch (IOException | SkimstoneException e) {
            System.err.println("error: " + e.getMessage());
            System.exit(2);
        }
    }
}
