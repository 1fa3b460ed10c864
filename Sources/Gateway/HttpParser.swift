internal import CHTTPParser
internal import Glibc
internal import RaftCore

/// A request as it came in.
struct HttpRequest {
    /// What it is for: the path, perhaps with a host before it and a query behind it.
    var target: [UInt8] = []
    /// Only headers are wanted in the answer.
    var isHead = false
    /// Values of headers that mean something here, in lower case but for ``origin`` and ``host``; empty if absent.
    var contentType = ""
    var contentEncoding = ""
    var origin = ""
    var host = ""
    var body: [UInt8] = []
    /// The connection stays open after the answer.
    var isKeptAlive = false
    /// It is of HTTP/1.0, whose connections close unless it is said that they do not.
    var isOld = false
}

/// Why a connection cannot be understood any further.
struct HttpViolation: Error, Equatable {
    var status: Int
    var text: String
}

/// Cuts requests out of a stream, with Debian's http-parser. Used on the lane's thread only.
///
/// What is kept of a request is bounded by ``Limits``; whatever else comes is passed over as it is read.
final class HttpParser {
    /// What is refused, in bytes.
    struct Limits {
        /// The target; more is answered with 414.
        var target = 8 << 10
        /// The target and the names and values of all headers; more is answered with 431.
        var head = 32 << 10
        /// The body; more is answered with 413.
        var body = 1 << 20
    }

    /// What stands next in a stream.
    enum Step {
        case incomplete
        case request(HttpRequest)
        case violation(HttpViolation)
    }

    private let limits: Limits
    private let parser = UnsafeMutablePointer<http_parser>.allocate(capacity: 1)
    private var settings = http_parser_settings()
    private var request = HttpRequest()
    private var headBytes = 0
    /// The header that is being read, up to where a value can matter.
    private var name: [UInt8] = []
    private var value: [UInt8] = []
    private var isInValue = false
    private var isInBody = false
    private var expects = ""
    private var isComplete = false
    private var violation: HttpViolation?
    /// Whether the other side waits for a word before it sends the body.
    private(set) var awaitsContinue = false

    init(limits: Limits) {
        self.limits = limits
        http_parser_init(parser, HTTP_REQUEST)
        parser.pointee.data = Unmanaged.passUnretained(self).toOpaque()
        http_parser_settings_init(&settings)
        settings.on_message_begin = { HttpParser.of($0).begin() }
        settings.on_url = { HttpParser.of($0).takeTarget(UnsafeRawBufferPointer(start: $1, count: $2)) }
        settings.on_header_field = { HttpParser.of($0).takeName(UnsafeRawBufferPointer(start: $1, count: $2)) }
        settings.on_header_value = { HttpParser.of($0).takeValue(UnsafeRawBufferPointer(start: $1, count: $2)) }
        settings.on_headers_complete = { HttpParser.of($0).endHead() }
        settings.on_body = { HttpParser.of($0).takeBody(UnsafeRawBufferPointer(start: $1, count: $2)) }
        settings.on_message_complete = { HttpParser.of($0).end() }
    }

    deinit { parser.deallocate() }

    private static func of(_ parser: UnsafeMutablePointer<http_parser>?) -> HttpParser {
        Unmanaged<HttpParser>.fromOpaque(parser!.pointee.data).takeUnretainedValue()
    }

    /// Reads on at `position`, up to the end of a request at most. Everything before that position is done with.
    func next(_ bytes: Bytes, _ position: inout Int) -> Step {
        guard position < bytes.count else { return .incomplete }
        awaitsContinue = false
        position += bytes.withUnsafeBytes { buffer in
            let start = buffer.baseAddress.map { $0.assumingMemoryBound(to: CChar.self) + position }
            return http_parser_execute(parser, &settings, start, buffer.count - position)
        }
        if isComplete {
            isComplete = false
            http_parser_pause(parser, 0)
            return .request(request)
        }
        let problem = http_errno(parser.pointee.http_errno)
        if problem == HPE_OK { return .incomplete }
        if let violation { return .violation(violation) }
        switch problem {
        case HPE_HEADER_OVERFLOW: return .violation(tooLargeHead)
        case HPE_INVALID_VERSION: return .violation(HttpViolation(status: 505, text: "only HTTP/1 is spoken here"))
        default:
            let reason = String(cString: http_errno_description(problem))
            return .violation(HttpViolation(status: 400, text: "no HTTP request: \(reason)"))
        }
    }

