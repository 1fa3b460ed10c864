internal import CProtobufC
internal import Glibc
public import RaftCore
public import Transport

/// HTTP/1.1's face of a node: every service of an ``Transport/RpcServer`` at `/Service/method`, as brpc serves it, and a
/// few pages. Lane-confined, like its connections.
///
/// A request's body is the request message, in JSON (see `JsonMapping`) unless its `Content-Type` is `application/proto`
/// or `application/x-protobuf`; the reply comes in the same form. The method (GET, POST, …) and the query do not matter,
/// and no body is a message without fields. An error's number is in the header `x-bd-error-code`, its text in the body. A
/// reply that has raw bytes besides its message is refused, for HTTP has no place for them, unless the message has no
/// fields: then they are the body.
///
/// What only nodes call of each other is not there (1002), see `ServiceCatalog`.
///
/// What brpc has and this has not: compressed bodies, `application/proto-text`, `application/proto-json`, HTTP/2 with gRPC,
/// and JSON objects for repeated messages of a key and a value.
public final class HttpServer {
    /// What is refused, in bytes, and how long things may take. The node's other connections are as long-lived as their
    /// clients want; those of HTTP share the places with them.
    public struct Settings: Sendable {
        /// A request's target; a longer one is answered with 414.
        public var targetBytes = 8 << 10
        /// A request's target and headers; more is answered with 431.
        public var headBytes = 32 << 10
        /// A request's body; a larger one is answered with 413.
        public var bodyBytes = 1 << 20
        /// What is read ahead of requests behind one that is being served.
        public var aheadBytes = 64 << 10
        /// From a request's first byte to its last; then 408. Also how long a connection may not tell its protocol.
        public var requestTime = Interval.milliseconds(30_000)
        /// Between requests, and for the client to take its answers; then the connection closes.
        public var idleTime = Interval.milliseconds(60_000)
        /// How long a connection may say nothing at all at first. Whoever speaks braft's protocol may connect before it has
        /// something to say.
        public var silenceTime = Interval.milliseconds(300_000)
        /// Until there is an answer; then 504, and the answer is dropped when it comes. What was asked goes on.
        public var answerTime = Interval.milliseconds(300_000)
        /// Until there is an answer for a client that closed its sending direction, as those do who have gone; to take it
        /// the client has ``idleTime``.
        public var endedTime = Interval.milliseconds(1000)
        /// What still comes after a refusal is read for this long, and as long as answers are being taken: a client that
        /// is sending would lose them otherwise.
        public var lingerTime = Interval.milliseconds(1000)
        /// The defaults.
        public init() {}
    }

    /// As it was made.
    public let settings: Settings
    let limits: HttpParser.Limits
    let sweep: DeadlineSweep
    private let rpc: RpcServer
    private let version: String
    private let status: () -> String
    private let metrics: () -> String
    private let catalog = ServiceCatalog()
    private let json = JsonMapping()

    /// A server over the services of `rpc`, which may be registered later; `status` and `metrics` are the pages of these
    /// names. `sweep` ends what takes too long, in the turns of its owner.
    public init(
        rpc: RpcServer, settings: Settings = Settings(), sweep: DeadlineSweep, version: String,
        status: @escaping () -> String, metrics: @escaping () -> String
    ) {
        self.rpc = rpc
        self.settings = settings
        self.sweep = sweep
        self.version = version
        self.status = status
        self.metrics = metrics
        limits = HttpParser.Limits(
            target: settings.targetBytes, head: settings.headBytes, body: settings.bodyBytes)
    }

    /// Whether a connection that begins with `bytes` speaks this protocol; nil: more bytes are needed to tell.
    public static func matches(_ bytes: Bytes) -> Bool? { ProtocolOpening.isHttp(bytes) }

    /// A handler for one accepted connection.
    public func makeHandler() -> any ConnectionHandler { HttpConnection(self) }

    /// What is said when there is no answer in time.
    var tooLate: HttpResponse { HttpResponse(rpc.failure(RpcCode.timedOut, "no answer in time; it may still be done")) }

    // MARK: requests

    /// Serves `request`; the completion comes once, perhaps from within this call.
    func answer(_ request: HttpRequest, on connection: any Connection, _ completion: @escaping (HttpResponse) -> Void) {
        guard let path = HttpPath.components(of: request.target) else {
            return completion(HttpResponse(status: 400, text: "the target is no path\n"))
        }
        // a page of some other site has a browser ask; what it can ask for without a word is not harmless here
        guard request.origin.isEmpty || isOwn(request.origin, request.host) else {
            return completion(HttpResponse(status: 403, text: "requests from pages of \(request.origin) are refused\n"))
        }
        if path == ["metrics"] {
            let body = Array(metrics().utf8)
            return completion(HttpResponse(status: 200, contentType: "text/plain; version=0.0.4", body: body))
        }
        if let page = page(path) { return completion(HttpResponse(text: page)) }
        guard request.contentEncoding.isEmpty || request.contentEncoding == "identity" else {
            return completion(HttpResponse(status: 415, text: "compressed bodies are not understood\n"))
        }
        let form: MessageForm
        let mediaType = String(request.contentType.prefix { $0 != ";" && $0 != " " })
        switch mediaType {
        case "application/proto", "application/x-protobuf": form = .protobuf(contentType: mediaType)
        case "application/proto-text", "application/proto-json":
            let text = "this Content-Type is not understood; JSON, application/proto and application/x-protobuf are\n"
            return completion(HttpResponse(status: 415, text: text))
        // brpc takes everything else for JSON, also what curl -d says of itself
        default: form = .json
        }
        call(path, Bytes(request.body), form, on: connection, completion)
    }

