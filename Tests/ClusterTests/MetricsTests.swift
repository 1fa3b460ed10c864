import ClusterProcesses
import FlotillaTestSupport
import RaftCore
import ShardClient
import Testing

extension Clusters {
    @Suite("Metrics") struct MetricsTests {
        /// The samples of a page by name and labels, once it is what Prometheus' text format asks for.
        private static func samples(_ page: String) throws -> [String: Double] {
            var (samples, families, family) = ([String: Double](), Set<Substring>(), Substring())
            for line in page.split(separator: "\n") {
                if line.hasPrefix("# HELP ") { continue }
                if line.hasPrefix("# TYPE ") {
                    family = line.dropFirst(7).prefix { $0 != " " }
                    try #require(families.insert(family).inserted, "\(line): once")
                    continue
                }
                let place = try #require(line.lastIndex(of: " "), "\(line)")
                let (name, value) = (line[..<place], line[line.index(after: place)...])
                let base = name.prefix { $0 != "{" }
                let isOfFamily = ["", "_bucket", "_sum", "_count"].contains { base == family + $0 }
                try #require(isOfFamily, "\(line): stands with its family")
                let number = try #require(Double(value), "\(line)")
                try #require(samples.updateValue(number, forKey: String(name)) == nil, "\(line): once")
            }
            return samples
        }

        @Test func aNodesPageSaysWhatItDidAndTopShowsIt() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, groups: 3, replicas: 3)
            let client = try cluster.makeClient()
            defer { client.close() }
            func pages() throws -> [[String: Double]] {
                try cluster.addresses.map { node in
                    let answer = try HttpCall.get("/metrics", from: node)
                    #expect(answer.status == 200)
                    return try Self.samples(answer.body)
                }
            }
            func sum(_ pages: [[String: Double]], _ name: String) -> Double {
                pages.reduce(0) { $0 + ($1[name] ?? 0) }
            }
            let before = try pages()
            for number in 0..<100 { try await client.put(Bytes("key\(number)"), Bytes("value")) }
            for number in 0..<50 { #expect(try await client.get(Bytes("key\(number)")) != nil) }
            // a page is made once in a while
            var after = before
            try await Wait.until("the pages tell of it") {
                after = try pages()
                return sum(after, "flotilla_writes_total") - sum(before, "flotilla_writes_total") >= 100
                    && sum(after, "flotilla_reads_total") - sum(before, "flotilla_reads_total") >= 50
            }
            // the controller's group counts as well
            #expect(sum(after, "flotilla_leaders") == 4 && sum(after, "flotilla_replicas") == 12)
            for page in after {
                let resident = try #require(page["process_resident_memory_bytes"])
                let spent = try #require(page["process_cpu_seconds_total"])
                #expect(resident > 1_000_000 && spent > 0)
                let log = "flotilla_stage_seconds"
                let count = try #require(page["\(log)_count{stage=\"log\"}"])
                #expect(count > 0 && page["\(log)_bucket{stage=\"log\",le=\"+Inf\"}"] == count)
            }
            let groups = after.flatMap(\.keys).filter { $0.hasPrefix("flotilla_group_operations_total{group=\"g") }
            #expect(!groups.isEmpty)

            // something goes on while top looks
            let load = Task {
                for number in 0..<100_000 where !Task.isCancelled {
                    try await client.put(Bytes("key\(number % 100)"), Bytes("other value"))
                }
            }
            let nodes = cluster.addresses.map(\.description).joined(separator: ",")
            let top = try await Tools.run(
                Tools.raftctl, ["--cluster", nodes, "top", "--interval", "1", "--count", "2"])
            load.cancel()
            _ = await load.result
            #expect(top.status == 0, "\(top.output)")
            let lines = top.output.split(separator: "\n").map { $0.split(separator: " ") }
            #expect(lines.count { $0.first == "NODE" } == 2, "\(top.output)")
            let written = lines.filter { NodeAddress($0[0]) != nil }.compactMap { Int($0[3]) }
            #expect(written.count == 6 && written.contains { $0 > 0 }, "\(top.output)")
        }
    }
}
