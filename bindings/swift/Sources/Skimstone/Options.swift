import CSkimstone

/// A value of a setting: a number, `true` or `false`, a text, or JSON where the bounds say so. Literals are values.
public struct Setting: Equatable, Sendable, ExpressibleByStringLiteral, ExpressibleByIntegerLiteral, ExpressibleByFloatLiteral,
    ExpressibleByBooleanLiteral
{
    let text: String

    public init(_ text: String) { self.text = text }
    public init(_ number: Int) { text = String(number) }
    public init(_ number: Double) { text = String(number) }
    public init(_ bool: Bool) { text = String(bool) }
    public init(stringLiteral text: String) { self.init(text) }
    public init(integerLiteral number: Int) { self.init(number) }
    public init(floatLiteral number: Double) { self.init(number) }
    public init(booleanLiteral bool: Bool) { self.init(bool) }
}

/// Settings by name, for what is opened or made next. A call that takes options uses the settings that concern it.
///
///     let options: Options = ["max_bytes": 64_000_000, "route": "skip"]
///
/// They are checked by the call that takes them; `bounds` lists them.
public struct Options: Equatable, Sendable, ExpressibleByDictionaryLiteral {
    private var values: [String: Setting] = [:]

    public init() {}

    public init(dictionaryLiteral elements: (String, Setting)...) {
        for (key, value) in elements { values[key] = value }
    }

    public subscript(key: String) -> Setting? {
        get { values[key] }
        set { values[key] = newValue }
    }

    /// Every setting, with its type, bounds, default and unit, as JSON.
    public static func bounds() throws(SkimstoneError) -> String {
        try string { skim_options_get_bounds(nil, $0, $1) }
    }

    func handle() throws(SkimstoneError) -> Handle {
        let options = try make(free: { skim_options_free($0) }) { skim_options_new($0, $1) }
        // In one order, so that of two faults it is always the same that is told.
        for (key, value) in values.sorted(by: { $0.key < $1.key }) {
            let (key, text) = (try checked(key), try checked(value.text))
            try call { skim_options_set(options.pointer, key, text, $0) }
        }
        return options
    }
}
