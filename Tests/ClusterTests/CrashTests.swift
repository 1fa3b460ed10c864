import ClusterProcesses
import FlotillaTestSupport
import RaftCore
import ShardClient
import ShardMap
import Synchronization
import Testing

extension Clusters {
    @Suite("Processes that are killed") struct CrashTests {
        @Test func everyAcknowledgedWriteSurvivesTheDeathOfAllNodes() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, groups: 4, replicas: 3)
            var settings = Client.Settings()
            settings.timeout = .milliseconds(3000)
            let ledger = Ledger()
            for round in 0..<3 {
                let client = try cluster.makeClient(settings)
                let before = ledger.acknowledged
                let written = try await withThrowingTaskGroup(of: Int.self) { group in
                    let isOver = Flag()
                    defer { isOver.set() }
                    for writer in 0..<6 {
                        group.addTask { await ledger.write(through: client, as: writer, round, until: isOver) }
                    }
                    // in the middle of it, however slow the machine is
                    try await Task.sleep(for: .milliseconds(1000))
                    try await cluster.probe.wait(for: "a hundred writes") { ledger.acknowledged - before > 100 }
                    try await cluster.kill(0, 1, 2)
                    isOver.set()
                    return try await group.reduce(0, +)
                }
                client.close()
                #expect(written > 100, "too little happened")

                for node in 0..<3 { try cluster.start(node) }
                try await cluster.probe.waitUntilLed()
                let reader = try cluster.makeClient()
                try await ledger.check(through: reader)
                reader.close()
            }
        }

        @Test func aNodeAskedToStopHandsItsLeadershipsOver() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, groups: 4, replicas: 3)
            let client = try cluster.makeClient()
            defer { client.close() }
            let failures = Guarded<[ClientError]>([])
            let isOver = Flag()
            try await withThrowingTaskGroup(of: Void.self) { group in
                defer { isOver.set() }
                for number in 0..<4 {
                    group.addTask {
                        // one key for each group
                        let key = Bytes([UInt8(0x21 + number * 24)])
                        while !isOver.isSet {
                            do throws(ClientError) {
                                try await client.increment(key)
                            } catch {
                                failures.change { $0.append(error) }
                            }
                        }
                    }
                }
                for node in 0..<3 {
                    try await Task.sleep(for: .milliseconds(300))
                    #expect(try await cluster.terminate(node) < .seconds(10))
                    try await cluster.probe.waitUntilLed()
                    try cluster.start(node)
                    try await cluster.probe.wait(for: "node \(node)") {
                        await cluster.probe.status(of: cluster.addresses[node]) != nil
                    }
                    try await cluster.probe.waitUntilLed()
                }
                isOver.set()
                try await group.waitForAll()
            }
            #expect(failures.value == [])
            #expect(try cluster.log(of: 0).contains("stopped"))
        }
    }
}

/// What writers know of the values they wrote.
private final class Ledger: Sendable {
    private struct Entry {
        var acknowledged: String?
        /// Written after that, with an unknown outcome.
        var possible: [String] = []
    }

    private let entries = Mutex<[Bytes: Entry]>([:])
    private let count = Mutex(0)

    /// Writes that were acknowledged.
    var acknowledged: Int { count.withLock { $0 } }

    /// Writes ever new values under keys that no other writer uses, all over the groups. Returns how many were
    /// acknowledged.
    func write(through client: Client, as writer: Int, _ round: Int, until isOver: Flag) async -> Int {
        var acknowledged = 0
        var step = 0
        while !isOver.isSet {
            step += 1
            let key = Bytes([UInt8(0x21 + (step * 7 + writer) % 94)] + Array("-\(writer)".utf8))
            let value = "\(round).\(step)"
            do throws(ClientError) {
                try await client.put(key, Bytes(value))
                entries.withLock { $0[key] = Entry(acknowledged: value) }
                count.withLock { $0 += 1 }
                acknowledged += 1
            } catch {
                guard error.error.outcome == .unknown else { continue }
                entries.withLock { $0[key, default: Entry()].possible.append(value) }
            }
        }
        return acknowledged
    }

    /// Reads everything back. What is read is known from then on: it cannot go back any more.
    func check(through client: Client) async throws {
        for (key, entry) in entries.withLock({ $0 }).sorted(by: { $0.key < $1.key }) {
            let value = try await client.get(key)?.text
            let allowed = [entry.acknowledged] + entry.possible
            #expect(allowed.contains(value), "\(key) is \(value ?? "nothing"), not one of \(allowed)")
            entries.withLock { $0[key] = Entry(acknowledged: value) }
        }
    }
}
