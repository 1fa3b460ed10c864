internal import CMessages
internal import CProtobufC
internal import Glibc
public import RaftCore

/// A request on its way to a service.
public struct RpcRequest {
    /// The service's full name, also if the caller used the short one.
    public let service: String
    /// The method's bare name.
    public let method: String
    /// The request message, still encoded. May be kept; it shares the memory of what was received.
    public let body: Bytes
    /// Raw bytes that came behind it.
    public let attachment: Bytes
    /// What followed the method in the path of an HTTP request, without the first slash; empty otherwise.
    public let path: String
    /// The caller's log id, if it set one.
    public let logID: Int64?
    /// Where it came from.
    public let connection: any Connection
    /// Takes the answer.
    public let responder: RpcResponder
}

/// Serves services on accepted connections: baidu_std's server side. On the lane.
///
/// Requests of one connection reach their services in the order of arrival; answers may be given in any order, at
/// any later time. While the callers of a connection do not read their answers, no more of its requests are read.
public final class RpcServer {
    /// What is refused.
    public struct Limits: Sendable {
        /// Largest `body_size` of a frame, in bytes; a larger one closes the connection.
        public var bodyBytes = 64 << 20
        /// The defaults, which are brpc's.
        public init() {}
    }

    /// Serves the request for the named method; false if there is no such method.
    public typealias Service = (_ method: String, _ request: RpcRequest) -> Bool

    /// What is refused.
    public var limits = Limits()
    /// While true every request is answered with ``RpcCode/stopping``.
    public var isStopping = false

    private struct Registration {
        var name: String
        /// Behind the last dot.
        var shortName: String
        var serve: Service
    }

    private let address: NodeAddress
    private let codec = FrameCodec()
    private var services: [Registration] = []

    /// A server that names `address` in its errors.
    public init(address: NodeAddress) { self.address = address }

    /// Adds a service by its full name, such as `braft.RaftService`.
    public func register(_ service: String, _ handler: @escaping Service) {
        precondition(!services.contains { $0.name == service }, "\(service) is registered already")
        let shortName = service.split(separator: ".").last.map(String.init) ?? service
        services.append(Registration(name: service, shortName: shortName, serve: handler))
    }

    /// A handler for one accepted connection that speaks baidu_std. It is closed after its first request to the service
    /// `unwelcome`, which is answered with ``RpcCode/limitReached``.
    public func makeHandler(unwelcome: String? = nil) -> any ConnectionHandler {
        ServedConnection(self, unwelcome: unwelcome)
    }

    /// The full names of the services, in the order in which they were registered.
    public var serviceNames: [String] { services.map(\.name) }

    /// The full name of a service by that or by its short name, which has no dot; nil if there is none.
    public func fullName(of service: String) -> String? {
        let isShort = !service.utf8.contains(UInt8(ascii: "."))
        return services.first { (isShort ? $0.shortName : $0.name) == service }?.name
    }

    /// An error as this server tells it: its text decorated as brpc does, and -1 as ``RpcCode/internalError``.
    public func failure(_ code: Int32, _ text: String) -> RpcError { RpcError(code, text, at: address) }

    /// Serves a request that came by another protocol, as if it had come in a frame without an attachment. The completion
    /// gets the reply, or the error with its text decorated as brpc does; exactly once, perhaps from within this call.
    ///
    /// - Parameter path: what followed the method where the other protocol has paths.
    public func call(
        _ service: String, _ method: String, body: Bytes, path: String = "", on connection: any Connection,
        completion: @escaping (RpcResult) -> Void
    ) {
        let responder = RpcResponder(DirectCall(address: address, completion), 0)
        guard !isStopping else { return responder.fail(RpcCode.stopping, "the server is stopping") }
        guard let name = fullName(of: service), let registration = services.first(where: { $0.name == name }) else {
            let isShort = !service.utf8.contains(UInt8(ascii: "."))
            return responder.fail(isShort ? RpcCode.noService : RpcCode.noMethod, "no service \(service)")
        }
        let request = RpcRequest(
            service: name, method: method, body: body, attachment: Bytes(), path: path, logID: nil,
            connection: connection, responder: responder)
        if !registration.serve(method, request) {
            responder.fail(RpcCode.noMethod, "\(name) has no method \(method)")
        }
    }
}

extension RpcServer {
    /// What a frame asks for.
    private enum Demand {
        case call(Registration, RpcRequest)
        case refused(correlationID: Int64, RpcError)
    }

