// What is the Swift binding's own: tasks, errors, owners. SKIMSTONE_STUDENT is the path of the student in examples/.
import Foundation
import Skimstone
import Testing

let student = ProcessInfo.processInfo.environment["SKIMSTONE_STUDENT"] ?? "../../examples/students/sleep.skim"
let question = "age 34. in bed 23:05, up 07:15.\nhow long was I in bed?"

@Suite struct SkimstoneTests {
    let model: Model

    init() throws {
        try Library.check()
        model = try Model(path: student, options: ["threads": 2])
    }

    func session(_ options: Options = Options()) throws -> Session {
        try model.session(options: options).append(question)
    }

    @Test func eventsBuildTheAnswer() async throws {
        var pieces = ""
        var last: Event?
        for try await event in try session(["route": "cot"]).ask() {
            if event.kind == .answerText { pieces += event.text }
            last = event
        }
        let finished = try #require(last)
        #expect(finished.kind == .finished && finished.name == "finished")
        #expect(!pieces.isEmpty && pieces == finished.text)
        #expect(try finished.number("usage.thinking_tokens") > 0)
        #expect(try finished.json.hasPrefix("{"))
    }

    @Test func callsAndTasksSayTheSame() async throws {
        let session = try session(["route": "skip"])
        let answer = try await session.answer().text
        try session.begin()
        var text = ""
        while let event = try session.nextEvent() { text = event.text }
        #expect(text == answer)
        // Each loop asks anew.
        let events = session.ask()
        for _ in 0..<2 {
            for try await event in events { text = event.text }
            #expect(text == answer)
        }
    }

    @Test func errorsAreTyped() throws {
        let path = "/nowhere/süß/😴"
        do {
            _ = try Model(path: path)
            Issue.record("a missing file is told")
        } catch {
            // Of the type SkimstoneError, without a cast.
            #expect(error.status == .io && error.kind == "io" && error.place == path)
            #expect(error.message.hasPrefix(path + ": "), "characters beyond the first plane come and go")
        }
        let session = try model.session()
        #expect(throws: SkimstoneError.self) { try session.set("route", "fast") }
        #expect(throws: SkimstoneError.self) { try session.set("rou\0te", "skip") }
        #expect(throws: SkimstoneError.self) { try Model(path: student, options: ["effort": "high"]) }
        #expect(throws: SkimstoneError.self) { try session.begin() }
        #expect(try model.tokenize("").isEmpty)
        try session.append("")
        #expect(throws: SkimstoneError.self) { try session.begin() }
    }

    @Test func settingsTakeLiterals() throws {
        let session = try model.session(options: ["temperature": 0.5, "seed": 7, "route": "direct", "reuse_prefix": true])
        #expect(try session.value("temperature") == "0.5")
        #expect(try session.value("seed") == "7")
        try session.set("temperature", nil)
        #expect(try session.value("temperature") == "0.0")
        #expect(try session.set("stop", #"["\n\n"]"#).value("stop") == #"["\n\n"]"#)
    }

    @Test func aCancelledTaskStops() async throws {
        // A prompt of this length takes long enough to be cancelled in.
        let session = try model.session().append(tokens: Array(repeating: 25, count: 400))
        var stopped = 0
        for delay in [0, 0, 1, 2, 5] as [UInt64] {
            let task = Task {
                var count = 0
                for try await _ in session.ask() { count += 1 }
                return count
            }
            try await Task.sleep(nanoseconds: delay * 1_000_000)
            task.cancel()
            switch await task.result {
            case .success: break  // It was over before.
            case .failure(let error):
                #expect(error is CancellationError, "\(error)")
                stopped += 1
            }
        }
        #expect(stopped > 0)
        // Cancelled before it began, it does nothing.
        let never = Task {
            withUnsafeCurrentTask { $0?.cancel() }
            for try await _ in session.ask() { Issue.record("an event after the cancel") }
        }
        await #expect(throws: CancellationError.self) { try await never.value }
        // And the session goes on.
        try session.clear()
        #expect(try await session.append(question).answer().string("finish_reason") == "stop")
    }

    @Test func cancelGivesWhatIsThere() async throws {
        let session = try session(["route": "cot"])
        var last: Event?
        for try await event in session.ask() {
            if event.kind == .thinkingText { session.cancel() }
            last = event
        }
        #expect(try last?.string("finish_reason") == "cancelled")
    }

