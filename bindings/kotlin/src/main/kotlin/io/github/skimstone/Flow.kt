package io.github.skimstone

import java.util.concurrent.TimeUnit
import java.util.concurrent.atomic.AtomicBoolean
import kotlin.time.Duration
import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.last
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/**
 * The events of one question, computed on [dispatcher]; every collection asks anew.
 *
 * Nothing runs ahead of the collector, which may use the session meanwhile: to hesitate is to pause, to take no more is to stop.
 * Where the collecting coroutine is cancelled, the work stops within one layer of one step, and the collection ends only once it
 * did, so that the session can be used at once.
 * After [Session.cancel] the flow ends with a finished event instead, whose finish reason is "cancelled".
 *
 * One collection of a session at a time; a second one meanwhile throws [SkimstoneException.Busy] or takes its events.
 */
public fun Session.events(dispatcher: CoroutineDispatcher = Dispatchers.Default): Flow<Event> = events(dispatcher) { begin() }

/**
 * The events of the question in a file that [Session.save] or [Session.enterBackground] wrote, from the start again; every collection
 * goes on from the file anew. As [events] otherwise; see [Session.resume].
 */
public fun Session.resumed(path: String, dispatcher: CoroutineDispatcher = Dispatchers.Default): Flow<Event> =
    // To ask for its iterator is to go on from the file.
    events(dispatcher) { resume(path).iterator() }

/** The app leaves the screen: the question ends as "suspended" within about [grace], and is in the file at [path] for [resumed]. */
public fun Session.enterBackground(path: String, grace: Duration): Unit =
    enterBackground(path, grace.inWholeMilliseconds, TimeUnit.MILLISECONDS)

private fun Session.events(dispatcher: CoroutineDispatcher, begin: () -> Unit): Flow<Event> = flow {
    work(dispatcher, begin)
    while (true) {
        emit(work(dispatcher) { nextEvent() } ?: break)
    }
}

/** A call on [dispatcher], which a cancel of the coroutine stops; in any case it is over when this returns. */
private suspend fun <T> Session.work(dispatcher: CoroutineDispatcher, call: () -> T): T = withContext(dispatcher) {
    val working = AtomicBoolean(true)
    // Unconfined: runs on the thread that cancels, whatever the others are busy with.
    val canceller = launch(Dispatchers.Unconfined) {
        try {
            awaitCancellation()
        } finally {
            if (working.get()) cancel()
        }
    }
    try {
        // From here on a cancel is seen by the one or the other.
        ensureActive()
        call()
    } finally {
        working.set(false)
        canceller.cancel()
    }
}

/** Answers what was appended, on [dispatcher]; the finished event. */
public suspend fun Session.await(dispatcher: CoroutineDispatcher = Dispatchers.Default): Event = events(dispatcher).last()

/** Settings by name: `optionsOf("route" to "skip", "max_bytes" to 64_000_000)`. Values are texts, numbers or booleans. */
public fun optionsOf(vararg settings: Pair<String, Any>): Options {
    val options = Options()
    for ((key, value) in settings) {
        require(value is String || value is Number || value is Boolean) { "the value of $key is a ${value::class}" }
        options.set(key, value.toString())
    }
    return options
}
