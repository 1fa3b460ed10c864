internal import RaftCore
internal import Transport

/// One HTTP client's connection. Used on the lane's thread only.
///
/// 1. One request is served at a time, in the order in which they came: reading pauses until it is answered, and while
///    too much is unsent.
/// 2. After a violation, or a request that is the last, nothing more is read; the connection closes once the answer has
///    left.
final class HttpConnection: ConnectionHandler {
    private let server: HttpServer
    private let parser: HttpParser
    /// Nil before the first bytes and after the end.
    private var connection: (any Connection)?
    private var isServing = false
    /// Whether more has come than was taken; it waits until the request at hand is answered.
    private var hasLeft = false
    private var isEnding = false
    /// Whether requests are being taken further down the stack, which goes on by itself.
    private var isTaking = false

    init(_ server: HttpServer) {
        self.server = server
        parser = HttpParser(limits: server.limits)
    }

    func opened(_ connection: any Connection) {}

    func received(_ bytes: Bytes, on connection: any Connection) -> Consumption {
        self.connection = connection
        isTaking = true
        defer { isTaking = false }
        var position = 0
        while position < bytes.count, !isServing, !isEnding, !connection.isReadingPaused {
            switch parser.next(bytes, &position) {
            case .incomplete:
                if parser.awaitsContinue { connection.send(Bytes("HTTP/1.1 100 Continue\r\n\r\n")) }
            case .violation(let violation):
                let response = HttpResponse(status: violation.status, text: violation.text + "\n")
                send(response, to: HttpRequest())
            case .request(let request): serve(request, on: connection)
            }
        }
        if isServing { connection.isReadingPaused = true }
        hasLeft = !isEnding && position < bytes.count
        return Consumption(consumed: isEnding ? bytes.count : position)
    }

    func closed(_ connection: any Connection, reason: String) {
        self.connection = nil
        isEnding = true
    }

    func drained(_ connection: any Connection) { if !isServing { connection.isReadingPaused = false } }

    var owesAnswers: Bool { isServing || hasLeft }

    private func serve(_ request: HttpRequest, on connection: any Connection) {
        isServing = true
        var head = request
        head.body = []
        server.answer(request, on: connection) { [head] response in
            precondition(self.isServing, "a request is answered once")
            self.isServing = false
            self.send(response, to: head)
        }
    }

    private func send(_ response: HttpResponse, to request: HttpRequest) {
        guard let connection else { return }
        connection.send(Bytes(response.encoded(for: request)))
        guard request.isKeptAlive else {
            isEnding = true
            return connection.closeAfterSending(reason: "the last request was answered")
        }
        if connection.unsentBytes > WaterMark.high {
            connection.isReadingPaused = true
        } else if !isTaking {
            connection.isReadingPaused = false
        }
    }
}

/// What is answered.
struct HttpResponse: Equatable {
    var status: Int
    var contentType = "text/plain"
    /// Of a failed call: brpc's clients read it rather than the status.
    var errorCode: Int32?
    var body: [UInt8] = []

    init(status: Int, contentType: String, body: [UInt8]) {
        self.status = status
        self.contentType = contentType
        self.body = body
    }

    /// A text for people.
    init(status: Int = 200, text: String) {
        self.status = status
        body = Array(text.utf8)
    }

    func encoded(for request: HttpRequest) -> [UInt8] {
        var head = "HTTP/1.1 \(status) \(reason)\r\nContent-Type: \(contentType)\r\nContent-Length: \(body.count)\r\n"
        if let errorCode { head += "x-bd-error-code: \(errorCode)\r\n" }
        // no browser is to make a page of it
        head += "X-Content-Type-Options: nosniff\r\n"
        if !request.isKeptAlive {
            head += "Connection: close\r\n"
        } else if request.isOld {
            head += "Connection: keep-alive\r\n"
        }
        return Array((head + "\r\n").utf8) + (request.isHead ? [] : body)
    }

    private var reason: String {
        switch status {
        case 200: "OK"
        case 400: "Bad Request"
        case 401: "Unauthorized"
        case 403: "Forbidden"
        case 404: "Not Found"
        case 413: "Payload Too Large"
        case 414: "URI Too Long"
        case 415: "Unsupported Media Type"
        case 431: "Request Header Fields Too Large"
        case 503: "Service Unavailable"
        case 504: "Gateway Timeout"
        case 505: "HTTP Version Not Supported"
        default: "Internal Server Error"
        }
    }
}
