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
    /// Its format. One that is newer than this version must never be proposed: no replica could apply it.
    public var format: UInt64
    /// How many operations it carries.
    public var operationCount: Int
    /// Whether this version knows what each of them does; otherwise it must never be proposed either.
    public var isKnown: Bool

    /// Looks at `command`; nil if it is not a well-formed message.
    public init?(_ command: Bytes) {
        let peek = command.withUnsafeBytes { buffer in
            CommandPeek(reading: ProtobufCursor(buffer))
        }
        guard let peek else { return nil }
        self = peek
    }

    private init?(reading start: ProtobufCursor) {
        kind = .other
        setsExpiry = false
        operationCount = 0
        isKnown = true
        var formatFound: UInt64?
        var kinds = 0
        var cursor = start
        while let field = cursor.nextField() {
            switch (field.number, field.content) {
            case (1, nil): formatFound = UInt64(field.low)
            case (2, let content?):
                kind = .write
                kinds += 1
                guard let write = CommandPeek.look(atWrite: content) else { return nil }
                (setsExpiry, operationCount, isKnown) = (write.setsExpiry, write.operationCount, write.isKnown)
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
    }

    private static func look(
        atWrite write: ProtobufCursor
    ) -> (setsExpiry: Bool, operationCount: Int, isKnown: Bool)? {
        var cursor = write
        var result = (setsExpiry: false, operationCount: 0, isKnown: true)
        while let field = cursor.nextField() {
            guard field.number == 6, var operation = field.content else { continue }
            result.operationCount += 1
            while let part = operation.nextField() {
                switch part.number {
                case 1:
                    guard let code = KeyOperation.Code(rawValue: part.low) else {
                        result.isKnown = false
                        break
                    }
                    if code == .expire { result.setsExpiry = true }
                case 4: if KeyOperation.Condition(rawValue: part.low) == nil { result.isKnown = false }
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
    private let buffer: UnsafeRawBufferPointer
    private var position = 0

    init(_ buffer: UnsafeRawBufferPointer) { self.buffer = buffer }

    var isAtEnd: Bool { position == buffer.count }

    /// The next field: its number, and its value if that is a number, of which protobuf reads the low 32 bits into such a
    /// field whatever stands above them, or its bytes. Nil at the end, or where it is malformed.
    mutating func nextField() -> (number: UInt64, low: UInt32, content: ProtobufCursor?)? {
        let start = position
        guard let tag = varint() else {
            position = start
            return nil
        }
        switch tag & 7 {
        case 0: if let value = varint() { return (tag >> 3, UInt32(truncatingIfNeeded: value), nil) }
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
