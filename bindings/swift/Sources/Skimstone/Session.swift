import CSkimstone
import Dispatch

/// One conversation: what was appended, and the keys and values that the model computed for it.
///
/// For one task at a time: a second call while one runs throws `SkimstoneError` of the status `busy` and does nothing. `cancel`, and what
/// the system tells an app (`memoryWarning`, `enterBackground`, `enterForeground`), may be called from anywhere at any time. `nextEvent` and `generate` compute on the calling thread; `ask` and `answer` on
/// a thread of the session's own, and so never block an actor.
public final class Session: Sendable {
    private let handle: Handle
    private let canceller: Handle
    private let queue = DispatchQueue(label: "skimstone.session")

    init(_ handle: Handle) throws(SkimstoneError) {
        self.handle = handle
        canceller = try make(free: { skim_cancel_free($0) }) { skim_session_cancel_handle(handle.pointer, $0, $1) }
    }

    /// Sets how the next question is answered; nil is the default. See `bounds`.
    @discardableResult
    public func set(_ key: String, _ value: Setting?) throws(SkimstoneError) -> Session {
        let key = try checked(key)
        if let value {
            let text = try checked(value.text)
            try call { skim_session_set_param(handle.pointer, key, text, $0) }
        } else {
            try call { skim_session_set_param(handle.pointer, key, nil, $0) }
        }
        return self
    }

    /// The value of `key` as JSON; "null" where nothing was set and there is no default.
    public func value(_ key: String) throws(SkimstoneError) -> String {
        let key = try checked(key)
        return try string { skim_session_get_param(handle.pointer, key, $0, $1) }
    }

    /// What may be set, as JSON.
    public func bounds() throws(SkimstoneError) -> String {
        try string { skim_session_get_bounds(handle.pointer, nil, $0, $1) }
    }

    /// Appends text to the prompt; it stays until `clear`.
    @discardableResult
    public func append(_ text: String) throws(SkimstoneError) -> Session {
        try call { error in withBytes(text) { skim_session_append_text(handle.pointer, $0, $1, error) } }
        return self
    }

    /// Appends tokens, as they are.
    @discardableResult
    public func append(tokens: [UInt32]) throws(SkimstoneError) -> Session {
        try call { skim_session_append_tokens(handle.pointer, tokens, tokens.count, $0) }
        return self
    }

    /// Appends a message of "system", "user", "assistant" or "tool", for the model's chat template.
    @discardableResult
    public func append(role: String, content: String) throws(SkimstoneError) -> Session {
        let role = try checked(role)
        try call { error in withBytes(content) { skim_session_append_message(handle.pointer, role, $0, $1, error) } }
        return self
    }

    /// Forgets what was appended. Keys and values stay for what the next prompt may share.
    public func clear() throws(SkimstoneError) {
        try call { skim_session_clear(handle.pointer, $0) }
    }

    /// The events of one question, as they happen; every loop over them asks anew.
    ///
    ///     for try await event in session.ask() { … }
    ///
    /// Nothing is computed but while the loop waits for an event: to hesitate is to pause, to leave the loop is to stop. Where the
    /// task is cancelled the work ends within one layer of one step, and the loop throws `CancellationError`; after
    /// `Session.cancel` it ends with a finished event instead, whose finish reason is "cancelled".
    public func ask() -> Events {
        Events(session: self, path: nil)
    }

    /// Goes on with the question in a file that `save` or `enterBackground` wrote, in this process or another, as if it had not been
    /// interrupted: its events, from the start again. Every loop over them goes on from the file anew.
    ///
    /// The settings must be those of the question; time limits begin anew. The loop throws where the file does not fit or has no
    /// question, and the session stays as it was. What was appended is not touched. Otherwise as `ask`.
    public func resume(from path: String) -> Events {
        Events(session: self, path: path)
    }

    /// Answers what was appended; the finished event.
    public func answer() async throws -> Event {
        var finished: Event?
        for try await event in ask() { finished = event }
        guard let finished else { throw SkimstoneError(status: SKIM_STATUS_STATE, kind: "state", message: "another call began a question meanwhile") }
        return finished
    }

    /// Stops the work: the question finishes with what it has. Without a question it does nothing. From any thread.
    public func cancel() {
        skim_cancel_trigger(canceller.pointer)
    }

    /// A second session in the same state, which shares the keys and values. A question that is being answered stays here.
    public func fork() throws(SkimstoneError) -> Session {
        try Session(make(free: { skim_session_free($0) }) { skim_session_fork(handle.pointer, $0, $1) })
    }

