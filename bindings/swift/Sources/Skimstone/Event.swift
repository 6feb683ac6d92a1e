import CSkimstone

/// Something that happened while a question was answered. Immutable.
public final class Event: Sendable, CustomStringConvertible {
    /// Which event it is. Kinds may be added: a `switch` needs a default.
    public struct Kind: RawRepresentable, Equatable, Hashable, Sendable {
        public let rawValue: Int32

        public init(rawValue: Int32) {
            self.rawValue = rawValue
        }

        /// One that this version does not know; the event's `name` tells which.
        public static let other = Kind(rawValue: SKIM_EVENT_OTHER)
        /// A route was chosen; the prompt is read next. Fields: route, prompt_tokens.
        public static let started = Kind(rawValue: SKIM_EVENT_STARTED)
        /// A chunk of thinking begins. Field: index.
        public static let chunkStarted = Kind(rawValue: SKIM_EVENT_CHUNK_STARTED)
        /// Text of the thinking. Fields: text, ids.
        public static let thinkingText = Kind(rawValue: SKIM_EVENT_THINKING_TEXT)
        /// A chunk of thinking ended. Fields: index, tokens.
        public static let chunkFinished = Kind(rawValue: SKIM_EVENT_CHUNK_FINISHED)
        /// A latent step was taken. Field: index.
        public static let latentStep = Kind(rawValue: SKIM_EVENT_LATENT_STEP)
        /// Something was decided. Fields: choice, generated_tokens, milliseconds.
        public static let decision = Kind(rawValue: SKIM_EVENT_DECISION)
        /// Text of the answer. Fields: text, ids, logprobs: natural logarithms, one for each token.
        public static let answerText = Kind(rawValue: SKIM_EVENT_ANSWER_TEXT)
        /// The end. Fields: text, thinking, route, confidence, usage, finish_reason, decisions.
        public static let finished = Kind(rawValue: SKIM_EVENT_FINISHED)
    }

    private let handle: Handle

    init(_ handle: Handle) {
        self.handle = handle
    }

    public var kind: Kind { Kind(rawValue: skim_event_type(handle.pointer)) }

    /// Its name, such as "answer_text"; also of a kind that this version does not know.
    public var name: String {
        if kind == .other, let name = try? string("event") { return name }
        return String(cString: skim_event_name(handle.pointer))
    }

    /// The event's text, whole characters of it; of a finished event the whole answer. Empty where there is none.
    public var text: String {
        String(cString: skim_event_text(handle.pointer, nil))
    }

    /// The whole event: its name as "event", and its fields. Fields may be added.
    public var json: String {
        get throws(SkimstoneError) {
            var json: UnsafePointer<CChar>?
            try call { skim_event_json(handle.pointer, &json, $0) }
            return json.map { String(cString: $0) } ?? ""
        }
    }

    /// A number among the fields, such as "usage.generated_tokens"; true and false are 1 and 0.
    public func number(_ path: String) throws(SkimstoneError) -> Double {
        let path = try checked(path)
        var number = 0.0
        try call { skim_event_number(handle.pointer, path, &number, $0) }
        return number
    }

    /// A text among the fields, such as "route"; of other fields their JSON.
    public func string(_ path: String) throws(SkimstoneError) -> String {
        let path = try checked(path)
        return try Skimstone.string { skim_event_string(handle.pointer, path, $0, $1) }
    }

    public var description: String { (try? json) ?? name }
}
