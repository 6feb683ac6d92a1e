// A small student reasons about one night of sleep, by every route that it was trained for: examples/sleep.rs in Kotlin.
//
//   kotlinc sleep.kt -cp skimstone.jar:skimstone-kotlin.jar:kotlinx-coroutines-core.jar -d sleep.jar
//   kotlin -cp … -J-Djava.library.path=. SleepKt students/sleep.skim nights/tuesday.json "How efficient was my sleep?"
import io.github.skimstone.Event
import io.github.skimstone.EventType
import io.github.skimstone.Model
import io.github.skimstone.Skimstone
import io.github.skimstone.SkimstoneException
import io.github.skimstone.events
import java.io.File
import java.io.IOException
import kotlin.system.exitProcess
import kotlinx.coroutines.runBlocking

/** Shows the thinking as it comes. */
fun show(event: Event) {
    when (event.type()) {
        EventType.CHUNK_STARTED -> print("   - ")
        EventType.THINKING_TEXT -> print(event.text())
        EventType.CHUNK_FINISHED -> println()
        EventType.FINISHED -> println("   => ${event.text()}\n   ${event.number("usage.generated_tokens").toInt()} tokens")
        else -> {} // Events may be added.
    }
}

suspend fun run(student: String, night: String, question: String) {
    Model.open(student).use { model ->
        model.session().use { session ->
            session.append(Skimstone.sleepPrompt(File(night).readText(), question))
            for (route in listOf("direct", "skip", "cot")) {
                println(route)
                session["route"] = route
                session.events().collect { show(it) }
            }
        }
    }
}

fun fail(message: String?): Nothing {
    System.err.println(message)
    exitProcess(2)
}

fun main(arguments: Array<String>) {
    if (arguments.size != 3) fail("usage: sleep STUDENT.skim NIGHT.json QUESTION")
    try {
        runBlocking { run(arguments[0], arguments[1], arguments[2]) }
    } catch (e: IOException) {
        fail("error: ${e.message}")
    } catch (e: SkimstoneException) {
        fail("error: ${e.message}")
    }
}
