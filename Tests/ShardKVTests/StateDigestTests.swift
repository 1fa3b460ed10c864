import RaftCore
import ShardMap
import Testing

@testable import ShardKV

@Suite("Two states are compared by digests, down to the key that differs")
struct StateDigestTests {
    static let meta = SnapshotMeta(
        last: LogPosition(term: Term(1), index: LogIndex(1)), configuration: RestartTests.birth)

    static func key(_ number: Int) -> Bytes {
        KeyLayout(replicaNumber: 0).key(.data, rest: Bytes("key\(100_000 + number)")).suffix(from: 8)
    }

    static func frozen(_ pairs: [(Bytes, Bytes)], number: UInt64, _ engine: any KeyValueEngine) throws -> FrozenReplica
    {
        try engine.write(pairs.map { .put(ReplicaKeys.key(of: number, $0.0), $0.1) })
        return FrozenReplica(meta: meta, view: try engine.freeze(), replicaNumber: number)
    }

    /// The comparison as the two sides of a network would lead it; also how many rounds of ranges it took.
    static func firstDifference(_ left: FrozenReplica, _ right: FrozenReplica) throws -> (key: Bytes?, rounds: Int) {
        var (start, end, rounds) = (Bytes(), Bytes(), 0)
        while rounds < 20 {
            rounds += 1
            let chosen = try left.ranges(from: start, to: end)
            #expect(chosen.first?.start == start && chosen.last?.end == end)
            let others = try right.digests(of: chosen)
            guard let position = StateDigest.firstDifference(chosen, others) else { return (nil, rounds) }
            (start, end) = (chosen[position].start, chosen[position].end)
            guard chosen[position].keys <= StateDigest.listedKeys else { continue }
            let lists = (try left.keys(from: start, to: end), try right.keys(from: start, to: end))
            let key = StateDigest.firstDifference(lists.0, lists.1)
            #expect(key != nil)
            return (key, rounds)
        }
        Issue.record("the comparison does not end")
        return (nil, rounds)
    }

    @Test(arguments: EngineTests.Kind.allCases) func theFirstDifferenceIsNamed(_ kind: EngineTests.Kind) throws {
        let world = try EngineWorld(kind)
        let count = kind == .memory ? 70_000 : 5000
        let pairs = (0..<count).map { (StateDigestTests.key($0), Bytes("value \($0)")) }
        let (engine, other) = (try world.engine(), try world.engine())
        let left = try StateDigestTests.frozen(pairs, number: 3, engine)
        let same = try StateDigestTests.frozen(pairs, number: 700, other)
        #expect(try StateDigestTests.firstDifference(left, same).key == nil)
        #expect(try StateDigestTests.firstDifference(left, left).rounds == 1)
        let behind = ReplicaKeys.key(of: 700, StateDigestTests.key(count + 5))
        let changes: [(Int, [EngineChange])] = [
            (count + 5, [.put(behind, Bytes("one more"))]),
            (count - 1, [.delete(ReplicaKeys.key(of: 700, StateDigestTests.key(count - 1)))]),
            (count / 2, [.put(ReplicaKeys.key(of: 700, StateDigestTests.key(count / 2)), Bytes("other"))]),
            (77, [.delete(ReplicaKeys.key(of: 700, StateDigestTests.key(77)))]),
            (0, [.put(ReplicaKeys.key(of: 700, StateDigestTests.key(0)), Bytes())]),
        ]
        for (number, change) in changes {
            try other.write(change)
            let right = FrozenReplica(
                meta: StateDigestTests.meta, view: try other.freeze(), replicaNumber: 700)
            for (one, two) in [(left, right), (right, left)] {
                let found = try StateDigestTests.firstDifference(one, two)
                #expect(found.key == StateDigestTests.key(number))
                #expect(found.rounds <= 2)
            }
        }
        let nothing = try StateDigestTests.frozen([], number: 9, engine)
        #expect(try StateDigestTests.firstDifference(nothing, left).key == StateDigestTests.key(0))
        #expect(try StateDigestTests.firstDifference(left, nothing).key == StateDigestTests.key(0))
        #expect(try StateDigestTests.firstDifference(nothing, nothing).key == nil)
    }

