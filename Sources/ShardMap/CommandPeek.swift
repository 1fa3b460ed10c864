public import RaftCore

/// What a leader must know of a packed ``GroupCommand`` before it proposes it, found without unpacking it.
public struct CommandPeek: Equatable, Sendable {
    /// What a client may send.
    public enum Kind: Sendable {
        /// A session's write.
        case write
        /// An open of a session.
        case openSession
        /// Anything else: clients may not send it.
        case other
    }

    /// What it is.
    public var kind: Kind
    /// Whether an operation in it sets an expiry, so that the group's time should be fresh when it is applied.
    public var setsExpiry: Bool
    /// Its format: the cluster level that its sender says it needs.
    public var format: UInt64
    /// The cluster level that it needs, whatever its sender says. What is above the cluster's must never be proposed: a
    /// replica might not know it. Counts only if ``isKnown``.
    public var level: UInt64
    /// How many operations it carries.
    public var operationCount: Int
    /// Whether this version knows what each of them does; otherwise it must never be proposed either.
    public var isKnown: Bool
    /// The shard that a write is for; 0 for anything else.
    public var shard: UInt64

    /// Looks at `command`; nil if it is not a well-formed message.
    public init?(_ command: Bytes) {
        let peek = command.withUnsafeBytes { buffer in
            CommandPeek(reading: ProtobufCursor(buffer))
        }
        guard let peek else { return nil }
        self = peek
    }

    /// The key of the first operation of a write, in memory of its own; nil if there is none.
    public static func firstKey(of command: Bytes) -> Bytes? {
        command.withUnsafeBytes { buffer in
            var cursor = ProtobufCursor(buffer)
            return cursor.first(2).flatMap { write in
                var write = write
                return write.first(6).flatMap { operation in
                    var operation = operation
                    return operation.first(2).map { Bytes(copying: $0.buffer) }
                }
            }
        }
    }

    private init?(reading start: ProtobufCursor) {
        kind = .other
        setsExpiry = false
        operationCount = 0
        isKnown = true
        shard = 0
        level = UInt64(ClusterLevel.first)
        var formatFound: UInt64?
        var kinds = 0
        var cursor = start
        while let field = cursor.nextField() {
            switch (field.number, field.content) {
            case (1, nil): formatFound = UInt64(UInt32(truncatingIfNeeded: field.value))
            case (2, let content?):
                kind = .write
                kinds += 1
                guard let write = CommandPeek.look(atWrite: content) else { return nil }
                (setsExpiry, operationCount, isKnown) = (write.setsExpiry, write.operationCount, write.isKnown)
                shard = write.shard
                level = UInt64(write.level)
            case (3, .some):
                kind = .openSession
                kinds += 1
            case (4, _), (5, _), (6, _), (7, _):
                kinds += 1
                kind = .other
            default: break
            }
        }
        guard cursor.isAtEnd, kinds == 1, let formatFound else { return nil }
        format = formatFound
        level = max(level, formatFound)
    }

    private static func look(
        atWrite write: ProtobufCursor
    ) -> (setsExpiry: Bool, operationCount: Int, isKnown: Bool, shard: UInt64, level: UInt32)? {
        var cursor = write
        var result = (
            setsExpiry: false, operationCount: 0, isKnown: true, shard: UInt64(0), level: ClusterLevel.first
        )
        while let field = cursor.nextField() {
            if field.number == 1, field.content == nil { result.shard = field.value }
            guard field.number == 6, var operation = field.content else { continue }
            result.operationCount += 1
            while let part = operation.nextField() {
                switch part.number {
                case 1:
                    guard let code = KeyOperation.Code(rawValue: UInt32(truncatingIfNeeded: part.value)) else {
                        result.isKnown = false
                        break
                    }
                    if code == .expire { result.setsExpiry = true }
                    result.level = max(result.level, code.level)
                case 4:
                    let condition = KeyOperation.Condition(rawValue: UInt32(truncatingIfNeeded: part.value))
                    if condition == nil { result.isKnown = false }
                    result.level = max(result.level, condition?.level ?? 0)
                case 6, 9: result.setsExpiry = true  // expire_in_ms, expires_at_ms
                default: break
                }
            }
            guard operation.isAtEnd else { return nil }
        }
        return cursor.isAtEnd ? result : nil
    }
}

/// Walks the fields of a packed protobuf message.
private struct ProtobufCursor {
    let buffer: UnsafeRawBufferPointer
    private var position = 0

    init(_ buffer: UnsafeRawBufferPointer) { self.buffer = buffer }

    var isAtEnd: Bool { position == buffer.count }

    /// The content of the first field of this number that has any.
    mutating func first(_ number: UInt64) -> ProtobufCursor? {
        while let field = nextField() {
            if field.number == number, let content = field.content { return content }
        }
        return nil
    }

    /// The next field: its number, and its value if that is a number, of which protobuf reads the low 32 bits into a
    /// field of so many whatever stands above them, or its bytes. Nil at the end, or where it is malformed.
    mutating func nextField() -> (number: UInt64, value: UInt64, content: ProtobufCursor?)? {
        let start = position
        guard let tag = varint() else {
            position = start
            return nil
        }
        switch tag & 7 {
        case 0: if let value = varint() { return (tag >> 3, value, nil) }
        case 1: if skip(8) { return (tag >> 3, 0, nil) }
        case 2:
            if let length = varint(), length <= UInt64(buffer.count - position) {
                let content = UnsafeRawBufferPointer(rebasing: buffer[position..<position + Int(length)])
                position += Int(length)
                return (tag >> 3, 0, ProtobufCursor(content))
            }
        case 5: if skip(4) { return (tag >> 3, 0, nil) }
        default: break
        }
        position = start
        return nil
    }

    private mutating func varint() -> UInt64? {
        var value: UInt64 = 0
        for shift in stride(from: UInt64(0), to: 64, by: 7) {
            guard position < buffer.count else { return nil }
            let byte = buffer[position]
            position += 1
            value |= UInt64(byte & 0x7f) << shift
            if byte < 0x80 { return value }
        }
        return nil
    }

    private mutating func skip(_ count: Int) -> Bool {
        guard buffer.count - position >= count else { return false }
        position += count
        return true
    }
}
