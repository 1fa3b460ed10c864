import RaftCore
import ShardMap
import Testing

@testable import ShardClient

@Suite("Whatever the network does") struct HostileClusterTests {
    /// One call of the test, and what came of it.
    private final class Issued {
        let operations: [KeyOperation]
        var results: [KeyResult]?
        var answers = 0
        var deadline = Instant.distantFuture
        var time = Instant.distantPast
        init(_ operations: [KeyOperation]) { self.operations = operations }
    }

    /// A walk over all keys: those there were when it began, and those it found.
    private final class Walk {
        var before: [Bytes] = []
        var found: [KeyResult.Pair] = []
        var count: Int64?
        var countAfter = 0
        var isDone = false
    }

    private struct World {
        let cluster: FakeCluster
        let router: Router
        var calls: [Issued] = []
        var walks: [Walk] = []
        var tags = 0

        init(seed: UInt64) {
            cluster = FakeCluster(seed: seed)
            let settings = Settings.with {
                $0.maxOperationsPerRequest = 4
                $0.maxRequestsInFlightPerShard = 3
                $0.windowPerSession = 16
                $0.attemptTimeout = .milliseconds(100)
            }
            router = Router(seeds: [.n(1)], transport: cluster, clock: cluster.clock, settings: settings, seed: seed)
        }

        /// A call of a few operations on few keys; each append has a tag of its own.
        mutating func makeCall() -> Issued {
            let operations = (0..<Int(cluster.number(1..<8))).map { _ -> KeyOperation in
                let key = Bytes([UInt8(cluster.number(0x61..<0x7b))])
                guard cluster.chance(3) else {
                    tags += 1
                    return KeyOperation(.append, key: key, value: Bytes("<\(tags)>"))
                }
                return KeyOperation(.get, key: key)
            }
            calls.append(Issued(operations))
            return calls[calls.count - 1]
        }
    }

    private func play(seed: UInt64, calls: Int = 150, disturbances: Int = 40, for span: Int64 = 1500) -> World {
        var world = World(seed: seed)
        let cluster = world.cluster
        let router = world.router
        for _ in 0..<calls {
            let call = world.makeCall()
            let patience = Interval.milliseconds(Int(cluster.number(20..<2000)))
            cluster.later(upTo: span) {
                call.deadline = cluster.clock.now + patience
                router.execute(call.operations, deadline: call.deadline) {
                    call.results = $0
                    call.answers += 1
                    call.time = cluster.clock.now
                }
            }
        }
        for _ in 0..<2 {
            let walk = Walk()
            world.walks.append(walk)
            cluster.later(upTo: span) { HostileClusterTests.begin(walk, cluster, router) }
        }
        for _ in 0..<disturbances { cluster.later(upTo: span) { cluster.disturb() } }
        cluster.run(router)
        return world
    }

    private static func begin(_ walk: Walk, _ cluster: FakeCluster, _ router: Router) {
        let deadline = cluster.clock.now + .milliseconds(8000)
        walk.before = cluster.values.keys.sorted()
        func go(on start: Bytes) {
            router.scan(from: start, limit: 5, deadline: deadline) { result in
                guard case .success(let page) = result else { return }
                walk.found += page.pairs
                if let next = page.next { go(on: next) } else { walk.isDone = true }
            }
        }
        go(on: Bytes())
        router.count(deadline: deadline) { result in
            walk.count = try? result.get()
            walk.countAfter = cluster.values.count
        }
    }

    @Test(arguments: 1...60 as ClosedRange<UInt64>)
    func eachWriteIsExecutedAtMostOnceAndAcknowledgedOnlyIfExecuted(seed: UInt64) { judge(play(seed: seed)) }

    /// Little work and a cluster that never rests: many short histories meet what a few long ones do not.
    @Test(arguments: 0..<50 as Range<UInt64>)
    func inManyShortHistoriesToo(batch: UInt64) {
        for seed in 1000 + batch * 40..<1040 + batch * 40 {
            judge(play(seed: seed, calls: 15, disturbances: 30, for: 500))
        }
    }

