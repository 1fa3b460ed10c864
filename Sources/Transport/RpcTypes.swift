public import RaftCore

/// Why a call has no reply.
public struct RpcError: Error, Equatable, Sendable, CustomStringConvertible {
    /// An errno, or one of brpc's numbers (``RpcCode``); never 0.
    public var code: Int32
    /// For people; never to be parsed.
    public var text: String

    /// An error.
    public init(code: Int32, text: String) {
        self.code = code
        self.text = text
    }

    /// `text (E<code>)`.
    public var description: String { "\(text) (E\(code))" }
}

/// The error numbers of brpc, and of Linux where brpc uses those.
public enum RpcCode {
    /// ENOSERVICE: no service of that short name.
    public static let noService: Int32 = 1001
    /// ENOMETHOD: no such method, or no service of that full name.
    public static let noMethod: Int32 = 1002
    /// EREQUEST: the request cannot be understood.
    public static let badRequest: Int32 = 1003
    /// ERPCAUTH: not authorised.
    public static let notAuthorized: Int32 = 1004
    /// ERPCTIMEDOUT: the deadline passed first; whether the request was executed is unknown.
    public static let timedOut: Int32 = 1008
    /// EFAILEDSOCKET: the connection broke; whether the request was executed is unknown.
    public static let failedSocket: Int32 = 1009
    /// EOVERCROWDED: too much is waiting to be sent.
    public static let overcrowded: Int32 = 1011
    /// EINTERNAL: the server failed; also what -1 becomes on the wire.
    public static let internalError: Int32 = 2001
    /// ERESPONSE: the response cannot be understood.
    public static let badResponse: Int32 = 2002
    /// ELOGOFF: the server is stopping.
    public static let stopping: Int32 = 2003
    /// ELIMIT: too many requests at once.
    public static let limitReached: Int32 = 2004
    /// EHOSTDOWN: not connected; the request did not leave.
    public static let hostDown: Int32 = 112
}

/// What came back for a call.
public struct RpcReply: Sendable {
    /// The response message, still encoded.
    public var body: Bytes
    /// Raw bytes that came behind it.
    public var attachment: Bytes

    /// A reply.
    public init(body: Bytes, attachment: Bytes = Bytes()) {
        self.body = body
        self.attachment = attachment
    }
}

/// The outcome of a call.
public enum RpcResult: Sendable {
    /// The server answered.
    case reply(RpcReply)
    /// The server, or the way to it, failed.
    case failed(RpcError)
}
