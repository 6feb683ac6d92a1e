import CSkimstone

/// The address of an object of the library, freed with the last reference to it.
///
/// Unchecked, because Swift cannot see what skimstone.h promises: bundles, models, events and cancel handles may be used from any
/// thread, several at once; a session refuses a second call while one runs (SKIM_STATUS_BUSY), so that sharing it is an error but
/// never a race. The pointer itself never changes. It is freed by any thread, once no other has a reference.
final class Handle: @unchecked Sendable {
    let pointer: OpaquePointer
    private let free: @Sendable (OpaquePointer) -> Void

    init(_ pointer: OpaquePointer, free: @escaping @Sendable (OpaquePointer) -> Void) {
        self.pointer = pointer
        self.free = free
    }

    deinit {
        free(pointer)
    }
}

typealias ErrorOut = UnsafeMutablePointer<OpaquePointer?>

/// Makes a call that ends in `error`; a status below 0 is thrown.
@discardableResult
func call(_ body: (ErrorOut) -> Int32) throws(SkimstoneError) -> Int32 {
    var error: OpaquePointer?
    let status = body(&error)
    if status < 0 {
        defer { skim_error_free(error) }
        throw SkimstoneError(status: status, error: error)
    }
    return status
}

/// Makes a call that gives an object.
func make(
    free: @escaping @Sendable (OpaquePointer) -> Void,
    _ body: (UnsafeMutablePointer<OpaquePointer?>, ErrorOut) -> Int32
) throws(SkimstoneError) -> Handle {
    var pointer: OpaquePointer?
    try call { error in body(&pointer, error) }
    guard let pointer else { throw SkimstoneError(status: SKIM_STATUS_OTHER, error: nil) }
    return Handle(pointer, free: free)
}

/// Makes a call that gives a string.
func string(_ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>, ErrorOut) -> Int32) throws(SkimstoneError) -> String {
    var text: UnsafeMutablePointer<CChar>?
    try call { error in body(&text, error) }
    defer { skim_string_free(text) }
    return text.map { String(cString: $0) } ?? ""
}

/// A name, path or value, which ends in a NUL on the other side.
func checked(_ name: String) throws(SkimstoneError) -> String {
    if name.utf8.contains(0) {
        throw SkimstoneError(status: SKIM_STATUS_INVALID_ARGUMENT, kind: "argument", message: "a name, path or value has a NUL in it; take it out")
    }
    return name
}

/// The bytes of a text with their length; a NUL is one of them.
func withBytes<Result>(_ text: String, _ body: (UnsafePointer<CChar>, Int) -> Result) -> Result {
    var text = text
    return text.withUTF8 { bytes in
        // An empty text has no address, and the library wants one.
        guard let base = bytes.baseAddress, !bytes.isEmpty else { return body("", 0) }
        return base.withMemoryRebound(to: CChar.self, capacity: bytes.count) { body($0, bytes.count) }
    }
}