    /// Writes what was read so far to a file that appears whole or not at all.
    public func save(to path: String) throws(SkimstoneError) {
        let path = try checked(path)
        try call { skim_session_save(handle.pointer, path, $0) }
    }

    /// Goes on from such a file, in a session of `reuse_prefix`; a file that does not fit leaves the session as it was.
    public func restore(from path: String) throws(SkimstoneError) {
        let path = try checked(path)
        try call { skim_session_restore(handle.pointer, path, $0) }
    }

    /// Position, context, and counts of what was computed, as JSON.
    public func inspect() throws(SkimstoneError) -> String {
        try string { skim_session_inspect(handle.pointer, $0, $1) }
    }

    // MARK: What the system tells an app

    /// For a memory warning: between questions the session gives all its memory back, which the next question reserves again; within one,
    /// what that needs no more, at its next step. Answers do not change.
    public func memoryWarning() throws(SkimstoneError) {
        try call { skim_session_memory_warning(handle.pointer, $0) }
    }

    /// The app leaves the screen: the question ends at the end of its chunk of thinking, or after the grace at its next step, with the
    /// finish reason "suspended", and is in the file at `path` for `resume`.
    ///
    /// Where no thread works on the session, the file is written before this returns, in case that the loop is never reached again.
    /// Where it cannot be written, the loop throws, and the question stays.
    public func enterBackground(savingTo path: String, graceMilliseconds: UInt32) throws(SkimstoneError) {
        let path = try checked(path)
        try call { skim_session_enter_background(handle.pointer, path, graceMilliseconds, $0) }
    }

    /// The app is back: a question that was not suspended yet goes on.
    public func enterForeground() throws(SkimstoneError) {
        try call { skim_session_enter_foreground(handle.pointer, $0) }
    }

    // MARK: On the calling thread

    /// Begins to answer what was appended; pull with `nextEvent`. A question that was not answered to its end is dropped.
    public func begin() throws(SkimstoneError) {
        try call { skim_session_begin(handle.pointer, $0) }
    }

    /// What came of a pull.
    public enum Pull: Sendable {
        case event(Event)
        /// The time was over before anything happened; pull again to go on.
        case timeout
        /// There was a finished event before, or no question.
        case end
    }

    /// Works until something happens. With a timeout it gives up at the first step after it; at least one step is taken.
    public func pull(timeoutMilliseconds: Int32? = nil) throws(SkimstoneError) -> Pull {
        var event: OpaquePointer?
        let status = try call { skim_session_next_event(handle.pointer, max(timeoutMilliseconds ?? -1, -1), &event, $0) }
        if status == SKIM_STATUS_TIMEOUT { return .timeout }
        guard let event else { return .end }
        return .event(Event(Handle(event, free: { skim_event_free($0) })))
    }

    /// Works until something happens, and tells it; nil after the finished event.
    public func nextEvent() throws(SkimstoneError) -> Event? {
        if case .event(let event) = try pull() { return event }
        return nil
    }

    // MARK: On the session's thread

    /// What comes before the first event: `begin`, or the question of a file.
    fileprivate func begin(from path: String?) throws(SkimstoneError) {
        guard let path else { return try begin() }
        let checkedPath = try checked(path)
        try call { skim_session_resume(handle.pointer, checkedPath, $0) }
    }

    /// `begin` if asked to, and `nextEvent`.
    fileprivate func next(beginning: Bool, from path: String?) async throws -> Event? {
        // Before the question begins, a cancel would be taken back by it.
        try Task.checkCancellation()
        let event = try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                queue.async {
                    continuation.resume(with: Result {
                        if beginning { try self.begin(from: path) }
                        return try self.nextEvent()
                    })
                }
            }
        } onCancel: {
            cancel()
        }
        try Task.checkCancellation()
        return event
    }
}

/// The events of one question.
public struct Events: AsyncSequence, Sendable {
    public typealias Element = Event

    fileprivate let session: Session
    /// Of the file that the question is in; nil for what was appended.
    fileprivate let path: String?

    public func makeAsyncIterator() -> Iterator {
        Iterator(session: session, path: path)
    }

    public struct Iterator: AsyncIteratorProtocol {
        fileprivate let session: Session
        private let path: String?
        private var begun = false
        private var ended = false

        fileprivate init(session: Session, path: String?) {
            self.session = session
            self.path = path
        }

        public mutating func next() async throws -> Event? {
            if ended { return nil }
            let beginning = !begun
            begun = true
            ended = true
            let event = try await session.next(beginning: beginning, from: path)
            ended = event == nil
            return event
        }
    }
}
