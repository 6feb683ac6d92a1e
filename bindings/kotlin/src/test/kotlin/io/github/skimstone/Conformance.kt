package io.github.skimstone

import java.io.File
import java.io.FileDescriptor
import java.io.FileInputStream
import java.util.concurrent.TimeUnit
import java.util.concurrent.TimeoutException
import kotlin.time.Duration.Companion.milliseconds
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.asFlow
import kotlinx.coroutines.flow.onEach
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking

/** The steps of ffi/conformance/cases.json through Kotlin: questions by the flow. See the README there. */
private class Driver {
    var options: Options? = null
    lateinit var bundle: ModelBundle
    lateinit var model: Model
    lateinit var session: Session
    lateinit var forked: Session
    lateinit var cancelled: Session
    lateinit var event: Event

    /** Android's ParcelFileDescriptor has `fd`; plain Java keeps the number to itself. */
    private fun number(descriptor: FileDescriptor): Int =
        FileDescriptor::class.java.getDeclaredField("fd").apply { isAccessible = true }.getInt(descriptor)

    private fun next(milliseconds: Long): String = try {
        val next = if (milliseconds < 0) session.nextEvent() else session.nextEvent(milliseconds, TimeUnit.MILLISECONDS)
        next?.also { event = it }?.name() ?: "end"
    } catch (e: TimeoutException) {
        "timeout"
    }

    private suspend fun generate(cancelAt: Int): String {
        var count = 0
        event = session.events().onEach { if (++count == cancelAt) session.cancel() }.toList().last()
        return event.string("finish_reason")
    }

    private suspend fun names(flow: Flow<Event>): String {
        val events = flow.toList()
        event = events.last()
        return events.map { it.name() }.fold(listOf<String>()) { names, name -> if (names.lastOrNull() == name) names else names + name }
            .joinToString(" ")
    }

    private fun plain(number: Double): String = if (number % 1 == 0.0) number.toLong().toString() else number.toString()

    /** What came of a step; Unit for one that has nothing to show. */
    suspend fun step(what: String, a: String, b: String): Any = when (what) {
        "init" -> Native.initWith(a.toInt())
        "options.set" -> options = (options ?: Options()).set(a, b)
        "bundle.open" -> bundle = ModelBundle.open(a, options)
        "bundle.fd" -> FileInputStream(a).use { bundle = ModelBundle.open(number(it.fd), b.toLong(), 0, options) }
        "bundle.memory" -> {
            val bytes = File(a).readBytes()
            bundle = ModelBundle.copy(if (b == "0") bytes else bytes.copyOf(b.toInt()), options)
        }
        "bundle.estimate" -> bundle.estimate(1, options).let { if (it.anonymous() > 0) "file ${it.fileBacked()}" else "nothing" }
        "model.open" -> model = Model.open(a, options)
        "model.new" -> model = Model.of(bundle, options)
        "model.tokens" -> model.tokenize(a, false).size
        "model.thermal" -> model.setThermal(ThermalLevel.entries[a.toInt()])
        "model.free" -> model.close()
        "session.new" -> session = model.session(options)
        "session.fork" -> forked = session.fork()
        "session.swap" -> session = forked.also { forked = session }
        "session.save" -> session.save(a)
        "session.restore" -> session.restore(a)
        "session.free" -> session.close()
        "session.set" -> session[a] = b
        "session.unset" -> session.unset(a).let {}
        "session.get" -> session[a]
        "session.append" -> session.append(a).let {}
        "session.tokens" -> session.appendTokens(*IntArray(a.toInt()) { b.toUInt().toInt() }).let {}
        "session.message" -> session.appendMessage(a, b).let {}
        "session.clear" -> session.clear().let {}
        "session.begin" -> session.begin()
        "session.next" -> next(a.toLong())
        "session.generate" -> generate(a.toInt())
        "session.events" -> names(session.events())
        "session.rest" -> names(generateSequence { session.nextEvent() }.asFlow())
        "session.resume" -> names(session.resumed(a))
        "session.memory_warning" -> session.memoryWarning()
        "session.background" -> session.enterBackground(a, b.toLong().milliseconds)
        "session.foreground" -> session.enterForeground()
        "cancel.get" -> cancelled = session
        "cancel.trigger" -> cancelled.cancel()
        "event.text" -> event.text()
        "event.number" -> plain(event.number(a))
        "event.string" -> event.string(a)
        else -> "unknown step $what"
    }
}

fun main(): Unit = runBlocking {
    var driver = Driver()
    for (line in generateSequence(::readLine)) {
        val words = line.split('\t').map { it.replace("\\n", "\n") } + listOf("", "")
        val result = try {
            if (words[0] == "reset") driver = Driver() else driver.step(words[0], words[1], words[2]).takeUnless { it == Unit } ?: "ok"
        } catch (e: SkimstoneException) {
            "error ${e.status()} ${e.kind()}"
        }
        println((if (result == Unit) "ok" else result.toString()).replace("\n", "\\n"))
    }
}
