import ClusterProcesses
import RaftCore

/// Asks a node over HTTP, as a client that knows nothing of anything.
enum HttpCall {
    struct Answer: CustomStringConvertible {
        var status: Int
        /// The error's number, 0 if there is none.
        var code: Int
        var body: String
        var description: String { "\(status), code \(code): \(body)" }
    }

    /// Calls `method` of braft's command line service.
    static func cli(_ node: NodeAddress, _ method: String, _ fields: (String, Field)...) throws -> Answer {
        let body = fields.map { "\"\($0)\":\($1.json)" }.joined(separator: ",")
        return try post("/CliService/\(method)", "{\(body)}", to: node)
    }

    enum Field: ExpressibleByStringLiteral, ExpressibleByArrayLiteral {
        case text(String)
        case list([String])
        init(stringLiteral value: String) { self = .text(value) }
        init(arrayLiteral elements: String...) { self = .list(elements) }
        var json: String {
            switch self {
            case .text(let text): "\"\(text)\""
            case .list(let texts): "[" + texts.map { "\"\($0)\"" }.joined(separator: ",") + "]"
            }
        }
    }

    static func post(_ path: String, _ body: String, to node: NodeAddress) throws -> Answer {
        try send(
            "POST \(path) HTTP/1.1\r\nHost: \(node)\r\nConnection: close\r\nContent-Length: \(body.utf8.count)\r\n\r\n"
                + body, to: node)
    }

    static func get(_ path: String, from node: NodeAddress) throws -> Answer {
        try send("GET \(path) HTTP/1.1\r\nHost: \(node)\r\nConnection: close\r\n\r\n", to: node)
    }

    private static func send(_ request: String, to node: NodeAddress) throws -> Answer {
        let connection = try RawConnection(to: node, timeoutMilliseconds: 60_000)
        connection.send(Array(request.utf8))
        var bytes: [UInt8] = []
        while let more = connection.receive() { bytes += more }
        let text = String(decoding: bytes, as: UTF8.self)
        guard let end = text.range(of: "\r\n\r\n"), text.hasPrefix("HTTP/1.1 "),
            let status = Int(text.dropFirst(9).prefix(3))
        else { throw Failed("no answer to \(request.prefix(60)): \(text.prefix(200))") }
        let code = text[..<end.lowerBound].split(separator: "\r\n").first { $0.hasPrefix("x-bd-error-code: ") }
        return Answer(
            status: status, code: code.flatMap { Int($0.dropFirst(17)) } ?? 0, body: String(text[end.upperBound...]))
    }
}

extension StringProtocol {
    /// Where `other` stands first.
    fileprivate func range(of other: String) -> Range<Index>? { firstRange(of: other) }
}
