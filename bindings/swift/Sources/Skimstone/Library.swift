import CSkimstone

/// What concerns the whole library.
public enum Library {
    /// Refuses a library that does not fit the header that this was compiled with. No other call needs it.
    public static func check() throws(SkimstoneError) {
        try call { skim_init(UInt32(SKIM_ABI_VERSION), $0) }
    }

    /// The version of the library.
    public static var version: String { String(cString: skim_version()) }

    /// Bytes that the library has on its heap: now, and at most since it was loaded.
    public static func allocated() throws(SkimstoneError) -> (live: UInt64, peak: UInt64) {
        var (live, peak): (UInt64, UInt64) = (0, 0)
        try call { skim_memory_allocated(&live, &peak, $0) }
        return (live, peak)
    }

    public enum LogLevel: Int32, Sendable {
        case off, error, warn, info, debug, trace
    }

    /// Sends the log from `level` on to `sink`, instead of wherever it went before. It is called from any thread, several at once.
    public static func setLog(_ level: LogLevel, sink: @escaping @Sendable (LogLevel, _ target: String, _ message: String) -> Void)
        throws(SkimstoneError)
    {
        let box = Unmanaged.passRetained(Sink(sink)).toOpaque()
        try call {
            skim_log_set(
                level.rawValue,
                { level, target, message, box in
                    guard let box, let target, let message else { return }
                    let sink = Unmanaged<Sink>.fromOpaque(box).takeUnretainedValue()
                    sink.sink(LogLevel(rawValue: level) ?? .trace, String(cString: target), String(cString: message))
                },
                box,
                // The library's word for "no longer needed", also where the call fails.
                { box in box.map { Unmanaged<Sink>.fromOpaque($0).release() } },
                $0)
        }
    }

    /// Tells nothing any more.
    public static func clearLog() throws(SkimstoneError) {
        try call { skim_log_set(SKIM_LOG_OFF, nil, nil, nil, $0) }
    }

    /// The prompt of a sleep student, of a night as JSON and a question. Experimental: may change in any version.
    public static func sleepPrompt(night: String, question: String) throws(SkimstoneError) -> String {
        try string { text, error in
            withBytes(night) { night, nightLength in
                withBytes(question) { question, questionLength in
                    skim_x_sleep_prompt(night, nightLength, question, questionLength, text, error)
                }
            }
        }
    }

    private final class Sink: Sendable {
        let sink: @Sendable (LogLevel, String, String) -> Void

        init(_ sink: @escaping @Sendable (LogLevel, String, String) -> Void) {
            self.sink = sink
        }
    }
}
