import ClusterProcesses
import Flotilla
import FlotillaTestSupport
import Glibc
import RaftCore
import RaftHost
import Synchronization
import Testing

@testable import CounterExample

/// The counter example, which counts what it was given itself, and not with a state.
private final class WatchedCounter: VolatileStateMachine {
    private let counter = Counter()
    private let seen: Seen

    final class Seen: Sendable {
        private let counts = Mutex((applied: 0, restored: 0))
        var applied: Int { counts.withLock { $0.applied } }
        var restored: Int { counts.withLock { $0.restored } }
        func reset() { counts.withLock { $0 = (0, 0) } }
        fileprivate func add(applied: Int) { counts.withLock { $0.applied += applied } }
        fileprivate func noteRestored() { counts.withLock { $0.restored += 1 } }
    }

    init(_ seen: Seen) { self.seen = seen }

    func apply(_ entries: [CommittedEntry]) throws(StateMachineError) -> [Bytes] {
        seen.add(applied: entries.count)
        return try counter.apply(entries)
    }

    func read(_ query: Bytes) throws(StateMachineError) -> Bytes { try counter.read(query) }
    func frozen() -> any StatePieces { counter.frozen() }

    func restore(from pieces: inout any StatePieces) throws(StateMachineError) {
        seen.noteRestored()
        try counter.restore(from: &pieces)
    }
}

@Suite("The counter's state on a real disk", .serialized, .timeLimit(.minutes(2)))
struct VolatileStateTests {
    /// Three embedded nodes that save often.
    fileprivate final class Nodes {
        let addresses = LoopbackPorts.take(3)
        let directory = TemporaryDirectory()
        let seen = (0..<3).map { _ in WatchedCounter.Seen() }
        var nodes: [EmbeddedNode?] = [nil, nil, nil]

        init() throws { for number in 0..<3 { try start(number) } }
        deinit { for number in 0..<3 { kill(number) } }

        func start(_ number: Int) throws {
            var settings = RaftHost.Settings()
            settings.saveEntries = 60
            (settings.keptEntries, settings.keptBytes) = (10, 1 << 10)
            settings.compactionPace = .milliseconds(100)
            let seen = seen[number]
            seen.reset()
            nodes[number] = try EmbeddedNode(
                address: addresses[number], peers: addresses, dataDirectory: path(number), cluster: "counters",
                groups: ["counter": .volatile { WatchedCounter(seen) }], settings: settings)
        }

        func path(_ number: Int) -> String { "\(directory.path)/node\(number)" }

        func kill(_ number: Int) {
            nodes[number]?.kill()
            nodes[number] = nil
        }

        /// Adds one, `count` times; what is certainly not executed is tried again.
        func add(_ count: Int) async throws {
            var added = 0
            try await until("\(count) are added") {
                while added < count {
                    guard let node = await self.leader() else { return false }
                    do throws(EmbeddedError) {
                        _ = try await node.start(Bytes("1"), on: "counter")
                        added += 1
                    } catch {
                        switch error {
                        case .notLeader, .refused: return false
                        default: throw error
                        }
                    }
                }
                return true
            }
        }

        func leader() async -> EmbeddedNode? {
            for node in nodes {
                if let node, await node.state(of: "counter")?.state == "leader" { return node }
            }
            return nil
        }

        func until(_ what: String, _ condition: () async throws -> Bool) async throws {
            let end = ContinuousClock.now + .seconds(30)
            while try await !condition() {
                guard ContinuousClock.now < end else { throw EmbeddedError.start("it is not true in time: \(what)") }
                try await Task.sleep(for: .milliseconds(20))
            }
        }

        /// Where every running node's replica has the same applied.
        func settle() async throws {
            try await until("all have applied the same") {
                var applied: Set<LogIndex> = []
                for node in nodes {
                    guard let node else { continue }
                    guard let state = await node.state(of: "counter"), state.appliedIndex == state.lastIndex else {
                        return false
                    }
                    applied.insert(state.appliedIndex)
                }
                return await leader() != nil && applied.count == 1
            }
        }

        func value() async throws -> String {
            var text = ""
            try await until("somebody answers") {
                guard let node = await self.leader() else { return false }
                do throws(EmbeddedError) {
                    text = try await node.read(Bytes(), from: "counter").text
                    return true
                } catch { return false }
            }
            return text
        }

        /// The files in the folder of saved states.
        func saved(_ number: Int) -> [String] {
            ((try? Files.list(path(number) + "/states")) ?? []).filter { $0.hasSuffix(".state") }
        }
    }

