import RaftCore

/// Fills bytes of a known length from front to back; numbers are big-endian, so that their order is that of the bytes.
struct ByteWriter {
    private let buffer: UnsafeMutableRawBufferPointer
    private var used = 0

    /// `count` bytes, all of which `body` must write.
    static func bytes(_ count: Int, _ body: (inout ByteWriter) -> Void) -> Bytes {
        Bytes(count: count) { buffer in
            var writer = ByteWriter(buffer)
            body(&writer)
            precondition(writer.used == count, "another length was announced than written")
        }
    }

    private init(_ buffer: UnsafeMutableRawBufferPointer) { self.buffer = buffer }

    mutating func put(_ byte: UInt8) {
        buffer[used] = byte
        used += 1
    }

    mutating func put(_ number: UInt64) {
        buffer.storeBytes(of: number.bigEndian, toByteOffset: used, as: UInt64.self)
        used += 8
    }

    mutating func put(_ number: UInt32) {
        buffer.storeBytes(of: number.bigEndian, toByteOffset: used, as: UInt32.self)
        used += 4
    }

    mutating func put(_ number: Int64) { put(UInt64(bitPattern: number)) }

    mutating func put(_ bytes: Bytes) {
        bytes.withUnsafeBytes { source in
            UnsafeMutableRawBufferPointer(rebasing: buffer[used...]).copyMemory(from: source)
        }
        used += bytes.count
    }
}

/// Reads what ``ByteWriter`` wrote; nil once the bytes do not suffice.
struct ByteReader {
    private let bytes: Bytes
    private var used = 0

    init(_ bytes: Bytes, from start: Int = 0) {
        self.bytes = bytes
        used = min(start, bytes.count)
    }

    mutating func byte() -> UInt8? {
        guard used < bytes.count else { return nil }
        defer { used += 1 }
        return bytes[used]
    }

    mutating func number() -> UInt64? {
        guard bytes.count - used >= 8 else { return nil }
        defer { used += 8 }
        return bytes.withUnsafeBytes { UInt64(bigEndian: $0.loadUnaligned(fromByteOffset: used, as: UInt64.self)) }
    }

    mutating func shortNumber() -> UInt32? {
        guard bytes.count - used >= 4 else { return nil }
        defer { used += 4 }
        return bytes.withUnsafeBytes { UInt32(bigEndian: $0.loadUnaligned(fromByteOffset: used, as: UInt32.self)) }
    }

    /// The next `count` bytes, sharing the memory.
    mutating func bytes(_ count: Int) -> Bytes? {
        guard bytes.count - used >= count else { return nil }
        defer { used += count }
        return bytes.slice(from: used, count: count)
    }

    mutating func signedNumber() -> Int64? { number().map { Int64(bitPattern: $0) } }

    /// Whether everything has been read.
    var isAtEnd: Bool { used == bytes.count }

    /// Everything not read yet, sharing the memory.
    var rest: Bytes { bytes.suffix(from: used) }
}
