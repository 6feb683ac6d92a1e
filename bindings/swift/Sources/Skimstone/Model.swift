import CSkimstone

/// Bytes that a model and its sessions will take.
public struct Estimate: Equatable, Sendable {
    /// Mapped from the file: the system may drop and read it again.
    public let fileBacked: UInt64
    /// What the app is charged for, and `max_bytes` limits.
    public let anonymous: UInt64
}

/// An open bundle: one file with weights, configuration and tokenizer, looked at before anything is loaded. Immutable. Foundation has
/// a `Bundle` already.
public final class ModelBundle: Sendable {
    let handle: Handle

    /// Opens the file at `path`, which must not be changed in place while it is open; replacing it by a rename is fine.
    public init(path: String, options: Options = Options()) throws(SkimstoneError) {
        let (path, options) = (try checked(path), try options.handle())
        handle = try make(free: { skim_bundle_free($0) }) { skim_bundle_open(path, options.pointer, $0, $1) }
    }

    /// Opens a part of an open file, from a multiple of 64 on; a length of 0 goes to its end. The descriptor stays the caller's.
    public init(descriptor: Int32, offset: UInt64 = 0, length: UInt64 = 0, options: Options = Options()) throws(SkimstoneError) {
        let options = try options.handle()
        handle = try make(free: { skim_bundle_free($0) }) {
            skim_bundle_open_fd(descriptor, offset, length, options.pointer, $0, $1)
        }
    }

    /// Copies the bytes of a bundle.
    public init(copying bytes: UnsafeRawBufferPointer, options: Options = Options()) throws(SkimstoneError) {
        let options = try options.handle()
        handle = try make(free: { skim_bundle_free($0) }) {
            skim_bundle_open_memory(bytes.baseAddress, bytes.count, nil, nil, options.pointer, $0, $1)
        }
    }

    /// What the bundle holds, as JSON.
    public func inspect() throws(SkimstoneError) -> String {
        try string { skim_bundle_inspect(handle.pointer, $0, $1) }
    }

    /// The memory that a model of this bundle and so many sessions will take, before anything of it is taken.
    public func estimate(sessions: UInt32 = 1, options: Options = Options()) throws(SkimstoneError) -> Estimate {
        let options = try options.handle()
        var (file, anonymous): (UInt64, UInt64) = (0, 0)
        try call { skim_bundle_estimate(handle.pointer, options.pointer, sessions, &file, &anonymous, $0) }
        return Estimate(fileBacked: file, anonymous: anonymous)
    }
}

/// How hot the device is: the hotter, the less effort goes into a question. The raw values are those of `ProcessInfo.ThermalState`.
public enum ThermalLevel: Int32, CaseIterable, Sendable {
    /// Not hot: everything as asked.
    case nominal = 0
    /// Warm.
    case fair = 1
    /// Hot.
    case serious = 2
    /// About to be stopped by the system.
    case critical = 3
}

/// A model: immutable, used by any number of sessions and tasks at once.
public final class Model: Sendable {
    private let handle: Handle

    /// Opens the bundle at `path` and makes its model. Reads the file: not for the main actor.
    public init(path: String, options: Options = Options()) throws(SkimstoneError) {
        let (path, options) = (try checked(path), try options.handle())
        handle = try make(free: { skim_model_free($0) }) { skim_model_open(path, options.pointer, $0, $1) }
    }

    /// Makes a model of an open bundle.
    public init(_ bundle: ModelBundle, options: Options = Options()) throws(SkimstoneError) {
        let options = try options.handle()
        handle = try make(free: { skim_model_free($0) }) { skim_model_new(bundle.handle.pointer, options.pointer, $0, $1) }
    }

    /// A new session: reserves the keys and values of its whole context.
    public func session(options: Options = Options()) throws(SkimstoneError) -> Session {
        let options = try options.handle()
        return try Session(make(free: { skim_session_free($0) }) { skim_session_new(handle.pointer, options.pointer, $0, $1) })
    }

    /// The bundle, and how it runs, as JSON.
    public func inspect() throws(SkimstoneError) -> String {
        try string { skim_model_inspect(handle.pointer, $0, $1) }
    }

    /// Anonymous bytes that the model and its sessions have booked.
    public func memoryUsed() throws(SkimstoneError) -> UInt64 {
        var bytes: UInt64 = 0
        try call { skim_model_memory_used(handle.pointer, &bytes, $0) }
        return bytes
    }

    /// Says how hot the device is; it is `nominal` until then. When it is hot, thinking is shorter and goes by cheaper routes, also in
    /// questions that are being answered, and answers get worse; the finished event says what was cut. From any thread.
    public func setThermal(_ level: ThermalLevel) throws(SkimstoneError) {
        try call { skim_model_set_thermal(handle.pointer, level.rawValue, $0) }
    }

    /// Gives what freed sessions left for new ones back to the system: for a memory warning, besides `Session.memoryWarning` for each.
    public func trimMemory() throws(SkimstoneError) {
        try call { skim_model_trim_memory(handle.pointer, $0) }
    }

    /// The tokens of a text; with those that the tokenizer puts around a text, if `addSpecial`.
    public func tokenize(_ text: String, addSpecial: Bool = false) throws(SkimstoneError) -> [UInt32] {
        // A token has at least one byte, but for the special ones around the text; for those the second round.
        var capacity = text.utf8.count + 8
        while true {
            var (tokens, count) = ([UInt32](repeating: 0, count: capacity), 0)
            try call { error in
                withBytes(text) { skim_model_tokenize(handle.pointer, $0, $1, addSpecial ? 1 : 0, &tokens, capacity, &count, error) }
            }
            if count <= capacity { return Array(tokens.prefix(count)) }
            capacity = count
        }
    }
}
