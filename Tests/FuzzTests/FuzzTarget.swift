import RaftCore

/// One thing that strangers' bytes reach, and what must hold whatever they are.
///
/// A target traps if what it looks at does not hold; everything else is for the code under it to trap about.
struct FuzzTarget: Sendable {
    /// As `tools/fuzz` takes it, and the name of the directory of its corpus.
    let name: String
    let run: @Sendable (Bytes) -> Void

    static let all = [
        FuzzTarget(name: "rpc", run: fuzzRpc),
        FuzzTarget(name: "redis", run: fuzzRedis),
        FuzzTarget(name: "http", run: fuzzHttp),
        FuzzTarget(name: "json", run: fuzzJson),
        FuzzTarget(name: "commands", run: fuzzCommands),
        FuzzTarget(name: "raftwire", run: fuzzRaftWire),
        FuzzTarget(name: "snapshots", run: fuzzSnapshots),
        FuzzTarget(name: "files", run: fuzzFiles),
        FuzzTarget(name: "identity", run: fuzzIdentity),
        FuzzTarget(name: "store", run: fuzzStore),
        FuzzTarget(name: "records", run: fuzzRecords),
        FuzzTarget(name: "log", run: fuzzLog),
        FuzzTarget(name: "checkpoint", run: fuzzCheckpoint),
        FuzzTarget(name: "core", run: fuzzCore),
        FuzzTarget(name: "liveness", run: fuzzLiveness),
    ]
}

/// Choices drawn from the bytes of an input; zeros once there are no more.
struct Choices {
    private let bytes: Bytes
    private var position = 0

    init(_ bytes: Bytes) { self.bytes = bytes }

    var isAtEnd: Bool { position >= bytes.count }
    /// What has not been drawn yet.
    var rest: Bytes { bytes.suffix(from: min(position, bytes.count)) }

    mutating func byte() -> UInt8 {
        guard position < bytes.count else { return 0 }
        defer { position += 1 }
        return bytes[position]
    }

    mutating func number(below bound: Int) -> Int { Int(byte()) % bound }

    mutating func flag() -> Bool { byte() & 1 == 1 }

    mutating func short() -> Int { Int(byte()) << 8 | Int(byte()) }

    /// Mostly small; sometimes one at which arithmetic ends, or any.
    mutating func anyNumber() -> Int64 {
        let first = byte()
        switch first {
        case ..<0xe0: return Int64(first) % 32
        case 0xe0: return -1
        case 0xe1: return .max
        case 0xe2: return .min
        case 0xe3: return 1 << 62
        case 0xe4: return 1 << 62 - 1
        case 0xe5: return .max - 1
        case ..<0xf0: return Int64(short())
        default: return (0..<8).reduce(0) { number, _ in number << 8 | Int64(byte()) }
        }
    }

    /// The next bytes, as many as the next one says.
    mutating func run() -> Bytes {
        let count = min(Int(byte()), max(0, bytes.count - position))
        defer { position += count }
        return bytes.slice(from: min(position, bytes.count), count: count)
    }
}
