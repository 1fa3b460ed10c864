internal import RaftCore
internal import Transport

/// One HTTP client's connection. Used on the lane's thread only.
///
/// 1. One request is served at a time, in the order in which they came. Reading goes on meanwhile, so that a client that
///    goes away is noticed; what is read ahead is bounded, and reading pauses exactly while that much is there.
/// 2. Nothing takes for ever: each phase has its time (``HttpServer/Settings``), which the server's sweep looks at.
/// 3. After the last request nothing more is read; the connection closes once the answer has left. After a refusal
///    that leaves the rest of the stream without a meaning, it is read and dropped for a while first.
final class HttpConnection: ConnectionHandler, SweptItem {
    private enum Phase {
        /// Nothing of a request has come.
        case idle
        case receiving
        case serving
        /// The last answer was given.
        case ending
    }

    private let server: HttpServer
    private let parser: HttpParser
    /// Nil before the first bytes and after the end.
    private var connection: (any Connection)?
    private var phase = Phase.idle
    private(set) var deadline: Instant?
    /// The client has sent its last byte.
    private var hasEnded = false
    /// After a refusal: until then the client may take what was sent before.
    private var takingEnd = Instant.distantPast
    /// The request being served, without its body, and its number: an answer to another one comes too late.
    private var request = HttpRequest()
    private var number = 0
    /// Read, and behind the request being served; what came later is in ``later``. Copies, which pin nothing of what the
    /// connection reads into.
    private var ahead = Bytes()
    private var later: [UInt8] = []
    /// Whether requests are being taken further down the stack, which goes on by itself.
    private var isTaking = false

    init(_ server: HttpServer) {
        self.server = server
        parser = HttpParser(limits: server.limits)
    }

    func opened(_ connection: any Connection) {}

    func received(_ bytes: Bytes, on connection: any Connection) -> Consumption {
        if self.connection == nil {
            self.connection = connection
            server.sweep.add(self)
        }
        var position = 0
        if aheadCount == 0 { take(bytes, &position) }
        guard phase != .ending else { return Consumption(consumed: bytes.count) }
        position += keep(bytes, from: position)
        settlePause()
        return Consumption(consumed: position)
    }

    func closed(_ connection: any Connection, reason: String) {
        self.connection = nil
        phase = .ending
        forgetAhead()
        server.sweep.remove(self)
    }

    func drained(_ connection: any Connection) { goOn() }

    func inputEnded(_ connection: any Connection) {
        hasEnded = true
        guard phase == .receiving || phase == .serving else { return }
        let end = server.sweep.now + server.settings.endedTime
        deadline = deadline.map { min($0, end) }
    }

    var owesAnswers: Bool { phase == .serving || aheadCount > 0 }

    // MARK: reading

    /// Serves what is complete, until a request has to be waited for.
    private func take(_ bytes: Bytes, _ position: inout Int) {
        isTaking = true
        defer { isTaking = false }
        while position < bytes.count, let connection, connection.unsentBytes <= WaterMark.high {
            switch phase {
            case .serving, .ending: return
            case .idle: enter(.receiving, for: server.settings.requestTime)
            case .receiving: break
            }
            switch parser.next(bytes, &position) {
            case .incomplete:
                if parser.awaitsContinue { connection.send(Bytes("HTTP/1.1 100 Continue\r\n\r\n")) }
            case .violation(let violation): refuse(HttpResponse(status: violation.status, text: violation.text + "\n"))
            case .request(let request): serve(request, on: connection)
            }
        }
    }

    private var aheadCount: Int { ahead.count + later.count }

    private func forgetAhead() { (ahead, later) = (Bytes(), []) }

    /// Keeps what there is room for; returns how much that is.
    private func keep(_ bytes: Bytes, from start: Int) -> Int {
        let count = min(bytes.count - start, max(0, server.settings.aheadBytes - aheadCount))
        guard count > 0 else { return 0 }
        bytes.slice(from: start, count: count).withUnsafeBytes { later.append(contentsOf: $0) }
        return count
    }

    /// Takes what was read ahead.
    private func goOn() {
        guard !isTaking, connection != nil else { return }
        repeat {
            if ahead.isEmpty { (ahead, later) = (Bytes(later), []) }
            let bytes = ahead
            var position = 0
            take(bytes, &position)
            ahead = bytes.suffix(from: position)
            if phase == .ending { forgetAhead() }
        } while ahead.isEmpty && !later.isEmpty
        settlePause()
    }

    private func settlePause() {
        guard let connection else { return }
        let pauses = phase != .ending && aheadCount >= server.settings.aheadBytes
        if connection.isReadingPaused != pauses { connection.isReadingPaused = pauses }
    }

    // MARK: answering

    private func enter(_ phase: Phase, for time: Interval) {
        self.phase = phase
        // who has gone is not waited for; who has not gets what is there
        let isWaiting = phase == .receiving || phase == .serving
        deadline = server.sweep.now + (hasEnded && isWaiting ? min(time, server.settings.endedTime) : time)
    }

    private func serve(_ request: HttpRequest, on connection: any Connection) {
        enter(.serving, for: server.settings.answerTime)
        number += 1
        self.request = request
        self.request.body = []
        server.answer(request, on: connection) { [number] response in
            // it may have been too late
            guard self.phase == .serving, self.number == number else { return }
            self.send(response)
        }
    }

    private func send(_ response: HttpResponse) {
        guard let connection else { return }
        connection.send(Bytes(response.encoded(for: request)))
        guard request.isKeptAlive else {
            enter(.ending, for: server.settings.idleTime)
            return connection.closeAfterSending(reason: "the last request was answered")
        }
        enter(.idle, for: server.settings.idleTime)
        goOn()
    }

    /// Answers for the last time, although more may come.
    private func refuse(_ response: HttpResponse) {
        guard let connection else { return }
        connection.send(Bytes(response.encoded(for: HttpRequest())))
        enter(.ending, for: server.settings.lingerTime)
        takingEnd = server.sweep.now + server.settings.idleTime
        forgetAhead()
        settlePause()
    }

    func expire(now: Instant) {
        guard let connection else { return }
        switch phase {
        case .receiving where !hasEnded:
            refuse(HttpResponse(status: 408, text: "the request did not come in time\n"))
        case .serving where !hasEnded: refuse(server.tooLate)
        // answers to earlier requests are still on their way
        case .ending where connection.unsentBytes > 0 && now < takingEnd: break
        case .idle, .receiving, .serving, .ending: connection.close(reason: "an HTTP client took too long")
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
        case 408: "Request Timeout"
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