    /// Serves the request in `frame`; false if it is none.
    fileprivate func serve(_ frame: Frame, on connection: any Connection, _ served: ServedConnection) -> Bool {
        let demand = codec.decodeMeta(of: frame) { demandOf($0, frame, connection, served) }
        switch demand {
        case nil: return false
        case .refused(let correlationID, let error):
            served.unanswered += 1
            RpcResponder(served, correlationID).fail(error.code, error.text)
            if error.code == RpcCode.limitReached { connection.closeAfterSending(reason: error.text) }
        case .call(let service, let request):
            served.unanswered += 1
            if !service.serve(request.method, request) {
                request.responder.fail(RpcCode.noMethod, "\(service.name) has no method \(request.method)")
            }
        }
        return true
    }

    /// The checks in brpc's order: stopping, sizes, service, encoding.
    private func demandOf(
        _ meta: borrowing Brpc__Policy__RpcMeta, _ frame: Frame, _ connection: any Connection,
        _ served: ServedConnection
    ) -> Demand {
        let correlationID = meta.correlation_id
        func refuse(_ code: Int32, _ text: String) -> Demand {
            .refused(correlationID: correlationID, RpcError(code: code, text: text))
        }
        guard !isStopping else { return refuse(RpcCode.stopping, "the server is stopping") }
        let attachmentBytes = Int(meta.attachment_size)
        guard attachmentBytes >= 0, attachmentBytes <= frame.payload.count else {
            return refuse(RpcCode.badRequest, frame.misfit(ofAttachment: attachmentBytes))
        }
        guard let request = meta.request else { return refuse(RpcCode.noService, "the frame names no service") }
        let service: Registration
        switch find(request.pointee.service_name) {
        case .success(let found): service = found
        case .failure(let error): return .refused(correlationID: correlationID, error)
        }
        guard service.name != served.unwelcome else {
            return refuse(RpcCode.limitReached, "too many connections; try again later")
        }
        if let feature = FrameCodec.unsupportedFeature(of: meta) { return refuse(RpcCode.badRequest, feature) }
        let bodyBytes = frame.payload.count - attachmentBytes
        return .call(
            service,
            RpcRequest(
                service: service.name, method: String(cString: request.pointee.method_name),
                body: frame.payload.slice(from: 0, count: bodyBytes),
                attachment: frame.payload.suffix(from: bodyBytes), path: "",
                logID: request.pointee.has_log_id != 0 ? request.pointee.log_id : nil,
                connection: connection, responder: RpcResponder(served, correlationID)))
    }

    /// A name without a dot is a short name, as in brpc; that decides which error a miss is.
    private func find(_ name: UnsafePointer<CChar>) -> Result<Registration, RpcError> {
        let isShort = strchr(name, CInt(UInt8(ascii: "."))) == nil
        for service in services where strcmp(isShort ? service.shortName : service.name, name) == 0 {
            return .success(service)
        }
        let text = "no service \(String(cString: name))"
        return .failure(RpcError(code: isShort ? RpcCode.noService : RpcCode.noMethod, text: text))
    }

    fileprivate func encode(
        _ correlationID: Int64, _ body: FrameCodec.Body, _ attachmentBytes: Int
    ) -> FrameCodec.Encoding {
        codec.encodeReply(correlationID: correlationID, body: body, attachmentBytes: attachmentBytes)
    }

    fileprivate func encodeFailure(_ correlationID: Int64, _ code: Int32, _ text: String) -> FrameCodec.Encoding {
        codec.encodeFailure(correlationID: correlationID, error: RpcError(code, text, at: address))
    }
}

extension RpcError {
    /// -1 travels as EINTERNAL; the text is decorated as brpc's servers do.
    fileprivate init(_ code: Int32, _ text: String, at address: NodeAddress) {
        precondition(code != 0, "a failure needs a code")
        self.init(code: code == -1 ? RpcCode.internalError : code, text: "[\(address)][E\(code)]\(text)")
    }
}

/// Where the answers to requests go. A class, for its calls cost less than an existential's.
class AnswerTaker {
    fileprivate func answer(_ correlationID: Int64, _ body: FrameCodec.Body, _ attachment: [Bytes]) {
        preconditionFailure("a taker takes answers")
    }

    fileprivate func fail(_ correlationID: Int64, _ code: Int32, _ text: String) {
        preconditionFailure("a taker takes answers")
    }
}

/// A request that did not come in a frame.
private final class DirectCall: AnswerTaker {
    private let address: NodeAddress
    private var completion: ((RpcResult) -> Void)?

    init(address: NodeAddress, _ completion: @escaping (RpcResult) -> Void) {
        self.address = address
        self.completion = completion
    }