    private func judge(_ world: World) {
        for call in world.calls {
            #expect(call.answers == 1 && call.results?.count == call.operations.count)
            #expect(call.time <= call.deadline, "an answer after the deadline")
            for (operation, result) in zip(call.operations, call.results ?? []) where !operation.isRead {
                let value = world.cluster.values[operation.key] ?? ""
                let times = value.occurrences(of: operation.value.text)
                switch result.error?.outcome {
                case nil, .executed: #expect(times == 1, "\(operation.value) acknowledged, executed \(times) times")
                case .notExecuted: #expect(times == 0, "\(operation.value) refused, executed \(times) times")
                case .unknown: #expect(times <= 1)
                }
            }
            expectOrder(of: call, in: world.cluster)
        }
        for walk in world.walks { judge(walk) }
        #expect(world.cluster.contradictions == 0, "a sequence stood for two different requests")
        #expect(world.router.queuedOperations == 0 && world.router.queuedBytes == 0)
    }

    /// No key goes away here: what was there before has to be found, and nothing twice.
    private func judge(_ walk: Walk) {
        let keys = walk.found.map(\.key)
        #expect(zip(keys, keys.dropFirst()).allSatisfy { $0 < $1 })
        if walk.isDone { #expect(Set(walk.before).isSubset(of: keys)) }
        if let count = walk.count { #expect(walk.before.count <= count && count <= walk.countAfter) }
    }

    /// Operations of a call on the same key are executed in their order.
    private func expectOrder(of call: Issued, in cluster: FakeCluster) {
        var last: [Bytes: Int] = [:]
        for operation in call.operations where !operation.isRead {
            guard let position = cluster.values[operation.key]?.position(of: operation.value.text) else { continue }
            #expect(last[operation.key] ?? -1 < position)
            last[operation.key] = position
        }
    }

    @Test func theSeedsDoMeetWhatTheyAreMadeFor() {
        var outcomes = (done: 0, notExecuted: 0, unknown: 0)
        var (duplicates, strays, refusals, frozen, walks) = (0, 0, 0, 0, 0)
        var changes: [String: Int] = [:]
        for seed in 1...10 as ClosedRange<UInt64> {
            let world = play(seed: seed)
            duplicates += world.cluster.duplicates
            strays += world.cluster.strayAnswers
            refusals += world.cluster.rangeRefusals
            frozen += world.cluster.frozenRefusals
            walks += world.walks.count { $0.isDone && $0.count != nil }
            changes.merge(world.cluster.changes) { $0 + $1 }
            for result in world.calls.flatMap({ $0.results ?? [] }) {
                switch result.error?.outcome {
                case nil, .executed: outcomes.done += 1
                case .notExecuted: outcomes.notExecuted += 1
                case .unknown: outcomes.unknown += 1
                }
            }
        }
        #expect(outcomes.done > 1000 && outcomes.notExecuted > 20 && outcomes.unknown > 20 && duplicates > 20)
        #expect(strays > 0 && refusals > 0 && frozen > 20 && walks > 5)
        for kind in ["split", "merge", "move", "abort"] { #expect(changes[kind] ?? 0 > 5, "\(kind)") }
    }

    @Test func whenTheNetworkHealsEverythingIsDone() {
        var world = World(seed: 99)
        let cluster = world.cluster
        let router = world.router
        for _ in 0..<100 {
            let call = world.makeCall()
            cluster.later(upTo: 1000) {
                router.execute(call.operations, deadline: cluster.clock.now + .milliseconds(30_000)) {
                    call.results = $0
                }
            }
        }
        for _ in 0..<20 { cluster.later(upTo: 1000) { cluster.disturb() } }
        cluster.at(.ms(1500)) { cluster.isHostile = false }
        cluster.run(router)
        for call in world.calls {
            for error in call.results?.map(\.error) ?? [] {
                // evictions and splits may leave an outcome open; time does not run out
                #expect(error == nil || error == .outcomeUnknown || error == .refused)
            }
        }
        #expect(cluster.clock.now < .ms(5000))
    }

    @Test func oneSeedIsOneHistory() {
        func trace(_ seed: UInt64) -> String {
            let world = play(seed: seed)
            let results = world.calls.map { "\($0.results ?? [])" }
            return results.joined() + "\(world.cluster.clock.now.nanoseconds) \(world.cluster.executions)"
        }
        #expect(trace(4) == trace(4))
    }
}

extension String {
    /// Byte offset of the first occurrence of `text`.
    func position(of text: String) -> Int? {
        let (own, other) = (Array(utf8), Array(text.utf8))
        guard own.count >= other.count else { return nil }
        return (0...own.count - other.count).first { own[$0..<$0 + other.count].elementsEqual(other) }
    }

    func occurrences(of text: String) -> Int {
        let (own, other) = (Array(utf8), Array(text.utf8))
        guard own.count >= other.count else { return 0 }
        return (0...own.count - other.count).count { own[$0..<$0 + other.count].elementsEqual(other) }
    }
}