    @Test("A restart begins with the saved state; who was away gets it from the leader") func restart() async throws {
        let nodes = try Nodes()
        try await nodes.add(150)
        try await nodes.until("all have saved") { (0..<3).allSatisfy { nodes.saved($0).count == 2 } }
        try await nodes.settle()

        // all at once, so that everybody has to rely on his own
        for number in 0..<3 { nodes.kill(number) }
        for number in 0..<3 { try nodes.start(number) }
        #expect(try await nodes.value() == "150")
        try await nodes.settle()
        for seen in nodes.seen { #expect(seen.restored == 1 && seen.applied <= 70, "\(seen.applied) applied") }

        let late = try #require(await nodes.laggard())
        nodes.kill(late)
        try await nodes.add(200)
        try nodes.start(late)
        try await nodes.settle()
        // once from its own, once from the leader's: the entries between the two are nowhere any more
        #expect(nodes.seen[late].restored == 2 && nodes.seen[late].applied < 150, "\(nodes.seen[late].applied) applied")
        try await nodes.until("the replaced state is gone") {
            Set(nodes.saved(late).compactMap { $0.split(separator: "-").first }).count == 1
        }

        nodes.kill(late)
        try nodes.start(late)
        try await nodes.settle()
        #expect(nodes.seen[late].restored == 1 && nodes.seen[late].applied <= 70)
        try await nodes.add(1)
        #expect(try await nodes.value() == "351")
    }

    /// A counter that fails once, and is restored no sooner than it may.
    private final class Gate: Sendable {
        private let state = Mutex((fails: false, isOpen: true, isWaiting: false))
        var isWaiting: Bool { state.withLock { $0.isWaiting } }
        func close() { state.withLock { $0 = (true, false, false) } }
        func open() { state.withLock { $0.isOpen = true } }
        func takeFailure() -> Bool {
            state.withLock { state in
                defer { state.fails = false }
                return state.fails
            }
        }

        /// For ten seconds at most, or a host that waits with everything else would never end.
        func wait() {
            state.withLock { $0.isWaiting = true }
            let end = ContinuousClock.now + .seconds(10)
            while !state.withLock({ $0.isOpen }), ContinuousClock.now < end { usleep(2000) }
            state.withLock { $0.isWaiting = false }
        }
    }

    private final class SlowCounter: VolatileStateMachine {
        private let counter = Counter()
        private let gate: Gate
        init(_ gate: Gate) { self.gate = gate }

        func apply(_ entries: [CommittedEntry]) throws(StateMachineError) -> [Bytes] {
            if gate.takeFailure() { throw StateMachineError("told to fail") }
            return try counter.apply(entries)
        }

        func read(_ query: Bytes) throws(StateMachineError) -> Bytes { try counter.read(query) }
        func frozen() -> any StatePieces { counter.frozen() }

        func restore(from pieces: inout any StatePieces) throws(StateMachineError) {
            gate.wait()
            try counter.restore(from: &pieces)
        }
    }

    @Test("While a state is restored that takes its time, other groups are applied and read") func slowRestore()
        async throws
    {
        let addresses = LoopbackPorts.take(1)
        let directory = TemporaryDirectory()
        let gate = Gate()
        var settings = RaftHost.Settings()
        settings.saveEntries = 10
        settings.applyRetryInterval = .milliseconds(50)
        let node = try EmbeddedNode(
            address: addresses[0], peers: addresses, dataDirectory: directory.path, cluster: "counters",
            groups: ["slow": .volatile { SlowCounter(gate) }, "fast": .volatile { Counter() }], settings: settings)
        defer { node.kill() }
        func ask(_ question: () async throws -> Bytes) async throws -> String {
            let end = ContinuousClock.now + .seconds(20)
            while true {
                do { return try await question().text } catch {
                    guard ContinuousClock.now < end else { throw error }
                    try await Task.sleep(for: .milliseconds(20))
                }
            }
        }
        for _ in 0..<30 { _ = try await ask { try await node.start(Bytes("1"), on: "slow") } }
        let end = ContinuousClock.now + .seconds(20)
        while try !Files.list(directory.path + "/states").contains(where: { $0.hasSuffix(".state") }) {
            try #require(ContinuousClock.now < end, "nothing is saved")
            try await Task.sleep(for: .milliseconds(10))
        }
        gate.close()
        _ = try? await node.start(Bytes("1"), on: "slow")
        while !gate.isWaiting {
            try #require(ContinuousClock.now < end, "nothing is restored")
            try await Task.sleep(for: .milliseconds(2))
        }
        for number in 0..<10 {
            #expect(try await ask { try await node.start(Bytes("1"), on: "fast") } == "\(number)")
        }
        #expect(try await ask { try await node.read(Bytes(), from: "fast") } == "10")
        #expect(gate.isWaiting, "the others had to wait for it")
        gate.open()
        #expect(try await ask { try await node.read(Bytes(), from: "slow") } == "31")
        withExtendedLifetime(directory) {}
    }

    @Test("A damaged file is passed over, and so is an empty folder: the others have the state") func damage()
        async throws
    {
        let nodes = try Nodes()
        try await nodes.add(150)
        try await nodes.until("all have saved") { (0..<3).allSatisfy { nodes.saved($0).count == 2 } }
        try await nodes.settle()
        let late = try #require(await nodes.laggard())
        nodes.kill(late)
        for name in nodes.saved(late) { try #require(truncate("\(nodes.path(late))/states/\(name)", 40) == 0) }
        try nodes.start(late)
        try await nodes.settle()
        nodes.kill(late)
        for name in nodes.saved(late) { try #require(unlink("\(nodes.path(late))/states/\(name)") == 0) }
        try nodes.start(late)
        try await nodes.add(1)
        try await nodes.settle()
        #expect(try await nodes.value() == "151")
        // whoever is left alone with it would serve it
        #expect(await nodes.nodes[late]?.state(of: "counter")?.problem == nil)
    }
}

extension VolatileStateTests.Nodes {
    /// A node that does not lead.
    fileprivate func laggard() async -> Int? {
        for number in 0..<3 {
            if let state = await nodes[number]?.state(of: "counter"), state.state == "follower" { return number }
        }
        return nil
    }
}
