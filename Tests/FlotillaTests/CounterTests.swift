import Flotilla
import FlotillaTestSupport
import RaftCore
import Testing

@testable import CounterExample

/// Three embedded nodes that count.
private final class Counters {
    let addresses = LoopbackPorts.take(3)
    private let directory = TemporaryDirectory()
    private(set) var nodes: [EmbeddedNode?] = [nil, nil, nil]

    init() throws { for number in 0..<3 { try start(number) } }

    deinit { for number in 0..<3 { kill(number) } }

    func start(_ number: Int) throws {
        nodes[number] = try EmbeddedNode(
            address: addresses[number], peers: addresses, dataDirectory: "\(directory.path)/node\(number)",
            cluster: "counters", groups: ["counter": .volatile { Counter() }])
    }

    /// The directory is free when this returns.
    func kill(_ number: Int) {
        nodes[number]?.kill()
        nodes[number] = nil
    }

    func stop(_ number: Int) {
        nodes[number]?.stop()
        nodes[number] = nil
    }

    /// The number of the node that leads, once one does.
    func leader(timeout: Duration = .seconds(20)) async throws -> Int {
        let end = ContinuousClock.now + timeout
        while ContinuousClock.now < end {
            for number in 0..<3 {
                if let node = nodes[number], await node.state(of: "counter")?.state == "leader" { return number }
            }
            try await Task.sleep(for: .milliseconds(20))
        }
        throw EmbeddedError.notLeader(nil)
    }

    /// Asks whoever leads; what is certainly not executed is tried again.
    func ask(_ question: (EmbeddedNode) async throws(EmbeddedError) -> Bytes) async throws -> String {
        let end = ContinuousClock.now + .seconds(20)
        while true {
            guard let node = nodes[try await leader()] else { continue }
            do throws(EmbeddedError) {
                return try await question(node).text
            } catch {
                switch error {
                case .notLeader, .refused: guard ContinuousClock.now < end else { throw error }
                default: throw error
                }
            }
        }
    }

    func add(_ amount: Int) async throws -> String {
        try await ask { node throws(EmbeddedError) in try await node.start(Bytes("\(amount)"), on: "counter") }
    }

    func value() async throws -> String {
        try await ask { node throws(EmbeddedError) in try await node.read(Bytes(), from: "counter") }
    }
}

@Suite("braft's counter, embedded", .serialized, .timeLimit(.minutes(2))) struct CounterTests {
    @Test func itCountsAndForgetsNothing() async throws {
        let counters = try Counters()
        #expect(try await counters.add(1) == "0")
        #expect(try await counters.add(41) == "1")
        #expect(try await counters.value() == "42")

        let leader = try await counters.leader()
        counters.kill(leader)
        #expect(try await counters.value() == "42")
        #expect(try await counters.add(58) == "42")

        try counters.start(leader)
        let other = (leader + 1) % 3
        counters.stop(other)
        #expect(try await counters.value() == "100")
        try counters.start(other)

        for number in 0..<3 { counters.kill(number) }
        for number in 0..<3 { try counters.start(number) }
        #expect(try await counters.value() == "100")
    }

    @Test func whoDoesNotLeadSaysWhoDoes() async throws {
        let counters = try Counters()
        _ = try await counters.add(1)
        let leader = try await counters.leader()
        let follower = try #require(counters.nodes[(leader + 1) % 3])
        do throws(EmbeddedError) {
            _ = try await follower.start(Bytes("1"), on: "counter")
            Issue.record("a follower accepted a command")
        } catch {
            guard case .notLeader(let hint) = error else { throw error }
            #expect(hint == counters.addresses[leader])
        }
    }

    @Test func whoAsksANodeThatEndsIsAnswered() async throws {
        let counters = try Counters()
        let leader = try await counters.leader()
        for number in 0..<3 where number != leader { counters.kill(number) }
        let node = try #require(counters.nodes[leader])
        // without a majority nothing is ever committed
        async let pending = Self.outcome { () async throws(EmbeddedError) in
            _ = try await node.start(Bytes("1"), on: "counter")
        }
        try await Task.sleep(for: .milliseconds(100))
        counters.kill(leader)
        #expect(await pending != nil)
        let late = await Self.outcome { () async throws(EmbeddedError) in
            _ = try await node.start(Bytes("1"), on: "counter")
        }
        guard case .refused(.stopping)? = late else {
            Issue.record("an ended node answered \(String(describing: late))")
            return
        }
        #expect(await node.state(of: "counter") == nil)
    }

    private static func outcome(_ call: () async throws(EmbeddedError) -> Void) async -> EmbeddedError? {
        do throws(EmbeddedError) {
            try await call()
            return nil
        } catch {
            return error
        }
    }

    @Test func aDirectoryHasOneNodeAndOneCluster() throws {
        let addresses = LoopbackPorts.take(1)
        let directory = TemporaryDirectory()
        func start(_ cluster: String) throws(EmbeddedError) -> EmbeddedNode {
            try EmbeddedNode(
                address: addresses[0], peers: addresses, dataDirectory: directory.path, cluster: cluster,
                groups: ["counter": .volatile { Counter() }])
        }
        var node: EmbeddedNode? = try start("a")
        let locked = #expect(throws: EmbeddedError.self) { try start("a") }
        // in words that hold for a program without raftd's flags
        #expect(
            locked?.description == "\(directory.path) is in use by another node; stop it or choose another directory")
        node?.stop()
        node = nil
        #expect(throws: EmbeddedError.self) { try start("b") }
        node = try start("a")
        node?.stop()
        // the directory goes with the last use of its object, which must not be within a start
        withExtendedLifetime(directory) {}
    }
}