    /// A name other than `localhost` may be anybody's who makes it mean this node; nodes have none.
    private func isOwn(_ origin: String, _ host: String) -> Bool {
        guard origin.lowercased() == "http://" + host.lowercased() else { return false }
        let name = host.lowercased().prefix { $0 != ":" }
        return name == "localhost" || NodeAddress("\(name):1") != nil
    }

    private func page(_ path: [String]) -> String? {
        guard path.count <= 1 else { return nil }
        switch path.first {
        case nil:
            return "Flotilla \(version)\n\n/health\n/list\n/metrics\n/raft_stat\n/raft_stat/GROUP\n/status\n/version\n"
                + "/SERVICE/METHOD, with the request as the body, in JSON\n"
        case "health": return "OK"
        case "version": return version
        case "status": return status()
        case "list":
            return rpc.serviceNames.map { name in
                let methods = catalog.openMethods(of: name)
                return methods.isEmpty ? "" : "\(name)\n" + methods.map { "  \($0)\n" }.joined()
            }.joined()
        default: return nil
        }
    }

    private enum MessageForm: Equatable {
        case json
        case protobuf(contentType: String)
    }

    private func call(
        _ path: [String], _ body: Bytes, _ form: MessageForm, on connection: any Connection,
        _ completion: @escaping (HttpResponse) -> Void
    ) {
        let service = path[0]
        let name = rpc.fullName(of: service) ?? service
        let takesPath = catalog.method(name, "default_method") != nil
        let method = takesPath ? "default_method" : path.count > 1 ? path[1] : ""
        let rest = path.dropFirst(takesPath ? 1 : 2).joined(separator: "/")
        guard let known = catalog.method(name, method), !known.isForNodes, rpc.fullName(of: service) != nil else {
            // brpc does not tell a service from a method here, as it does in frames
            let text = "no method \(method) of a service \(service) that is answered over HTTP"
            return completion(HttpResponse(rpc.failure(RpcCode.noMethod, text)))
        }
        var message = body
        if form == .json {
            do throws(JsonProblem) {
                message = try json.decode(body, as: known.request)
            } catch {
                return completion(HttpResponse(rpc.failure(RpcCode.badRequest, error.text)))
            }
        }
        rpc.call(service, method, body: message, path: rest, on: connection) { [self] result in
            switch result {
            case .failed(let error): completion(HttpResponse(error))
            case .reply(let reply): completion(response(to: reply, form, known))
            }
        }
    }

    private func response(to reply: RpcReply, _ form: MessageForm, _ known: ServiceCatalog.Method) -> HttpResponse {
        guard known.reply.pointee.n_fields > 0 else {
            let text = reply.attachment.isEmpty ? [] : reply.attachment.array
            return HttpResponse(status: 200, contentType: "text/plain", body: text)
        }
        guard reply.attachment.isEmpty else {
            let text = "the reply has raw bytes, which only baidu_std can carry"
            return HttpResponse(rpc.failure(RpcCode.badRequest, text))
        }
        if case .protobuf(let contentType) = form {
            return HttpResponse(status: 200, contentType: contentType, body: reply.body.array)
        }
        do throws(JsonProblem) {
            let body = try json.encode(reply.body, as: known.reply)
            return HttpResponse(status: 200, contentType: "application/json", body: body)
        } catch {
            return HttpResponse(rpc.failure(RpcCode.internalError, error.text))
        }
    }
}

extension HttpResponse {
    /// The failure of a call, as brpc tells it.
    init(_ error: RpcError) {
        let status =
            switch error.code {
            case RpcCode.noService, RpcCode.noMethod: 404
            case RpcCode.notAuthorized: 401
            case RpcCode.badRequest, EINVAL: 400
            case RpcCode.stopping, RpcCode.limitReached: 503
            case EPERM: 403
            case RpcCode.timedOut, ETIMEDOUT: 504
            default: 500
            }
        self.init(status: status, text: error.text)
        errorCode = error.code
    }
}

/// The path of a request's target.
enum HttpPath {
    /// What stands between its slashes, without what is empty, each decoded; nil if the target has no path.
    static func components(of target: [UInt8]) -> [String]? {
        var path = target[...]
        if path.first != UInt8(ascii: "/") {
            // as it is sent to a proxy: http://host/path
            let scheme = Array("://".utf8)
            guard let start = path.indices.first(where: { path[$0...].starts(with: scheme) }) else { return nil }
            path = path[(start + 3)...].drop { $0 != UInt8(ascii: "/") }
        }
        path = path.prefix { $0 != UInt8(ascii: "?") && $0 != UInt8(ascii: "#") }
        var components: [String] = []
        for part in path.split(separator: UInt8(ascii: "/")) {
            guard let decoded = decoded(part) else { return nil }
            components.append(decoded)
        }
        return components
    }

    private static func decoded(_ part: ArraySlice<UInt8>) -> String? {
        var bytes: [UInt8] = []
        var rest = part
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "%") else {
                bytes.append(byte)
                continue
            }
            guard let high = rest.popFirst().flatMap(digit), let low = rest.popFirst().flatMap(digit) else {
                return nil
            }
            bytes.append(high << 4 | low)
        }
        return String(validating: bytes, as: UTF8.self)
    }

    private static func digit(_ byte: UInt8) -> UInt8? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
        default: nil
        }
    }
}