    private var tooLargeHead: HttpViolation {
        HttpViolation(status: 431, text: "the headers have more than \(limits.head) bytes")
    }

    // MARK: called while parsing; anything but 0 ends it

    private func begin() -> CInt {
        request = HttpRequest()
        headBytes = 0
        name = []
        value = []
        (isInValue, isInBody) = (false, false)
        expects = ""
        return 0
    }

    private func refuse(_ status: Int, _ text: String) -> CInt {
        violation = HttpViolation(status: status, text: text)
        // 1 and 2 are no errors at the end of the headers, but say that there is no body
        return -1
    }

    private func count(_ bytes: UnsafeRawBufferPointer) -> Bool {
        headBytes += bytes.count
        if headBytes > limits.head { violation = tooLargeHead }
        return violation == nil
    }

    private func takeTarget(_ bytes: UnsafeRawBufferPointer) -> CInt {
        guard request.target.count + bytes.count <= limits.target else {
            return refuse(414, "the target has more than \(limits.target) bytes")
        }
        request.target.append(contentsOf: bytes)
        return count(bytes) ? 0 : -1
    }

    private func takeName(_ bytes: UnsafeRawBufferPointer) -> CInt {
        if isInValue { endHeader() }
        guard count(bytes) else { return -1 }
        // behind a body in chunks there may be more; nothing in them is for us
        if !isInBody { name.append(contentsOf: bytes) }
        return 0
    }

    private func takeValue(_ bytes: UnsafeRawBufferPointer) -> CInt {
        isInValue = true
        guard count(bytes) else { return -1 }
        if !isInBody { value.append(contentsOf: bytes) }
        return 0
    }

    private func endHeader() {
        defer {
            name.removeAll(keepingCapacity: true)
            value.removeAll(keepingCapacity: true)
            isInValue = false
        }
        let text = String(decoding: value, as: UTF8.self)
        switch String(decoding: name, as: UTF8.self).lowercased() {
        case "content-type": request.contentType = text.lowercased()
        case "content-encoding": request.contentEncoding = text.lowercased()
        case "expect": expects = text.lowercased()
        case "origin": request.origin = text
        case "host": request.host = text
        default: break
        }
    }

    private func endHead() -> CInt {
        if isInValue || !name.isEmpty { endHeader() }
        isInBody = true
        guard parser.pointee.http_major == 1 else { return refuse(505, "only HTTP/1 is spoken here") }
        // whoever would rather speak another protocol is answered in this one
        parser.pointee.upgrade = 0
        request.isHead = parser.pointee.method == HTTP_HEAD.rawValue
        request.isOld = parser.pointee.http_minor == 0
        let announced = parser.pointee.content_length
        guard announced == UInt64.max || announced <= UInt64(limits.body) else { return tooLargeBody() }
        awaitsContinue = !request.isOld && expects == "100-continue"
        return 0
    }

    private func tooLargeBody() -> CInt { refuse(413, "the body has more than \(limits.body) bytes") }

    private func takeBody(_ bytes: UnsafeRawBufferPointer) -> CInt {
        guard request.body.count + bytes.count <= limits.body else { return tooLargeBody() }
        request.body.append(contentsOf: bytes)
        return 0
    }

    private func end() -> CInt {
        request.isKeptAlive = http_should_keep_alive(parser) != 0
        isComplete = true
        awaitsContinue = false
        http_parser_pause(parser, 1)
        return 0
    }
}
