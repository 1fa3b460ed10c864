/// A frame of baidu_std, put together and taken apart without the code of a node.
public struct BraftFrame: Equatable, Sendable {
    /// RpcMeta.
    public var meta: WireFields
    /// The message.
    public var body: [UInt8]
    /// What stands behind it.
    public var attachment: [UInt8]

    static let headerBytes = 12

    /// A frame of these parts; `meta` must tell the size of the attachment.
    public init(meta: WireFields, body: [UInt8] = [], attachment: [UInt8] = []) {
        self.meta = meta
        self.body = body
        self.attachment = attachment
    }

    /// A request with the least a server needs.
    public init(
        service: String, method: String, correlationID: Int64, body: [UInt8] = [], attachment: [UInt8] = []
    ) {
        let meta = WireFields().message(1, WireFields().text(1, service).text(2, method)).number(4, correlationID)
        self.init(
            meta: attachment.isEmpty ? meta : meta.number(5, Int64(attachment.count)), body: body,
            attachment: attachment)
    }

    /// A whole frame at the beginning of `bytes`; nil if it is not all there, or is none.
    public init?(_ bytes: [UInt8]) {
        guard let size = BraftFrame.size(in: bytes), bytes.count >= size else { return nil }
        let metaBytes = BraftFrame.number(bytes, 8)
        let payload = bytes[(BraftFrame.headerBytes + metaBytes)..<size]
        guard let meta = WireFields(Array(bytes[BraftFrame.headerBytes..<(BraftFrame.headerBytes + metaBytes)])),
            let attachmentBytes = Int(exactly: meta.integer(5) ?? 0), attachmentBytes >= 0,
            attachmentBytes <= payload.count
        else { return nil }
        self.init(
            meta: meta, body: Array(payload.dropLast(attachmentBytes)),
            attachment: Array(payload.suffix(attachmentBytes)))
    }

    /// How many bytes the frame at the beginning of `bytes` has; nil if its header is not there, or is none.
    static func size(in bytes: [UInt8]) -> Int? {
        guard bytes.count >= headerBytes, bytes.starts(with: Array("PRPC".utf8)), number(bytes, 8) <= number(bytes, 4)
        else { return nil }
        return headerBytes + number(bytes, 4)
    }

    private static func number(_ bytes: [UInt8], _ offset: Int) -> Int {
        bytes[offset..<offset + 4].reduce(0) { $0 << 8 | Int($1) }
    }

    /// The frame's bytes.
    public var encoded: [UInt8] {
        let meta = self.meta.encoded
        func word(_ number: Int) -> [UInt8] {
            (0..<4).map { UInt8(truncatingIfNeeded: number >> (24 - 8 * $0)) }
        }
        let bodyBytes = meta.count + body.count + attachment.count
        return Array("PRPC".utf8) + word(bodyBytes) + word(meta.count) + meta + body + attachment
    }

    /// The id that an answer shares with its request.
    public var correlationID: Int64 { meta.integer(4) ?? 0 }
    /// The service of a request.
    public var service: String? { meta.messages(1).first?.text(1) }
    /// The method of a request.
    public var method: String? { meta.messages(1).first?.text(2) }
    /// The error of an answer; 0 is success.
    public var errorCode: Int64 { meta.messages(2).first?.integer(1) ?? 0 }
    /// The text of an answer's error.
    public var errorText: String { meta.messages(2).first?.text(2) ?? "" }
}