    @Test func rangesAreOfAboutEqualSizeAndCoverEverything() throws {
        for count in [0, 1, 7, 8, 9, 15, 16, 17, 100, 1000, 1025] {
            let pairs = (0..<count).map { (StateDigestTests.key($0), Bytes("\($0)")) }
            let state = try StateDigestTests.frozen(pairs, number: 1, MemoryEngine())
            let ranges = try state.ranges(count: 8)
            #expect(ranges.reduce(0) { $0 + $1.keys } == UInt64(count))
            #expect(ranges.count <= 16 && ranges.count >= min(8, max(count, 1)))
            #expect(ranges.first?.start == Bytes() && ranges.last?.end == Bytes())
            #expect(zip(ranges, ranges.dropFirst()).allSatisfy { $0.end == $1.start && $0.start < $1.start })
            let sizes = ranges.dropLast().map(\.keys)
            #expect(Set(sizes).count <= 1)
            #expect(try state.digests(of: ranges) == ranges)
            let whole = try state.digests(of: [RangeDigest(start: Bytes(), end: Bytes())])
            #expect(whole == [RangeDigest(start: Bytes(), end: Bytes(), keys: UInt64(count), hash: ranges.sum)])
        }
    }

    @Test func theHashOfTheLogAndTheMembersAreNoPartOfIt() throws {
        let log = RestartTests.log(seed: 4, entries: 60)
        let born = MemoryEngine()
        let machine = try RestartTests.machine(on: born)
        _ = try machine.apply(log)
        let left = try #require(try machine.freeze() as? FrozenReplica)
        let other = try KeyValueStateMachine(engine: MemoryEngine(), replicaNumber: 5, limits: RestartTests.limits)
        _ = try other.apply(log)
        _ = try other.apply([configurationEntry(LogIndex(61), Configuration(peers: RestartTests.birth.peers))])
        let ahead = try #require(try other.freeze() as? FrozenReplica)
        let found = try StateDigestTests.firstDifference(left, ahead)
        #expect(StateDigest.name(of: try #require(found.key)) == "applied position and replicated time")
        _ = try machine.apply([
            configurationEntry(LogIndex(61), Configuration(peers: [RestartTests.birth.peers[0]]))
        ])
        let level = try #require(try machine.freeze() as? FrozenReplica)
        #expect(try StateDigestTests.firstDifference(level, ahead).key == nil)
    }

    @Test func rangesInDisorderAreRefused() throws {
        let state = try StateDigestTests.frozen([(StateDigestTests.key(1), Bytes())], number: 1, MemoryEngine())
        func range(_ start: String, _ end: String) -> RangeDigest { RangeDigest(start: Bytes(start), end: Bytes(end)) }
        for ranges in [
            [range("b", "a")], [range("a", "b"), range("c", "d")], [range("a", ""), range("", "b")],
            [range("a", "b"), range("b", "b"), range("b", "c")], [range("b", "b")],
        ] { #expect(throws: StateMachineError.self) { try state.digests(of: ranges) } }
        #expect(try state.digests(of: []).isEmpty)
    }

    @Test func everyKindOfKeyHasAName() throws {
        let layout = KeyLayout(replicaNumber: 0)
        let names = [
            layout.key(.meta), layout.key(.map), layout.key(.shards, 3), layout.key(.sessions, 3, 4),
            layout.key(.replies, 3, 4, 5), layout.expiryKey(6, Bytes("k")), layout.key(.data, rest: Bytes("k\n")),
            Bytes([0, 0, 0, 0, 0, 0, 0, 0, 99]),
        ].map { StateDigest.name(of: $0.suffix(from: 8)) }
        #expect(
            names == [
                "applied position and replicated time", "cluster map", "shard 3", "session 3/4",
                "stored reply 3/4/5", "expiry 6 of key k", "key k\\x0a", "unknown key c",
            ])
    }
}

extension [RangeDigest] {
    fileprivate var sum: UInt64 { reduce(0) { $0 &+ $1.hash } }
}
