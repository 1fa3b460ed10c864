import RaftCore

/// Input that is nearly right, or not at all.
enum Fuzz {
    /// Garbage, or up to three requests of one protocol with a few mutations.
    static func input(_ random: inout SeededRandom) -> [UInt8] {
        switch random.number(in: 0..<8) {
        case 0: return noise(&random, upTo: 300)
        case 1: return Array("PRPC".utf8) + noise(&random, upTo: 100)
        default:
            let source = random.number(in: 0..<2) == 0 ? frames : commands
            var bytes: [UInt8] = []
            for _ in 0..<random.number(in: 1..<4) { bytes += source[pick(source.count, &random)] }
            for _ in 0..<random.number(in: 0..<5) { mutate(&bytes, &random) }
            return bytes
        }
    }

    private static func mutate(_ bytes: inout [UInt8], _ random: inout SeededRandom) {
        guard !bytes.isEmpty else { return }
        let position = pick(bytes.count, &random)
        switch random.number(in: 0..<6) {
        case 0: bytes[position] ^= 1 << UInt8(random.number(in: 0..<8))
        case 1: bytes[position] = UInt8(random.number(in: 0..<256))
        case 2: bytes.removeSubrange(position...)
        case 3: bytes.insert(contentsOf: noise(&random, upTo: 8), at: position)
        case 4: bytes.remove(at: position)
        default:
            // a length that lies
            let lie: UInt8 = random.number(in: 0..<2) == 0 ? 0xff : 0
            for offset in position..<min(position + 4, bytes.count) { bytes[offset] = lie }
        }
    }

    private static func noise(_ random: inout SeededRandom, upTo count: Int) -> [UInt8] {
        (0..<pick(count, &random)).map { _ in UInt8(random.number(in: 0..<256)) }
    }

    private static func pick(_ count: Int, _ random: inout SeededRandom) -> Int {
        Int(random.number(in: 0..<Int64(count)))
    }

    // MARK: requests that are right

    private static let commands: [[UInt8]] = {
        let texts = [
            ["PING"], ["ECHO", "hello"], ["GET", "k"], ["MGET", "a", "b", "c"], ["SCAN", "0", "COUNT", "10"],
            ["DBSIZE"], ["SET", "fuzz", "v", "PX", "1000"], ["HELLO", "3"], ["CLIENT", "SETNAME", "me"],
            ["EXPIRE", "fuzz", "1"],
        ]
        let inline = ["GET k\r\n", "*-1\r\n"].map { Array($0.utf8) }
        return texts.map { RawConnection.encoded($0.map { Array($0.utf8) }) } + inline
    }()

    private static let frames: [[UInt8]] = [
        ("flotilla.ClusterService", "status"), ("flotilla.ClusterService", "get_map"),
        ("flotilla.ClusterService", "init"), ("flotilla.ClusterService", "bootstrap"),
        ("flotilla.ClusterService", "create_replica"), ("flotilla.KvService", "execute"),
        ("flotilla.ClusterService", "schedule"), ("flotilla.ClusterService", "load"),
        ("flotilla.NodeService", "hello"), ("flotilla.LivenessService", "support"),
        ("braft.RaftService", "pre_vote"), ("braft.RaftService", "append_entries"), ("NoService", "none"),
    ].map { frame(service: $0.0, method: $0.1, body: field(1, Array("g1".utf8)) + [0x10, 0x01, 0x18, 0x02]) }

    /// A baidu_std request: `"PRPC" bodySize:u32 metaSize:u32 meta body`, big endian.
    private static func frame(service: String, method: String, body: [UInt8]) -> [UInt8] {
        let request = field(1, Array(service.utf8)) + field(2, Array(method.utf8))
        let meta = field(1, request) + [0x20, 0x07]
        func size(_ count: Int) -> [UInt8] { [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: count >> $0) } }
        return Array("PRPC".utf8) + size(meta.count + body.count) + size(meta.count) + meta + body
    }

    /// A length-delimited protobuf field of fewer than 128 bytes.
    private static func field(_ number: UInt8, _ content: [UInt8]) -> [UInt8] {
        [number << 3 | 2, UInt8(content.count)] + content
    }
}
