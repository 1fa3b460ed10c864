/// Memory that slices of a message share; freed with the last of them.
///
/// A region of it is written once, by its owner, before a ``Bytes`` over that region exists; from then on it is
/// never written again. That is why slices may cross threads.
public final class Slab: @unchecked Sendable {
    /// First byte.
    public let base: UnsafeMutableRawPointer
    /// Size in bytes.
    public let capacity: Int

    /// Allocates `capacity` uninitialised bytes.
    public init(capacity: Int) {
        self.base = UnsafeMutableRawPointer.allocate(byteCount: max(capacity, 1), alignment: 16)
        self.capacity = capacity
    }

    deinit { base.deallocate() }
}

/// An immutable run of bytes: a slice of a reference-counted ``Slab``. Slicing copies nothing.
public struct Bytes: Sendable {
    @usableFromInline let slab: Slab?
    @usableFromInline let offset: Int
    /// Number of bytes.
    public let count: Int

    /// No bytes.
    @inlinable public init() {
        self.slab = nil
        self.offset = 0
        self.count = 0
    }

    /// The bytes `offset ..< offset + count` of `slab`, which must be written already.
    @inlinable public init(slab: Slab, offset: Int, count: Int) {
        precondition(offset >= 0 && count >= 0 && offset + count <= slab.capacity)
        self.slab = slab
        self.offset = offset
        self.count = count
    }

    /// A copy of `buffer`.
    public init(copying buffer: UnsafeRawBufferPointer) {
        guard let base = buffer.baseAddress, buffer.count > 0 else {
            self.init()
            return
        }
        let slab = Slab(capacity: buffer.count)
        slab.base.copyMemory(from: base, byteCount: buffer.count)
        self.init(slab: slab, offset: 0, count: buffer.count)
    }

    /// A copy of `array`.
    public init(_ array: [UInt8]) {
        self = array.withUnsafeBytes { Bytes(copying: $0) }
    }

    /// The UTF-8 form of `text`.
    public init(_ text: String) {
        var text = text
        self = text.withUTF8 { Bytes(copying: UnsafeRawBufferPointer($0)) }
    }

    /// A new slab of `count` bytes, filled once by `fill`.
    public init(count: Int, filledBy fill: (UnsafeMutableRawBufferPointer) -> Void) {
        let slab = Slab(capacity: count)
        fill(UnsafeMutableRawBufferPointer(start: slab.base, count: count))
        self.init(slab: slab, offset: 0, count: count)
    }

    /// Whether there are no bytes.
    @inlinable public var isEmpty: Bool { count == 0 }

    /// The bytes `start ..< start + count` of these, sharing their memory.
    @inlinable public func slice(from start: Int, count: Int) -> Bytes {
        precondition(start >= 0 && count >= 0 && start + count <= self.count)
        guard let slab, count > 0 else { return Bytes() }
        return Bytes(slab: slab, offset: offset + start, count: count)
    }

    /// Everything from `start` on.
    @inlinable public func suffix(from start: Int) -> Bytes { slice(from: start, count: count - start) }

    /// Calls `body` with the memory; the pointer is valid during the call only.
    @inlinable public func withUnsafeBytes<R, E: Error>(
        _ body: (UnsafeRawBufferPointer) throws(E) -> R
    ) throws(E) -> R {
        guard let slab else { return try body(UnsafeRawBufferPointer(start: nil, count: 0)) }
        return try withExtendedLifetime(slab) { () throws(E) -> R in
            try body(UnsafeRawBufferPointer(start: slab.base + offset, count: count))
        }
    }

    /// The byte at `position`.
    @inlinable public subscript(position: Int) -> UInt8 {
        precondition(position >= 0 && position < count)
        return slab!.base.load(fromByteOffset: offset + position, as: UInt8.self)
    }

    /// A copy as an array.
    public var array: [UInt8] { withUnsafeBytes { Array($0) } }

    /// The bytes read as UTF-8, invalid sequences repaired.
    public var text: String { withUnsafeBytes { String(decoding: $0, as: UTF8.self) } }

    /// A copy with memory of its own, so that a small slice does not keep a large slab alive.
    public var compacted: Bytes {
        guard let slab, slab.capacity > count &+ 64 else { return self }
        return withUnsafeBytes { Bytes(copying: $0) }
    }
}

extension Bytes: Hashable, Comparable {
    /// Equality of contents.
    public static func == (left: Bytes, right: Bytes) -> Bool {
        left.count == right.count
            && left.withUnsafeBytes { l in right.withUnsafeBytes { r in Bytes.firstDifference(l, r) == l.count } }
    }

    /// Lexicographic order of unsigned bytes.
    public static func < (left: Bytes, right: Bytes) -> Bool {
        left.withUnsafeBytes { l in
            right.withUnsafeBytes { r in
                let common = Bytes.firstDifference(l, r)
                guard common < l.count, common < r.count else { return l.count < r.count }
                return l[common] < r[common]
            }
        }
    }

    /// How many bytes both begin with; eight at a time, for keys of a store are long and alike.
    private static func firstDifference(_ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer) -> Int {
        let count = min(left.count, right.count)
        var position = 0
        while position &+ 8 <= count {
            let difference =
                left.loadUnaligned(fromByteOffset: position, as: UInt64.self)
                ^ right.loadUnaligned(fromByteOffset: position, as: UInt64.self)
            if difference != 0 { return position &+ UInt64(littleEndian: difference).trailingZeroBitCount / 8 }
            position &+= 8
        }
        while position < count, left[position] == right[position] { position &+= 1 }
        return position
    }

    /// Feeds the contents to `hasher`.
    public func hash(into hasher: inout Hasher) { withUnsafeBytes { hasher.combine(bytes: $0) } }
}

extension Bytes: CustomStringConvertible {
    /// Printable ASCII as it is, every other byte as `\xHH`.
    public var description: String {
        var text = ""
        for byte in array {
            if byte >= 0x20, byte < 0x7f, byte != 0x5c {
                text.unicodeScalars.append(Unicode.Scalar(byte))
            } else {
                let hex = String(byte, radix: 16)
                text += "\\x" + (hex.count < 2 ? "0" : "") + hex
            }
        }
        return text
    }
}
