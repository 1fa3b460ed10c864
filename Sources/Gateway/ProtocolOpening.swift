internal import RaftCore

/// Tells Redis and HTTP from the other protocols of a port by a connection's first bytes.
enum ProtocolOpening {
    /// How HTTP/1 begins. A Redis inline command may begin with GET too, but hardly goes on with a slash.
    private static let http = [
        "GET /", "HEAD ", "POST ", "PUT ", "DELETE ", "OPTIONS ", "PATCH ", "TRACE ", "CONNECT ",
    ].map { Array($0.utf8) }
    /// How the others begin, HTTP/2 among them.
    private static let others = http + ["PRPC", "PRI "].map { Array($0.utf8) }

    /// Whether `bytes` begin a conversation in HTTP/1; nil: more bytes are needed to tell.
    static func isHttp(_ bytes: Bytes) -> Bool? {
        guard !bytes.isEmpty else { return nil }
        let start = bytes.slice(from: 0, count: min(bytes.count, 16)).array
        if http.contains(where: { start.starts(with: $0) }) { return true }
        return http.contains { $0.starts(with: start) } ? nil : false
    }

    /// Whether `bytes` begin a conversation in Redis's protocol; nil: more bytes are needed to tell.
    static func isRedis(_ bytes: Bytes) -> Bool? {
        guard !bytes.isEmpty else { return nil }
        if bytes[0] == UInt8(ascii: "*") { return true }
        let start = bytes.slice(from: 0, count: min(bytes.count, 16)).array
        if others.contains(where: { start.starts(with: $0) }) { return false }
        if others.contains(where: { $0.starts(with: start) }) { return nil }
        return beginsInline(start[0])
    }

    private static func beginsInline(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"): true
        case UInt8(ascii: "\""), UInt8(ascii: "'"), UInt8(ascii: " "), 0x0d, 0x0a: true
        default: false
        }
    }
}
