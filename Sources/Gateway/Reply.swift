internal import RaftCore
internal import Transport

/// The versions of the Redis protocol; a connection speaks the first until HELLO.
enum ProtocolVersion: Int64 {
    case resp2 = 2
    case resp3 = 3
}

/// A reply, before it is known in which version of the protocol it leaves.
enum Reply: Equatable {
    case simple(String)
    case error(Refusal)
    case integer(Int64)
    case bulk(Bytes)
    case text(String)
    /// Text for people to read as it is.
    case verbatim(String)
    case null
    case array([Reply])
    case set([Reply])
    /// Keys and values in turn.
    case map([Reply])

    static let ok = Reply.simple("OK")
}

/// Puts replies into as few pieces as is sensible: small ones are joined, large values go as they are. Used by the
/// connections of a lane in turn; each has it for one round.
final class ReplyWriter {
    /// From this size on a value is not copied but sent as a piece of its own.
    static let separateBytes = 16 << 10
    /// Memory that is kept between rounds.
    private static let keptBytes = 1 << 20

    private var joined: [UInt8] = []

    /// Encodes `reply` for `connection`.
    func write(_ reply: Reply, _ version: ProtocolVersion, to connection: any Connection) {
        switch reply {
        case .simple(let text): line(UInt8(ascii: "+"), text)
        case .error(let refusal): line(UInt8(ascii: "-"), refusal.text)
        case .integer(let number): header(UInt8(ascii: ":"), number)
        case .bulk(let bytes): bulk(bytes, to: connection)
        case .text(let text):
            header(UInt8(ascii: "$"), Int64(text.utf8.count))
            joined.append(contentsOf: text.utf8)
            lineEnd()
        case .verbatim(let text):
            guard version == .resp3 else { return write(.text(text), version, to: connection) }
            header(UInt8(ascii: "="), Int64(text.utf8.count + 4))
            joined.append(contentsOf: "txt:".utf8)
            joined.append(contentsOf: text.utf8)
            lineEnd()
        case .null: joined.append(contentsOf: (version == .resp3 ? "_\r\n" : "$-1\r\n").utf8)
        case .array(let items): list(UInt8(ascii: "*"), items.count, items, version, to: connection)
        case .set(let items):
            let marker = version == .resp3 ? UInt8(ascii: "~") : UInt8(ascii: "*")
            list(marker, items.count, items, version, to: connection)
        case .map(let items):
            precondition(items.count % 2 == 0, "a key without a value")
            if version == .resp3 {
                list(UInt8(ascii: "%"), items.count / 2, items, version, to: connection)
            } else {
                list(UInt8(ascii: "*"), items.count, items, version, to: connection)
            }
        }
    }

    /// Sends what has been joined.
    func flush(to connection: any Connection) {
        guard !joined.isEmpty else { return }
        connection.send(Bytes(joined))
        joined.removeAll(keepingCapacity: joined.capacity <= ReplyWriter.keptBytes)
    }

    private func list(
        _ marker: UInt8, _ count: Int, _ items: [Reply], _ version: ProtocolVersion, to connection: any Connection
    ) {
        header(marker, Int64(count))
        for item in items { write(item, version, to: connection) }
    }

    private func bulk(_ bytes: Bytes, to connection: any Connection) {
        header(UInt8(ascii: "$"), Int64(bytes.count))
        if bytes.count >= ReplyWriter.separateBytes {
            flush(to: connection)
            connection.send(bytes)
        } else {
            bytes.withUnsafeBytes { joined.append(contentsOf: $0) }
        }
        lineEnd()
    }

    private func header(_ marker: UInt8, _ number: Int64) {
        joined.append(marker)
        joined.append(contentsOf: String(number).utf8)
        lineEnd()
    }

    /// A line end inside would begin another reply.
    private func line(_ marker: UInt8, _ text: String) {
        joined.append(marker)
        for byte in text.utf8 { joined.append(byte == 0x0d || byte == 0x0a ? 0x20 : byte) }
        lineEnd()
    }

    private func lineEnd() {
        joined.append(0x0d)
        joined.append(0x0a)
    }
}
