internal import RaftCore

/// One baidu_std frame, cut out of a stream; nothing of it is interpreted yet.
///
///     'PRPC'  body_size: u32 big endian  meta_size: u32 big endian  meta  message  attachment
///
/// `body_size` counts everything behind the 12-byte header. Where the message ends and the attachment begins is
/// said in the meta (``FrameCodec``).
struct Frame {
    static let headerBytes = 12
    static let magic: [UInt8] = [0x50, 0x52, 0x50, 0x43]
    /// brpc's limit of `body_size`; equal is allowed.
    static let bodyBytesMax = 64 << 20

    /// The encoded RpcMeta.
    var meta: Bytes
    /// Message and attachment.
    var payload: Bytes
    /// Size with header.
    var bytes: Int { Frame.headerBytes + meta.count + payload.count }

    /// An error's text: the attachment is said to be larger than what there is.
    func misfit(ofAttachment bytes: Int) -> String {
        "attachment_size \(bytes) does not fit the \(payload.count) bytes behind the metadata"
    }

    /// What stands at a place in a stream.
    enum Step {
        case frame(Frame)
        /// A frame of `needed` bytes has begun; 0 if that is not known yet.
        case incomplete(needed: Int)
        /// Not a frame; the stream cannot be followed any further.
        case malformed(String)
    }

    /// Reads what stands at `start`. `meta_size` above `body_size` ends the stream here, where brpc drops the frame
    /// and tries other protocols on what follows: behind a broken length nothing can be trusted.
    static func next(in bytes: Bytes, at start: Int, bodyBytesMax: Int) -> Step {
        let available = bytes.count - start
        return bytes.withUnsafeBytes { buffer in
            for position in 0..<min(available, magic.count) where buffer[start + position] != magic[position] {
                return .malformed("not a PRPC frame")
            }
            guard available >= headerBytes else { return .incomplete(needed: 0) }
            let bodyBytes = number(in: buffer, at: start + 4)
            let metaBytes = number(in: buffer, at: start + 8)
            guard bodyBytes <= bodyBytesMax else {
                return .malformed("a frame of \(bodyBytes) bytes, \(bodyBytesMax) are allowed")
            }
            guard metaBytes <= bodyBytes else {
                return .malformed("a frame of \(bodyBytes) bytes with \(metaBytes) bytes of metadata")
            }
            guard available >= headerBytes + bodyBytes else { return .incomplete(needed: headerBytes + bodyBytes) }
            let metaStart = start + headerBytes
            return .frame(
                Frame(
                    meta: bytes.slice(from: metaStart, count: metaBytes),
                    payload: bytes.slice(from: metaStart + metaBytes, count: bodyBytes - metaBytes)))
        }
    }

    /// Writes the header of a frame.
    static func writeHeader(bodyBytes: Int, metaBytes: Int, to base: UnsafeMutableRawPointer) {
        base.copyMemory(from: magic, byteCount: magic.count)
        base.storeBytes(of: UInt32(bodyBytes).bigEndian, toByteOffset: 4, as: UInt32.self)
        base.storeBytes(of: UInt32(metaBytes).bigEndian, toByteOffset: 8, as: UInt32.self)
    }

    private static func number(in buffer: UnsafeRawBufferPointer, at offset: Int) -> Int {
        Int(UInt32(bigEndian: buffer.loadUnaligned(fromByteOffset: offset, as: UInt32.self)))
    }
}
