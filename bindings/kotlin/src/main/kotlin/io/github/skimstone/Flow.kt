package io.github.skimstone

import java.util.concurrent.TimeUnit
import kotlin.time.Duration
import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.buffer
import kotlinx.coroutines.flow.channelFlow
import kotlinx.coroutines.flow.last
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/**
 * The events of one question, computed on [dispatcher]; every collection asks anew.
 *
 * Nothing runs ahead of the collector: to hesitate is to pause. Where the collecting coroutine is cancelled, or takes no more, the
 * work stops within one layer of one step, and the collection ends only once it did, so that the session can be used at once.
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

private fun Session.events(dispatcher: CoroutineDispatcher, begin: () -> Unit): Flow<Event> = channelFlow {
    withContext(dispatcher) {
        begin()
        // Unconfined: runs on the thread that cancels, whatever the others are busy with.
        val canceller = launch(Dispatchers.Unconfined) {
            try {
                awaitCancellation()
            } finally {
                cancel()
            }
        }
        // From here on a cancel is seen by the one or the other.
        ensureActive()
        while (true) {
            send(nextEvent() ?: break)
        }
        canceller.cancel()
    }
}.buffer(Channel.RENDEZVOUS)

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
