import CSkimstone

/// Why a call failed.
public struct SkimstoneError: Error, Equatable, Sendable, CustomStringConvertible {
    /// One of SKIM_STATUS_… in skimstone.h. Statuses may be added.
    public struct Status: RawRepresentable, Equatable, Hashable, Sendable {
        public let rawValue: Int32

        public init(rawValue: Int32) {
            self.rawValue = rawValue
        }

        /// An argument is out of range, or not known.
        public static let invalidArgument = Status(rawValue: SKIM_STATUS_INVALID_ARGUMENT)
        /// A bug in the library; what was called can only be let go.
        public static let panic = Status(rawValue: SKIM_STATUS_PANIC)
        /// An earlier call ended in `panic`.
        public static let poisoned = Status(rawValue: SKIM_STATUS_POISONED)
        /// Another call on this session runs.
        public static let busy = Status(rawValue: SKIM_STATUS_BUSY)
        /// Not possible in the present state.
        public static let state = Status(rawValue: SKIM_STATUS_STATE)
        /// The library is of another ABI.
        public static let abi = Status(rawValue: SKIM_STATUS_ABI)
        /// The system refused to read or write.
        public static let io = Status(rawValue: SKIM_STATUS_IO)
        /// A file breaks the rules of its format.
        public static let format = Status(rawValue: SKIM_STATUS_FORMAT)
        /// The bytes are not those that were written.
        public static let checksum = Status(rawValue: SKIM_STATUS_CHECKSUM)
        /// A format version that this library does not know.
        public static let version = Status(rawValue: SKIM_STATUS_VERSION)
        /// A model family or option that this library does not implement.
        public static let unsupported = Status(rawValue: SKIM_STATUS_UNSUPPORTED)
        /// The model's chat template is missing, or refused the messages.
        public static let template = Status(rawValue: SKIM_STATUS_TEMPLATE)
        /// The model does not know the route.
        public static let unknownRoute = Status(rawValue: SKIM_STATUS_UNKNOWN_ROUTE)
        /// A token outside the vocabulary.
        public static let token = Status(rawValue: SKIM_STATUS_TOKEN)
        /// The prompt, or what must follow it, exceeds the context.
        public static let contextFull = Status(rawValue: SKIM_STATUS_CONTEXT_FULL)
        /// More memory would be needed than `max_bytes` allows or the system has.
        public static let memory = Status(rawValue: SKIM_STATUS_MEMORY)
    }

    public let status: Status
    /// The exact kind, such as "truncated". Kinds may be added.
    public let kind: String
    /// Where: a file, a tensor, a field; or empty. Part of the message.
    public let place: String
    /// For people: place, what happened, hint.
    public let message: String
    /// What can be done, or empty. Part of the message.
    public let hint: String

    public var description: String { message }

    init(status: Int32, kind: String, message: String) {
        self.status = Status(rawValue: status)
        self.kind = kind
        self.message = message
        place = ""
        hint = ""
    }

    /// `error` stays the caller's.
    init(status: Int32, error: OpaquePointer?) {
        self.status = Status(rawValue: status)
        kind = String(cString: skim_error_kind(error))
        place = String(cString: skim_error_place(error))
        message = String(cString: skim_error_message(error))
        hint = String(cString: skim_error_hint(error))
    }
}
