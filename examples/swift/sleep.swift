// A small student reasons about one night of sleep, by every route that it was trained for: examples/sleep.rs in Swift.
//
//   swift run --package-path ../bindings/swift Sleep students/sleep.skim nights/tuesday.json "How efficient was my sleep?"
import Foundation
import Skimstone

func run(student: String, night: String, question: String) async throws {
    let night = try String(contentsOfFile: night, encoding: .utf8)
    let session = try Model(path: student).session()
    try session.append(Library.sleepPrompt(night: night, question: question))
    for route in ["direct", "skip", "cot"] {
        print(route)
        try session.set("route", Setting(route))
        for try await event in session.ask() {
            switch event.kind {
            case .chunkStarted: print("   - ", terminator: "")
            case .thinkingText: print(event.text, terminator: "")
            case .chunkFinished: print()
            case .finished: print("   => \(event.text)\n   \(Int(try event.number("usage.generated_tokens"))) tokens")
            default: break  // Events may be added.
            }
        }
    }
}

@main
struct Sleep {
    static func main() async {
        let arguments = CommandLine.arguments
        guard arguments.count == 4 else { return fail("usage: \(arguments[0]) STUDENT.skim NIGHT.json QUESTION") }
        do {
            try await run(student: arguments[1], night: arguments[2], question: arguments[3])
        } catch {
            fail("error: \(error)")
        }
    }

    static func fail(_ message: String) {
        FileHandle.standardError.write(Data((message + "\n").utf8))
        exit(2)
    }
}
