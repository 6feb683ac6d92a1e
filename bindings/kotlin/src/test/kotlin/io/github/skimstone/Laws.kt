package io.github.skimstone

import java.io.File
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.minutes
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.last
import kotlinx.coroutines.flow.map
import kotlinx.coroutines.flow.onEach
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking

/** What is the flow's own; the rest is in bindings/java. */
private const val QUESTION = "age 34. in bed 23:05, up 07:15.\nhow long was I in bed?"

private fun must(holds: Boolean, law: () -> String) {
    if (!holds) throw AssertionError("broken: ${law()}")
}

private suspend fun flows(model: Model) = model.session(optionsOf("route" to "skip", "seed" to 7)).use { session ->
    session.append(QUESTION)
    val pulled = session.ask().map { it.name() }
    val flow = session.events()
    repeat(2) { must(flow.map { it.name() }.toList() == pulled) { "a flow and a pull say the same, each time" } }
    must(session.await().string("finish_reason") == "stop") { "await gives the finished event" }

    // Whoever takes no more stops the work, and may ask again at once.
    must(session.events().first { it.type() == EventType.THINKING_TEXT }.text().isNotEmpty()) { "the first thought" }
    must(session.events().map { it.name() }.toList() == pulled) { "a flow that was left leaves the session as it was" }

    // What a collector throws, and what the library throws, come out of collect.
    try {
        session.events().collect { error("enough") }
        must(false) { "what a collector throws comes out" }
    } catch (e: IllegalStateException) {
        must(e.message == "enough") { "as it was: $e" }
    }
    session.clear()
    try {
        session.events().collect {}
        must(false) { "nothing to answer is told" }
    } catch (e: SkimstoneException.State) {
        must(e.kind() == "state") { "with its kind" }
    }
}

private suspend fun pausing(model: Model) = model.session(optionsOf("route" to "cot")).use { session ->
    session.append(QUESTION)
    session.events(Dispatchers.IO).collect { event ->
        if (event.type() == EventType.CHUNK_STARTED) {
            val before = session.inspect()
            delay(20.milliseconds)
            must(session.inspect() == before) { "nothing runs ahead of the collector" }
        }
    }
}

private suspend fun cancelling(model: Model) = model.session().use { session ->
    session.appendTokens(*IntArray(400) { 25 })
    var stopped = 0
    for (wait in listOf(0, 0, 1, 2, 5, 10, 20)) {
        coroutineScope {
            val job = launch { session.events().collect {} }
            delay(wait.milliseconds)
            job.cancel()
            job.join()
            if (job.isCancelled) stopped++
        }
        // The work has ended with the collection: no call of it runs any more.
        session.get("route")
    }
    must(stopped > 0) { "a coroutine that is cancelled stops" }
    session.clear().append(QUESTION)
    must(session.await().string("finish_reason") == "stop") { "and the session goes on" }
    var last: Event? = null
    session.set("route", "cot").events().collect {
        if (it.type() == EventType.THINKING_TEXT) session.cancel()
        last = it
    }
    must(last?.string("finish_reason") == "cancelled") { "a cancel of the session gives what is there" }
}

/** Suspended while a coroutine collects, and collected to the end from the file, as a process of later does. */
private suspend fun suspending(model: Model) = model.session(optionsOf("route" to "cot")).use { session ->
    val file = File.createTempFile("question", ".skim")
    val expected = session.append(QUESTION).await().text()
    val last = session.events().onEach { if (it.type() == EventType.CHUNK_STARTED) session.enterBackground(file.path, 1.minutes) }.last()
    must(last.string("finish_reason") == "suspended") { "the app left the screen: $last" }
    model.session(optionsOf("route" to "cot")).use { later ->
        val flow = later.resumed(file.path)
        repeat(2) { must(flow.last().text() == expected) { "each collection goes on from the file" } }
        must(later.resumed(file.path).first().type() == EventType.STARTED) { "from the start again" }
        try {
            later.resumed("/nowhere").collect {}
            must(false) { "a missing file is told" }
        } catch (e: SkimstoneException.File) {
            must(e.place() == "/nowhere") { "with its place: ${e.message}" }
        }
    }
    must(file.delete()) { "the file was written" }
}

private suspend fun sharing(model: Model) = coroutineScope {
    val answers = List(8) {
        async(Dispatchers.Default) {
            model.session(optionsOf("route" to "skip")).use { session -> session.append(QUESTION).await().text() }
        }
    }.awaitAll()
    must(answers.toSet().size == 1) { "coroutines do not disturb each other: $answers" }
}

fun main(arguments: Array<String>) {
    runBlocking {
        Model.open(arguments[0], optionsOf("threads" to 2)).use { model ->
            flows(model)
            pausing(model)
            cancelling(model)
            suspending(model)
            sharing(model)
        }
    }
    try {
        optionsOf("route" to listOf("skip"))
        must(false) { "a list is no value" }
    } catch (e: CancellationException) {
        throw e
    } catch (e: IllegalArgumentException) {
        println("all laws hold")
    }
}
