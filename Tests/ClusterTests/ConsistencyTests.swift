import FlotillaTestSupport
import RaftCore
import ShardClient
import ShardMap
import Testing

extension Clusters {
    @Suite("What clients see while nodes die") struct ConsistencyTests {
        /// Runs `work` again and again in `count` tasks while the leaders of a group are killed and restarted.
        private static func withKills(
            of cluster: TestCluster, rounds: Int, tasks count: Int,
            _ work: @escaping @Sendable (_ task: Int, _ step: Int) async throws -> Void
        ) async throws {
            let isOver = Flag()
            try await withThrowingTaskGroup(of: Void.self) { group in
                // however it ends
                defer { isOver.set() }
                for task in 0..<count {
                    group.addTask {
                        var step = 0
                        while !isOver.isSet {
                            try await work(task, step)
                            step += 1
                        }
                    }
                }
                for round in 0..<rounds {
                    try await Task.sleep(for: .milliseconds(700))
                    // whoever leads has most to forget
                    let victim = await cluster.leader(of: "g1") ?? round % cluster.addresses.count
                    cluster.kill(victim)
                    try await Task.sleep(for: .milliseconds(1500))
                    try cluster.restart(victim)
                    try await cluster.waitUntilLed()
                }
                isOver.set()
                try await group.waitForAll()
            }
        }

        @Test func everyIncrementHappensOnce() async throws {
            let cluster = try await TestCluster(nodes: 3, groups: 2, replicas: 3)
            defer { cluster.close() }
            let client = try cluster.makeClient()
            defer { client.close() }
            // one on each group
            let keys = [Bytes("!counter"), Bytes("~counter")]
            let acknowledged = Guarded([0, 0])
            let unknown = Guarded([0, 0])
            try await Self.withKills(of: cluster, rounds: 2, tasks: 8) { task, _ in
                let key = task % 2
                do throws(ClientError) {
                    try await client.increment(keys[key])
                    acknowledged.change { $0[key] += 1 }
                } catch {
                    if error.error.outcome == .unknown { unknown.change { $0[key] += 1 } }
                }
            }
            for key in 0..<2 {
                let value = Int(try await client.get(keys[key])?.text ?? "0") ?? -1
                let certain = acknowledged.value[key]
                let possible = certain + unknown.value[key]
                #expect(certain > 50, "too little happened")
                #expect((certain...possible).contains(value), "\(value) is not \(certain)…\(possible)")
            }
        }

        @Test func readsAndWritesHaveAnOrder() async throws {
            let cluster = try await TestCluster(nodes: 3, groups: 2, replicas: 3)
            defer { cluster.close() }
            // each with routes, sessions and beliefs about leaders of its own
            let clients = try (0..<4).map { _ in try cluster.makeClient() }
            defer { for client in clients { client.close() } }
            let recorder = Recorder()
            try await Self.withKills(of: cluster, rounds: 2, tasks: 8) { task, step in
                let client = clients[task % clients.count]
                let key = step % 2 == 0 ? "!register" : "~register"
                let began = ContinuousClock.now
                if task < 3 {
                    let value = "\(task).\(step)"
                    let outcome = await Self.outcome { () async throws(ClientError) in
                        try await client.put(Bytes(key), Bytes(value))
                    }
                    // what certainly did not happen leaves no trace
                    guard outcome != .notExecuted else { return }
                    let ended: History.Moment? = outcome == .executed ? .now : nil
                    recorder.add(.init(kind: .write, value: value, began: began, ended: ended), to: key)
                } else {
                    _ = await Self.outcome { () async throws(ClientError) in
                        let value = try await client.get(Bytes(key))?.text
                        recorder.add(.init(kind: .read, value: value, began: began, ended: .now), to: key)
                    }
                }
            }
            #expect(recorder.all.count == 2)
            for (key, history) in recorder.all {
                #expect(history.operations.count > 100, "too little happened")
                #expect(history.contradiction() == nil, "\(key)")
            }
        }

        private static func outcome(_ call: () async throws(ClientError) -> Void) async -> NamedError.Class {
            do throws(ClientError) {
                try await call()
                return .executed
            } catch {
                return error.error.outcome
            }
        }
    }
}
