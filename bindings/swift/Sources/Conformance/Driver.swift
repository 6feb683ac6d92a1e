// The steps of ffi/conformance/cases.json through the Swift binding. See the README there.
import CSkimstone
import Foundation
import Skimstone

struct Driver {
    var options = Options()
    var bundle: ModelBundle!
    var model: Model!
    var session: Session!
    var forked: Session!
    var cancelled: (() -> Void)!
    var event: Event!

    /// The ABI check, which the binding itself makes with the header's number only.
    func initialize(_ more: String) throws {
        var error: OpaquePointer?
        let status = skim_init(UInt32(SKIM_ABI_VERSION) + UInt32(more)!, &error)
        if status < 0 {
            defer { skim_error_free(error) }
            throw Refused(status: status, kind: String(cString: skim_error_kind(error)))
        }
    }

    struct Refused: Error {
        let status: Int32
        let kind: String
    }

    /// Options are checked where they are used; a bundle that is not there is refused after them.
    mutating func setOption(_ key: String, _ value: String) throws {
        var one = Options()
        one[key] = Setting(value)
        do {
            _ = try ModelBundle(path: "/nowhere", options: one)
        } catch {
            if error.status != .io { throw error }
        }
        options[key] = Setting(value)
    }

    mutating func openDescriptor(_ path: String, _ offset: String) throws {
        let file = FileHandle(forReadingAtPath: path)!
        defer { try? file.close() }
        bundle = try ModelBundle(descriptor: file.fileDescriptor, offset: UInt64(offset)!, options: options)
    }

    mutating func openMemory(_ path: String, _ length: Int) throws {
        let data = FileManager.default.contents(atPath: path)!
        let part = length == 0 ? data : data.prefix(length)
        bundle = try part.withUnsafeBytes { bytes in try ModelBundle(copying: bytes, options: options) }
    }

    mutating func next(_ milliseconds: Int32) throws -> String {
        switch try session.pull(timeoutMilliseconds: milliseconds < 0 ? nil : milliseconds) {
        case .event(let seen):
            event = seen
            return seen.name
        case .timeout: return "timeout"
        case .end: return "end"
        }
    }

    mutating func generate(_ cancelAt: Int) async throws -> String {
        var count = 0
        for try await seen in session.ask() {
            event = seen
            count += 1
            if count == cancelAt { session.cancel() }
        }
        return try event.string("finish_reason")
    }

    mutating func rest() throws -> String {
        var names: [String] = []
        while let seen = try session.nextEvent() {
            event = seen
            if names.last != seen.name { names.append(seen.name) }
        }
        return names.joined(separator: " ")
    }

    mutating func names(_ events: Events) async throws -> String {
        var names: [String] = []
        for try await seen in events {
            event = seen
            if names.last != seen.name { names.append(seen.name) }
        }
        return names.joined(separator: " ")
    }

    /// What came of a step; nil for one that has nothing to show.
    mutating func step(_ what: String, _ a: String, _ b: String) async throws -> String? {
        switch what {
        case "reset": self = Driver()
        case "init": try initialize(a)
        case "options.set": try setOption(a, b)
        case "bundle.open": bundle = try ModelBundle(path: a, options: options)
        case "bundle.fd": try openDescriptor(a, b)
        case "bundle.memory": try openMemory(a, Int(b)!)
        case "bundle.estimate":
            let bytes = try bundle.estimate(options: options)
            return bytes.anonymous > 0 ? "file \(bytes.fileBacked)" : "nothing"
        case "model.open": model = try Model(path: a, options: options)
        case "model.new": model = try Model(bundle, options: options)
        case "model.tokens": return String(try model.tokenize(a).count)
        case "model.thermal": try model.setThermal(ThermalLevel(rawValue: Int32(a)!)!)
        case "model.free": model = nil
        case "session.new": session = try model.session(options: options)
        case "session.fork": forked = try session.fork()
        case "session.swap": swap(&session, &forked)
        case "session.save": try session.save(to: a)
        case "session.restore": try session.restore(from: a)
        case "session.free": session = nil
        case "session.set": try session.set(a, Setting(b))
        case "session.unset": try session.set(a, nil)
        case "session.get": return try session.value(a)
        case "session.append": try session.append(a)
        case "session.tokens": try session.append(tokens: Array(repeating: UInt32(b)!, count: Int(a)!))
        case "session.message": try session.append(role: a, content: b)
        case "session.clear": try session.clear()
        case "session.begin": try session.begin()
        case "session.next": return try next(Int32(a)!)
        case "session.generate": return try await generate(Int(a)!)
        case "session.events": return try await names(session.ask())
        case "session.rest": return try rest()
        case "session.resume": return try await names(session.resume(from: a))
        case "session.memory_warning": try session.memoryWarning()
        case "session.background": try session.enterBackground(savingTo: a, graceMilliseconds: UInt32(b)!)
        case "session.foreground": try session.enterForeground()
        case "cancel.get":
            // The session itself cancels; a closure that holds it weakly is what outlives it.
            cancelled = { [weak session] in session?.cancel() }
        case "cancel.trigger": cancelled()
        case "event.text": return event.text
        case "event.number": return String(format: "%g", try event.number(a))
        case "event.string": return try event.string(a)
        default: return "unknown step \(what)"
        }
        return nil
    }
}

@main
struct Conformance {
    static func main() async throws {
        var driver = Driver()
        while let line = readLine() {
            var words = line.split(separator: "\t", omittingEmptySubsequences: false)
                .map { $0.replacingOccurrences(of: "\\n", with: "\n") }
            words += Array(repeating: "", count: max(0, 3 - words.count))
            let result: String
            do {
                result = try await driver.step(words[0], words[1], words[2]) ?? "ok"
            } catch let error as SkimstoneError {
                result = "error \(error.status.rawValue) \(error.kind)"
            } catch let error as Driver.Refused {
                result = "error \(error.status) \(error.kind)"
            }
            print(result.replacingOccurrences(of: "\n", with: "\\n"))
        }
    }
}
