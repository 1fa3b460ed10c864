public import CMessages
public import RaftCore

/// Memory for protobuf-c messages while they are built or read: allocation moves a pointer, freeing is forgetting.
///
/// Use one arena per thread and keep it; ``scope(_:)`` forgets everything allocated inside it.
/// A message that was read points into it, so one that is made for a single message must be kept alive, by a scope or
/// otherwise, until everything of the message has been copied.
public final class Arena {
    private var blocks: [(base: UnsafeMutableRawPointer, capacity: Int)] = []
    private var block = 0
    private var used = 0
    private var kept: [Bytes] = []
    private var depth = 0

    private static let blockBytes = 64 << 10
    /// Blocks kept for the next scope, in bytes; a larger message's blocks are returned at once.
    private static let keptBytes = 1 << 20

    /// An empty arena.
    public init() {}

    deinit { for block in blocks { block.base.deallocate() } }

    /// Runs `body`; what it allocates here lives until it returns.
    public func scope<R, E: Error>(_ body: (Arena) throws(E) -> R) throws(E) -> R {
        let mark = (block, used, kept.count)
        depth += 1
        defer {
            depth -= 1
            (block, used) = (mark.0, mark.1)
            kept.removeLast(kept.count - mark.2)
            if depth == 0 { trim() }
        }
        return try body(self)
    }

    private func trim() {
        var total = 0
        for (index, block) in blocks.enumerated() {
            total += block.capacity
            if total > Arena.keptBytes && index > 0 {
                for block in blocks[index...] { block.base.deallocate() }
                blocks.removeSubrange(index...)
                return
            }
        }
    }

    /// `count` bytes, aligned to 16.
    public func allocate(_ count: Int) -> UnsafeMutableRawPointer {
        let size = (max(count, 1) + 15) & ~15
        while block < blocks.count {
            if used + size <= blocks[block].capacity {
                defer { used += size }
                return blocks[block].base + used
            }
            block += 1
            used = 0
        }
        let capacity = max(size, Arena.blockBytes)
        blocks.append((UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 16), capacity))
        block = blocks.count - 1
        used = size
        return blocks[block].base
    }

    // MARK: building

    /// A new message, set up by protobuf-c's own `…__init`.
    @inlinable public func make<M>(_ initialize: (UnsafeMutablePointer<M>?) -> Void) -> UnsafeMutablePointer<M> {
        let message = allocate(MemoryLayout<M>.size).assumingMemoryBound(to: M.self)
        initialize(message)
        return message
    }

    /// `text` as a C string.
    public func string(_ text: String) -> UnsafeMutablePointer<CChar> {
        var text = text
        return text.withUTF8 { utf8 in
            let copy = allocate(utf8.count + 1)
            if let base = utf8.baseAddress { copy.copyMemory(from: base, byteCount: utf8.count) }
            copy.storeBytes(of: 0, toByteOffset: utf8.count, as: UInt8.self)
            return copy.assumingMemoryBound(to: CChar.self)
        }
    }

    /// `bytes` as a protobuf bytes field, not copied; kept alive until the scope ends.
    public func data(_ bytes: Bytes) -> ProtobufCBinaryData {
        kept.append(bytes)
        return bytes.withUnsafeBytes { buffer in
            ProtobufCBinaryData(
                len: buffer.count,
                data: buffer.baseAddress.map { UnsafeMutablePointer(mutating: $0.assumingMemoryBound(to: UInt8.self)) })
        }
    }

    /// The elements as a C array for a repeated field (count and pointer are set by the caller).
    @inlinable public func array<T>(_ elements: [T]) -> UnsafeMutablePointer<T> {
        let array = allocate(MemoryLayout<T>.stride * elements.count).assumingMemoryBound(to: T.self)
        for (index, element) in elements.enumerated() { (array + index).initialize(to: element) }
        return array
    }

    /// Texts as a repeated string field.
    public func strings(_ texts: [String]) -> UnsafeMutablePointer<UnsafeMutablePointer<CChar>?> {
        array(texts.map { Optional(string($0)) })
    }

    /// The message's wire form in memory of its own.
    @inlinable public func pack<M>(_ message: UnsafeMutablePointer<M>) -> Bytes {
        packBase(UnsafeRawPointer(message).assumingMemoryBound(to: ProtobufCMessage.self))
    }

    /// The message's wire form in memory of its own.
    public func packBase(_ message: UnsafePointer<ProtobufCMessage>) -> Bytes {
        let size = protobuf_c_message_get_packed_size(message)
        return Bytes(count: size) { buffer in
            guard let base = buffer.baseAddress else { return }
            let written = protobuf_c_message_pack(message, base.assumingMemoryBound(to: UInt8.self))
            precondition(written == size, "protobuf-c packed another size than it announced")
        }
    }

    // MARK: reading

    /// Parses `bytes` as the message that `initialize` (protobuf-c's `…__init`) sets up; nil if they are not one. The
    /// message lives until the scope ends.
    @inlinable public func unpack<M>(
        _ initialize: (UnsafeMutablePointer<M>?) -> Void, _ bytes: Bytes
    ) -> UnsafeMutablePointer<M>? {
        // a message's first word is its descriptor; the C constant itself has no stable address in Swift
        let prototype = make(initialize)
        let base = UnsafeMutableRawPointer(prototype).assumingMemoryBound(to: ProtobufCMessage.self)
        return unpackBase(base.pointee.descriptor, bytes)
            .map { UnsafeMutableRawPointer($0).assumingMemoryBound(to: M.self) }
    }

    /// Parses `bytes` as the message of `descriptor`; nil if they are not one.
    public func unpackBase(
        _ descriptor: UnsafePointer<ProtobufCMessageDescriptor>, _ bytes: Bytes
    ) -> UnsafeMutablePointer<ProtobufCMessage>? {
        var allocator = ProtobufCAllocator(
            alloc: { context, size in
                Unmanaged<Arena>.fromOpaque(context!).takeUnretainedValue().allocate(size)
            },
            free: { _, _ in },
            allocator_data: Unmanaged.passUnretained(self).toOpaque())
        return bytes.withUnsafeBytes { buffer in
            var empty: UInt8 = 0
            return withUnsafeMutablePointer(to: &empty) { nothing in
                let base = buffer.baseAddress?.assumingMemoryBound(to: UInt8.self) ?? UnsafePointer(nothing)
                return protobuf_c_message_unpack(descriptor, &allocator, buffer.count, base)
            }
        }
    }
}

extension Bytes {
    /// A copy of a protobuf bytes field.
    public init(_ data: ProtobufCBinaryData) {
        self.init(copying: UnsafeRawBufferPointer(start: data.data, count: data.len))
    }
}

extension String {
    /// A copy of a protobuf string field; empty if absent.
    public init(field: UnsafePointer<CChar>?) {
        self = field.map { String(cString: $0) } ?? ""
    }
}
