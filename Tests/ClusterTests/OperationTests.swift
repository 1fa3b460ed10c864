import ClusterProcesses
import FlotillaTestSupport
import Glibc
import RaftCore
import ShardClient
import ShardMap
import Testing

extension Clusters {
    @Suite("Shards that are cut, united and moved") struct OperationTests {
        @Test func underLoadWhileNodesDieAndJoin() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, joining: 2, groups: 4, replicas: 3)
            let operators = Operator(cluster: cluster)
            let clients = try (0..<3).map { _ in try cluster.makeClient() }
            defer { for client in clients { client.close() } }
            let load = Load()
            let done = Guarded<[String: Int]>([:])
            try await load.run(through: clients) {
                let isOver = Flag()
                try await withThrowingTaskGroup(of: Void.self) { group in
                    defer { isOver.set() }
                    group.addTask {
                        var random = SeededRandom(seed: 5)
                        while !isOver.isSet {
                            guard let words = Self.operation(on: try await clients[0].clusterMap(), &random) else {
                                continue
                            }
                            // with a node down an order may get lost, or be refused as long as nobody leads
                            let outcome = try await Tools.run(Tools.raftctl, operators.seeds + words)
                            if outcome.status == 0 { done.change { $0[words[1], default: 0] += 1 } }
                        }
                    }
                    try await Self.killAndRestart([0, 1], of: cluster)
                    for node in 3..<5 { try cluster.start(node) }
                    try await Wait.until("the new nodes have joined") {
                        try await clients[0].clusterMap().nodes.count == 5
                    }
                    let peers = [0, 3, 4].map { cluster.addresses[$0].description }.joined(separator: ",")
                    try await operators.order("group", "create", "g5", "--peers", peers)
                    try await Self.killAndRestart([3, 2, 4], of: cluster)
                    isOver.set()
                    try await group.waitForAll()
                }
            }
            try await operators.waitForOperations()
            for verb in ["split", "merge", "move"] {
                #expect(done.value[verb, default: 0] >= 2, "too little happened: \(done.value)")
            }
            let reader = try cluster.makeClient()
            defer { reader.close() }
            try await load.check(through: reader)
            try await operators.verifyEveryGroup(try await reader.clusterMap())
        }

        private static func killAndRestart(_ nodes: [Int], of cluster: ProcessCluster) async throws {
            for node in nodes {
                try await Task.sleep(for: .milliseconds(1200))
                try await cluster.kill(node)
                try await Task.sleep(for: .milliseconds(1500))
                try cluster.start(node)
                try await cluster.probe.waitUntilLed()
            }
        }

        /// Some operation that the map allows; nil if the one that was drawn is not possible.
        private static func operation(on map: ClusterMap, _ random: inout SeededRandom) -> [String]? {
            func pick<Element>(_ list: [Element]) -> Element? {
                list.isEmpty ? nil : list[Int(random.number(in: 0..<Int64(list.count)))]
            }
            switch random.number(in: 0..<4) {
            case 0:
                guard map.shards.count < 10 else { return nil }
                let letters = Array("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
                return pick(letters).map { ["shard", "split", "\($0)\(random.number(in: 0..<10))"] }
            case 1:
                let pairs = zip(map.shards, map.shards.dropFirst()).filter { $0.group == $1.group }
                return pick(pairs).map { ["shard", "merge", "\($0.0.id)", "\($0.1.id)"] }
            default:
                guard let shard = pick(map.shards) else { return nil }
                let groups = map.groups.map(\.id).filter { $0 != shard.group && $0 != ClusterMap.controllerGroup }
                return pick(groups).map { ["shard", "move", "\(shard.id)", "--to", $0] }
            }
        }

        // MARK: long moves

        private static let largeKeys = 160

        /// A cluster whose last shard takes some seconds to move.
        private static func withLargeShard(_ body: (Operator, UInt64) async throws -> Void) async throws {
            let cluster = try await ProcessCluster(
                Tools.raftd, nodes: 3, groups: 2, replicas: 3, flags: ["--snapshot-rate", "\(3 << 20)"])
            let client = try cluster.makeClient()
            defer { client.close() }
            for number in 0..<largeKeys {
                try await client.put(Bytes("~\(number)"), largeValue(number))
            }
            let shard = try #require(try await client.clusterMap().shard(owning: Bytes("~")))
            #expect(shard.group == "g2")
            try await body(Operator(cluster: cluster), shard.id)
            for number in 0..<largeKeys { #expect(try await client.get(Bytes("~\(number)")) == largeValue(number)) }
            #expect(try await client.count() == Int64(largeKeys))
        }

        private static func largeValue(_ number: Int) -> Bytes {
            Bytes([UInt8](repeating: UInt8(number % 256), count: 64 << 10))
        }

        @Test func aMoveThatIsCancelledLosesNothing() async throws {
            try await Self.withLargeShard { operators, shard in
                let operation = try await operators.begin("shard", "move", "\(shard)", "--to", "g1")
                try await Wait.until("something is copied") {
                    let line = try await operators.listed(operation)
                    return line.contains(" begun ") && line.contains(" MB ")
                }
                try await operators.order("operation", "cancel", operation)
                let line = try await operators.listed(operation)
                #expect(line.contains(" cancelled ") && line.contains("cancelled by an operator"), "\(line)")
                let waiting = try await operators.attempt("operation", "wait", operation)
                #expect(waiting.status == 1 && waiting.output.contains("was cancelled"), "\(waiting.output)")
                #expect(try await operators.group(of: shard) == "g2")
                // neither the half copy nor the cancelled operation is in the way of the next one
                try await operators.order("shard", "move", "\(shard)", "--to", "g1")
                #expect(try await operators.group(of: shard) == "g1")
            }
        }

        @Test func whoIsNotWaitedForGoesOn() async throws {
            try await Self.withLargeShard { operators, shard in
                let directory = TemporaryDirectory()
                let waiting = try ChildProcess(
                    Tools.raftctl, operators.seeds + ["shard", "move", "\(shard)", "--to", "g1"],
                    output: directory.path + "/output")
                var operation = ""
                try await Wait.until("the move is under way") {
                    let lines = try await operators.order("operation", "list").split(separator: "\n").dropFirst()
                    operation = lines.first?.split(separator: " ").first.map(String.init) ?? ""
                    return lines.contains { $0.contains(" MB ") }
                }
                waiting.signal(SIGINT)
                #expect(try await waiting.waitForExit() == -SIGINT)
                let said = try Files.text(directory.path + "/output")
                #expect(said.contains("raftctl operation wait \(operation) picks it up"), "\(said)")
                #expect(try await operators.listed(operation).contains(" begun "))
                let end = try await operators.order("operation", "wait", operation)
                #expect(end.contains("move shard \(shard) from g2 to g1: done"), "\(end)")
                #expect(try await operators.group(of: shard) == "g1")
            }
        }
    }
}