    override func answer(_ correlationID: Int64, _ body: FrameCodec.Body, _ attachment: [Bytes]) {
        let bytes = attachment.count == 1 ? attachment[0] : Bytes(attachment.flatMap(\.array))
        finish(.reply(RpcReply(body: body.packed, attachment: bytes)))
    }

    override func fail(_ correlationID: Int64, _ code: Int32, _ text: String) {
        finish(.failed(RpcError(code, text, at: address)))
    }

    private func finish(_ result: RpcResult) {
        // a stranger's request must not be able to end the process
        guard let completion else { return assertionFailure("a request is answered once") }
        self.completion = nil
        completion(result)
    }
}

/// One accepted connection of a server; what responders hold of it.
final class ServedConnection: AnswerTaker, ConnectionHandler {
    private let server: RpcServer
    /// Nil before the first bytes and after the end.
    private var connection: (any Connection)?
    /// Requests taken from this connection whose answers are still to come.
    fileprivate var unanswered = 0
    /// A service that it may not ask.
    fileprivate let unwelcome: String?

    init(_ server: RpcServer, unwelcome: String?) {
        self.server = server
        self.unwelcome = unwelcome
    }

    func opened(_ connection: any Connection) {}

    func received(_ bytes: Bytes, on connection: any Connection) -> Consumption {
        self.connection = connection
        var start = 0
        while start < bytes.count, !connection.isReadingPaused {
            switch Frame.next(in: bytes, at: start, bodyBytesMax: server.limits.bodyBytes) {
            case .incomplete(let needed): return Consumption(consumed: start, needed: needed)
            case .malformed(let reason): return giveUp(connection, bytes, reason)
            case .frame(let frame):
                start += frame.bytes
                guard server.serve(frame, on: connection, self) else {
                    return giveUp(connection, bytes, "metadata that does not parse")
                }
                if connection.unsentBytes > WaterMark.high { connection.isReadingPaused = true }
            }
        }
        return Consumption(consumed: start)
    }

    func closed(_ connection: any Connection, reason: String) { self.connection = nil }

    func drained(_ connection: any Connection) { connection.isReadingPaused = false }

    var owesAnswers: Bool { unanswered > 0 }

    private func giveUp(_ connection: any Connection, _ bytes: Bytes, _ reason: String) -> Consumption {
        connection.close(reason: reason)
        return Consumption(consumed: bytes.count)
    }

    fileprivate override func answer(_ correlationID: Int64, _ body: FrameCodec.Body, _ attachment: [Bytes]) {
        guard let connection else { return }
        let attachmentBytes = attachment.reduce(0) { $0 + $1.count }
        switch server.encode(correlationID, body, attachmentBytes) {
        case .tooLarge(let bytes): fail(correlationID, RpcCode.internalError, "the answer has \(bytes) bytes")
        case .pieces(let head, let body):
            noteAnswer()
            connection.send(head)
            connection.send(body)
            for piece in attachment { connection.send(piece) }
        }
    }

    fileprivate override func fail(_ correlationID: Int64, _ code: Int32, _ text: String) {
        guard let connection else { return }
        noteAnswer()
        guard case .pieces(let head, _) = server.encodeFailure(correlationID, code, text) else { return }
        connection.send(head)
    }

    private func noteAnswer() {
        precondition(unanswered > 0, "a request is answered once")
        unanswered -= 1
    }
}

/// Takes the answer to one request, exactly one, at any later time. On a connection that has closed it does nothing.
///
/// A small value to be copied and kept. It may pass through other threads; answers are given on the lane.
public struct RpcResponder: @unchecked Sendable {
    private let served: AnswerTaker
    private let correlationID: Int64

    fileprivate init(_ served: AnswerTaker, _ correlationID: Int64) {
        self.served = served
        self.correlationID = correlationID
    }

    /// Answers with a protobuf-c message, packed before this returns, and raw bytes behind it.
    public func reply<M>(_ message: UnsafeMutablePointer<M>, attachment: [Bytes] = []) {
        let base = UnsafeRawPointer(message).assumingMemoryBound(to: ProtobufCMessage.self)
        served.answer(correlationID, .message(base), attachment)
    }

    /// Answers with a message that is encoded already, and raw bytes behind it.
    public func reply(body: Bytes, attachment: [Bytes] = []) {
        served.answer(correlationID, .encoded(body), attachment)
    }

    /// Answers with an error: an errno or an ``RpcCode``, and a text for people, decorated as brpc does.
    public func fail(_ code: Int32, _ text: String) { served.fail(correlationID, code, text) }
}