    @Test func aQuestionIsSuspendedAndGoesOn() async throws {
        let expected = try await session(["route": "cot"]).answer().text
        let path = NSTemporaryDirectory() + "skimstone-question-\(ProcessInfo.processInfo.processIdentifier)"
        defer { try? FileManager.default.removeItem(atPath: path) }
        let session = try session(["route": "cot"])
        var last: Event?
        for try await event in session.ask() {
            if event.kind == .chunkStarted { try session.enterBackground(savingTo: path, graceMilliseconds: 60_000) }
            last = event
        }
        #expect(try last?.string("finish_reason") == "suspended")
        // As in a process of later; every loop goes on from the file anew.
        let events = try model.session(options: ["route": "cot"]).resume(from: path)
        for _ in 0..<2 {
            for try await event in events { last = event }
            #expect(last?.text == expected)
        }
        do {
            for try await _ in session.resume(from: "/nowhere") {}
            Issue.record("a missing file is told")
        } catch {
            #expect((error as? SkimstoneError)?.place == "/nowhere", "\(error)")
        }
        await #expect(throws: SkimstoneError.self) { for try await _ in session.resume(from: "/no\0where") {} }
        // The next question takes the request back.
        #expect(try await session.answer().text == expected)
    }

    @Test func theSystemIsHeard() async throws {
        // A model of its own: the others are not hot.
        let model = try Model(path: student)
        let session = try model.session(options: ["route": "cot"]).append(question)
        _ = try await session.answer()
        let before = try model.memoryUsed()
        try session.memoryWarning()
        #expect(try model.memoryUsed() < before)
        for level in ThermalLevel.allCases {
            try model.setThermal(level)
            #expect(try model.inspect().contains("\"thermal\":\"\(level)\""))
        }
        #expect(try await session.answer().string("route") == "direct")
        try session.enterForeground()
    }

    @Test func tasksShareAModel() async throws {
        let expected = try await session(["route": "skip"]).answer().text
        let texts = try await withThrowingTaskGroup(of: String.self) { group in
            for _ in 0..<8 {
                let session = try session(["route": "skip"])
                group.addTask {
                    let fork = try session.fork()
                    async let second = fork.answer().text
                    let first = try await session.answer().text
                    #expect(try await second == first)
                    return first
                }
            }
            return try await group.reduce(into: []) { $0.append($1) }
        }
        #expect(texts == Array(repeating: expected, count: 8))
    }

    @Test func aBusySessionSaysSo() async throws {
        let session = try model.session().append(tokens: Array(repeating: 25, count: 400))
        try session.begin()
        /// Pulls to the end; the status of the error that stopped it.
        @Sendable func drain() -> SkimstoneError.Status? {
            do throws(SkimstoneError) {
                while try session.nextEvent() != nil {}
                return nil
            } catch {
                return error.status
            }
        }
        await withTaskGroup(of: SkimstoneError.Status?.self) { group in
            for _ in 0..<4 { group.addTask { drain() } }
            for await status in group { #expect(status == nil || status == .busy) }
        }
    }

    @Test func memoryComesBack() async throws {
        _ = try await session().answer()
        try model.trimMemory()
        let before = try model.memoryUsed()
        for _ in 0..<20 {
            let session = try session()
            for try await _ in session.ask() { break }
            _ = try session.fork()
        }
        try model.trimMemory()
        #expect(try model.memoryUsed() == before)
    }
}

@Suite(.serialized) struct LogTests {
    final class Lines: @unchecked Sendable {
        private let lock = NSLock()
        private var lines: [String] = []
        func add(_ line: String) { lock.withLock { lines.append(line) } }
        var count: Int { lock.withLock { lines.count } }
    }

    @Test func theLogIsTold() throws {
        var lines: Lines? = Lines()
        weak var watch = lines
        try Library.setLog(.info) { [lines] _, target, message in lines?.add("\(target): \(message)") }
        _ = try Model(path: student).session()
        #expect(lines!.count > 0)
        try Library.clearLog()
        lines = nil
        #expect(watch == nil, "a sink that was replaced is let go")
    }
}
