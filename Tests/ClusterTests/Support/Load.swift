import RaftCore
import ShardClient
import ShardMap
import Testing

/// Clients that read and write all over the keys, and what they know of the data afterwards.
///
/// Counters are incremented, so that a write that is lost or executed twice shows; registers are written and read, so
/// that a stale read shows; and what lies still shows whether a copy is whole.
final class Load: Sendable {
    /// Spread over all first bytes that have a shard of their own.
    private static let places = Array("!0?N]l{~")
    private static let stillKeys = 800

    private let counters: [Guarded<Count>]
    private let registers = Recorder()
    /// Looks over all keys.
    private let scans = Guarded(0)
    private let isOver = Flag()

    private struct Count {
        var acknowledged = 0
        /// With an unknown outcome.
        var possible = 0
    }

    init() { counters = Load.places.map { _ in Guarded(Count()) } }

    /// Increments that were acknowledged.
    var acknowledged: Int { counters.reduce(0) { $0 + $1.value.acknowledged } }

    /// Runs everybody until `body` returns or throws.
    func run(through clients: [Client], _ body: () async throws -> Void) async throws {
        for number in 0..<Load.stillKeys { try await clients[0].put(Load.stillKey(number), Load.stillValue(number)) }
        try await withThrowingTaskGroup(of: Void.self) { group in
            // however it ends
            defer { isOver.set() }
            for place in Load.places.indices {
                let client = clients[place % clients.count]
                group.addTask { await self.count(at: place, through: client) }
                group.addTask { await self.write(at: place, through: client) }
                group.addTask { await self.read(at: place, through: clients[(place + 1) % clients.count]) }
            }
            group.addTask { await self.scan(through: clients[0]) }
            try await body()
            isOver.set()
            try await group.waitForAll()
        }
    }

    /// Everything is there, nothing twice, and nothing else.
    func check(through client: Client) async throws {
        for place in Load.places.indices {
            let value = Int(try await client.get(Load.key("counter", place))?.text ?? "0") ?? -1
            let count = counters[place].value
            #expect(count.acknowledged > 20, "too little happened at \(Load.places[place])")
            #expect(
                (count.acknowledged...count.acknowledged + count.possible).contains(value),
                "\(value) is not \(count)")
        }
        #expect(scans.value > 1, "too few looks over all keys")
        for (key, history) in registers.all {
            #expect(history.operations.count > 50, "too little happened at \(key)")
            #expect(history.contradiction() == nil, "\(key)")
        }
        for number in 0..<Load.stillKeys {
            #expect(try await client.get(Load.stillKey(number)) == Load.stillValue(number))
        }
        #expect(try await client.count() == Int64(Load.stillKeys + 2 * Load.places.count))
    }

    private func count(at place: Int, through client: Client) async {
        while !isOver.isSet {
            do throws(ClientError) {
                try await client.increment(Load.key("counter", place))
                counters[place].change { $0.acknowledged += 1 }
            } catch {
                if error.error.outcome == .unknown { counters[place].change { $0.possible += 1 } }
            }
        }
    }

    private func write(at place: Int, through client: Client) async {
        let key = Load.key("register", place)
        var step = 0
        while !isOver.isSet {
            step += 1
            let began = ContinuousClock.now
            var ended: History.Moment?
            do throws(ClientError) {
                try await client.put(key, Bytes("\(step)"))
                ended = .now
            } catch {
                // what certainly did not happen leaves no trace
                guard error.error.outcome == .unknown else { continue }
            }
            registers.add(.init(kind: .write, value: "\(step)", began: began, ended: ended), to: key.text)
        }
    }

    private func read(at place: Int, through client: Client) async {
        let key = Load.key("register", place)
        while !isOver.isSet {
            let began = ContinuousClock.now
            do throws(ClientError) {
                let value = try await client.get(key)?.text
                registers.add(.init(kind: .read, value: value, began: began, ended: .now), to: key.text)
            } catch {
                // a read that fails says nothing
            }
        }
    }

    /// A look over all keys, through however many shards, shows each key that lies still once and in order.
    private func scan(through client: Client) async {
        let expected = (0..<Load.stillKeys).map { (Load.stillKey($0), Load.stillValue($0)) }.sorted { $0.0 < $1.0 }
        while !isOver.isSet {
            var seen: [(Bytes, Bytes)] = []
            var start = Bytes()
            do throws(ClientError) {
                while true {
                    let page = try await client.scan(from: start, limit: 100)
                    seen += page.pairs.filter { $0.key.suffix(from: 1).text.hasPrefix("still") }.map {
                        ($0.key, $0.value)
                    }
                    guard let next = page.next else { break }
                    start = next
                }
            } catch {
                // a look that is given up says nothing
                continue
            }
            scans.change { $0 += 1 }
            #expect(seen.elementsEqual(expected, by: ==), "\(seen.count) of \(expected.count) keys, or others")
        }
    }

    private static func key(_ kind: String, _ place: Int) -> Bytes { Bytes("\(places[place])\(kind)") }

    private static func stillKey(_ number: Int) -> Bytes {
        Bytes([UInt8(0x21 + number % 94)] + Array("still\(number)".utf8))
    }

    private static func stillValue(_ number: Int) -> Bytes {
        Bytes([UInt8](repeating: UInt8(0x41 + number % 26), count: number % 997))
    }
}
