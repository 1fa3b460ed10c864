import ClusterProcesses
import RaftCore
import ShardClient
import ShardMap
import Testing

extension Clusters {
    @Suite("States that are saved on an order") struct SavedStateTests {
        @Test func theLogGoesUpToTheSavedEntry() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, groups: 1, replicas: 3)
            let operators = Operator(cluster: cluster)
            let client = try cluster.makeClient()
            defer { client.close() }
            for number in 0..<200 { try await client.put(Bytes("k\(number)"), Bytes("\(number)")) }
            let applied = try #require(
                await cluster.probe.status(of: cluster.addresses[0])?.replica(of: "g1")?.appliedIndex.rawValue)
            let output = try await operators.order("group", "snapshot", "g1")
            let rows = output.split(separator: "\n").dropFirst().map { $0.split(separator: " ") }
            #expect(rows.count == 3, "\(output)")
            for row in rows { #expect(Int64(row[1]) ?? 0 >= applied, "\(output)") }
            let one = try await operators.order("group", "snapshot", "controller", cluster.addresses[1].description)
            #expect(one.split(separator: "\n").count == 2, "\(one)")
            try await cluster.kill(2)
            let partly = try await operators.attempt("group", "snapshot", "g1")
            #expect(partly.status == 1 && partly.output.contains("no answer"), "\(partly.output)")
            let nobody = try await operators.attempt("group", "snapshot", "g1", "127.0.0.1:9")
            #expect(nobody.status == 1 && nobody.output.contains("is no member"), "\(nobody.output)")
        }
    }
}
