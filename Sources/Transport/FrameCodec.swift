internal import CMessages
internal import CProtobufC
internal import RaftCore
internal import WireMessages

/// Puts frames together and takes them apart. One per server or channel; on the lane.
///
/// Header, metadata and message are packed into one slab by protobuf-c itself; attachments stay where they are and
/// are sent behind it.
final class FrameCodec {
    /// What a frame carries as its message.
    enum Body {
        /// To be packed.
        case message(UnsafePointer<ProtobufCMessage>)
        /// Packed already; sent behind the first piece.
        case encoded(Bytes)

        var bytes: Int {
            switch self {
            case .message(let message): protobuf_c_message_get_packed_size(message)
            case .encoded(let bytes): bytes.count
            }
        }

        /// Its bytes, in memory of their own if they were not packed yet.
        var packed: Bytes {
            switch self {
            case .encoded(let bytes): bytes
            case .message(let message):
                Bytes(count: bytes) { buffer in
                    guard let base = buffer.baseAddress else { return }
                    protobuf_c_message_pack(message, base.assumingMemoryBound(to: UInt8.self))
                }
            }
        }
    }

    /// A frame's pieces in sending order, or why it cannot be one.
    enum Encoding {
        case pieces(head: Bytes, body: Bytes)
        case tooLarge(Int)
    }

    private let arena = Arena()

    /// The request that calls `method` of `service`.
    func encodeRequest(
        service: String, method: String, correlationID: Int64, body: Body, attachmentBytes: Int
    ) -> Encoding {
        service.withCString { service in
            method.withCString { method in
                var request = Brpc__Policy__RpcRequestMeta()
                brpc__policy__rpc_request_meta__init(&request)
                request.service_name = UnsafeMutablePointer(mutating: service)
                request.method_name = UnsafeMutablePointer(mutating: method)
                return withUnsafeMutablePointer(to: &request) { request in
                    encode(correlationID, body, attachmentBytes) { $0.request = request }
                }
            }
        }
    }

    /// The answer to the request with that correlation id.
    func encodeReply(correlationID: Int64, body: Body, attachmentBytes: Int) -> Encoding {
        var response = Brpc__Policy__RpcResponseMeta()
        brpc__policy__rpc_response_meta__init(&response)
        response.has_error_code = 1
        return withUnsafeMutablePointer(to: &response) { response in
            encode(correlationID, body, attachmentBytes) { $0.response = response }
        }
    }

    /// The failure of the request with that correlation id: metadata only.
    func encodeFailure(correlationID: Int64, error: RpcError) -> Encoding {
        error.text.withCString { text in
            var response = Brpc__Policy__RpcResponseMeta()
            brpc__policy__rpc_response_meta__init(&response)
            response.has_error_code = 1
            response.error_code = error.code
            response.error_text = UnsafeMutablePointer(mutating: text)
            return withUnsafeMutablePointer(to: &response) { response in
                encode(correlationID, .encoded(Bytes()), 0) { $0.response = response }
            }
        }
    }

    private func encode(
        _ correlationID: Int64, _ body: Body, _ attachmentBytes: Int,
        _ fill: (inout Brpc__Policy__RpcMeta) -> Void
    ) -> Encoding {
        var meta = Brpc__Policy__RpcMeta()
        brpc__policy__rpc_meta__init(&meta)
        fill(&meta)
        meta.has_correlation_id = 1
        meta.correlation_id = correlationID
        if attachmentBytes > 0 {
            meta.has_attachment_size = 1
            meta.attachment_size = Int32(clamping: attachmentBytes)
        }
        let metaBytes = brpc__policy__rpc_meta__get_packed_size(&meta)
        let messageBytes = body.bytes
        let total = metaBytes + messageBytes + attachmentBytes
        guard total <= Frame.bodyBytesMax else { return .tooLarge(total) }
        var packedBytes = 0
        var following = Bytes()
        switch body {
        case .message: packedBytes = messageBytes
        case .encoded(let bytes): following = bytes
        }
        let head = Bytes(count: Frame.headerBytes + metaBytes + packedBytes) { buffer in
            guard let base = buffer.baseAddress else { return }
            Frame.writeHeader(bodyBytes: total, metaBytes: metaBytes, to: base)
            let place = (base + Frame.headerBytes).assumingMemoryBound(to: UInt8.self)
            var written = brpc__policy__rpc_meta__pack(&meta, place)
            if case .message(let message) = body {
                written += protobuf_c_message_pack(message, place + metaBytes)
            }
            precondition(written == metaBytes + packedBytes, "protobuf-c packed another size than it announced")
        }
        return .pieces(head: head, body: following)
    }

    /// Parses a frame's metadata for `read`; nil if it does not parse. The message is valid during the call only.
    func decodeMeta<R>(of frame: Frame, _ read: (borrowing Brpc__Policy__RpcMeta) -> R) -> R? {
        arena.scope { arena in
            arena.unpack(brpc__policy__rpc_meta__init, frame.meta).map { read($0.pointee) }
        }
    }

    /// What the frame uses that we do not speak, or nil.
    static func unsupportedFeature(of meta: borrowing Brpc__Policy__RpcMeta) -> String? {
        if meta.compress_type != 0 {
            let names = ["", " (snappy)", " (gzip)", " (zlib)", " (lz4)"]
            let type = Int(meta.compress_type)
            let name = names.indices.contains(type) ? names[type] : ""
            return "compression type \(type)\(name) is not supported; send the message as it is"
        }
        for index in 0..<Int(meta.base.n_unknown_fields) {
            let field = meta.base.unknown_fields[index]
            guard field.tag == contentTypeTag || field.tag == checksumTypeTag, !isZero(field) else { continue }
            return field.tag == contentTypeTag ? "only protobuf content is supported" : "checksums are not supported"
        }
        return nil
    }

    /// Fields of brpc 1.15 and later whose zero means what we speak.
    private static let contentTypeTag: UInt32 = 10
    private static let checksumTypeTag: UInt32 = 11

    private static func isZero(_ field: ProtobufCMessageUnknownField) -> Bool {
        for index in 0..<field.len where field.data[index] & 0x7f != 0 { return false }
        return true
    }
}
