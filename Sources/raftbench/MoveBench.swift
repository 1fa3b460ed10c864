import ClusterProcesses
import FlotillaTestSupport
import RaftCore
import ShardClient
import ShardMap

/// Fills a shard, and moves it between two groups under a steady load.
enum MoveBench {
    struct Settings: Sendable {
        /// In all, one after the other, forth and back; nil: as many as tell something in a time that one waits for.
        var moves: Int?
        /// To each shard.
        var writesPerSecond: Int
        /// How long the load goes on before the first move.
        var normalSeconds: Double
        /// Of moving shards, from each node.
        var megabytesPerSecond: Int
    }

    /// First bytes of keys in the shards of three groups, by the role of the shard.
    private static let roles: [(name: String, place: String)] = [
        ("moved", "!"), ("destination", "N"), ("unaffected", "z"),
    ]
    private static let valueBytes = 4096
    private static let pause = Duration.milliseconds(500)
    /// A move that takes longer than this, and than its bytes at the rate below, is given up, and the run with it.
    private static let patience = Duration.seconds(60)
    private static let leastBytesPerSecond = 4 << 20
    private static let settledBytesPerSecond = 64 << 20

    /// Above these bytes in the shard a move takes minutes.
    private static let largeBytes = 512 << 20

    private static func usualMoves(of bytes: Int) -> Int { bytes < largeBytes ? 6 : 2 }

    /// Measures with `bytes` in the shard that moves.
    static func run(_ bytes: Int, _ settings: Settings) async throws -> MoveResult {
        let cluster = try await ProcessCluster(
            Files.besideThisProgram("raftd"), nodes: 3, groups: 3, replicas: 3,
            // the log as it is by default, not in the small segments that tests want
            flags: ["--snapshot-rate", "\(settings.megabytesPerSecond << 20)", "--segment-mb", "64"])
        let client = try cluster.makeClient()
        defer { client.close() }
        let filling = ContinuousClock.now
        try await fill(bytes, client)
        tell("\(bytes >> 20) MiB: filled in \(whole(filling.duration(to: .now).inSeconds)) s")
        // the stores still sort what they were given
        try await Task.sleep(for: pause + .seconds(Double(bytes) / Double(settledBytesPerSecond)))
        let clients = try roles.map { _ in try cluster.makeClient() }
        defer { for client in clients { client.close() } }
        let writers = zip(roles, clients).map { role, client in
            SteadyWriter(
                through: client, place: role.place, writesPerSecond: settings.writesPerSecond, valueBytes: valueBytes)
        }
        let start = ContinuousClock.now + pause
        var windows: [Range<ContinuousClock.Instant>] = []
        var moves: [Moved] = []
        let timeout = patience + .seconds(bytes / leastBytesPerSecond)
        try await withThrowingTaskGroup(of: Void.self) { group in
            defer { for writer in writers { writer.stop() } }
            for writer in writers { group.addTask { await writer.run() } }
            try await Task.sleep(for: pause + .seconds(settings.normalSeconds))
            let count = settings.moves ?? usualMoves(of: bytes)
            for number in 0..<count {
                let began = ContinuousClock.now
                moves.append(try await move(to: number % 2 == 0 ? "g2" : "g1", cluster, client, timeout))
                windows.append(began..<ContinuousClock.now)
                let seconds = whole(began.duration(to: .now).inSeconds)
                tell("\(bytes >> 20) MiB: move \(number + 1) of \(count) took \(seconds) s")
                try await Task.sleep(for: pause)
            }
        }
        var freezes = Freezes()
        for node in cluster.addresses.indices { freezes.add(try cluster.log(of: node)) }
        var result = MoveResult(bytes: bytes)
        for moved in moves {
            guard let frozen = freezes.seconds(of: moved.operation) else {
                throw Failed("no node has said when operation \(moved.operation) froze its shard and ended that")
            }
            result.moves.append(MoveResult.Move(seconds: moved.seconds, frozenSeconds: frozen))
        }
        for (role, writer) in zip(roles, writers) {
            result.writes += writer.writes(to: role.name, since: start, moving: windows)
        }
        return result
    }

    /// Writes values until there are `bytes` of them.
    private static func fill(_ bytes: Int, _ client: Client) async throws {
        let count = max(1, bytes / valueBytes)
        let batch = 32
        let values = NoiseValues(bytes: valueBytes)
        let fillers = 8
        try await withThrowingTaskGroup(of: Void.self) { group in
            for filler in 0..<fillers {
                group.addTask {
                    for first in stride(from: filler * batch, to: count, by: fillers * batch) {
                        let keys = first..<min(first + batch, count)
                        let results = try await client.execute(
                            keys.map {
                                KeyOperation(.set, key: SteadyWriter.key(roles[0].place, $0), value: values[$0])
                            })
                        for result in results {
                            if let error = result.error { throw Failed("the shard is not filled: \(error)") }
                        }
                    }
                }
            }
            try await group.waitForAll()
        }
    }

    /// A move that has ended, and seconds from its record to its end.
    private struct Moved {
        var operation: Int
        var seconds: Double
    }

    /// Moves the shard.
    private static func move(
        to group: String, _ cluster: ProcessCluster, _ client: Client, _ timeout: Duration
    ) async throws -> Moved {
        guard let shard = try await client.clusterMap().shard(owning: Bytes(roles[0].place)) else {
            throw Failed("no shard owns \(roles[0].place)")
        }
        let directory = TemporaryDirectory()
        ProcessGuard.note(directory: directory.path)
        let output = directory.path + "/output"
        let seeds = cluster.addresses.map(\.description).joined(separator: ",")
        let command = try ChildProcess(
            Files.besideThisProgram("raftctl"),
            ["--cluster", seeds, "-o", "json", "shard", "move", "\(shard.id)", "--to", group], output: output)
        let status = try await command.waitForExit(timeout: timeout)
        let text = try Files.text(output)
        guard status == 0, let operation = number("id", in: text), let began = number("begun_ms", in: text),
            let ended = number("ended_ms", in: text)
        else {
            throw Failed("the shard is not moved: \(text)")
        }
        return Moved(operation: Int(operation), seconds: Double(ended - began) / 1000)
    }

    /// The number that is called `name` in a JSON object.
    static func number(_ name: String, in json: String) -> Int64? {
        let parts = json.split(separator: "\"")
        guard let position = parts.firstIndex(of: name[...]), position + 1 < parts.count else { return nil }
        return Int64(String(parts[position + 1].filter { $0.isASCII && $0.isNumber }))
    }
}
