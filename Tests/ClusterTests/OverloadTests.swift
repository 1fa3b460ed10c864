import FlotillaTestSupport
import RaftCore
import ShardClient
import ShardMap
import Testing

@Suite("More than a node takes", .serialized) struct OverloadTests {
    @Test("clients above the limit are told so, and other nodes are let in all the same", .timeLimit(.minutes(2)))
    func connections() async throws {
        let cluster = try await TestCluster(nodes: 1, groups: 1, replicas: 1) { $0.connectionsMax = 20 }
        defer { cluster.close() }
        let address = cluster.addresses[0]
        let early = try RawConnection(to: address)
        #expect(try early.redis("SET", "a", "1") == "+OK")
        // they say nothing, and are there
        var silent: [RawConnection] = []
        for _ in 0..<20 { silent.append(try RawConnection(to: address)) }
        try await Wait.until("there are too many") {
            let late = try RawConnection(to: address)
            return try late.redis("PING") == "-ERR max number of clients reached" && late.endsBeforeTimeout()
        }
        let http = try RawConnection(to: address)
        http.send(Array("GET /health HTTP/1.1\r\n\r\n".utf8))
        let page = String(decoding: http.receive() ?? [], as: UTF8.self)
        #expect(page.hasPrefix("HTTP/1.1 503 ") && page.hasSuffix("\r\n\r\nthere are too many clients\n"))
        #expect(http.endsBeforeTimeout())

        // whoever asks for keys hears that the node is busy; what nodes ask each other is answered
        var settings = Client.Settings()
        settings.timeout = .milliseconds(500)
        let client = try cluster.makeClient(settings)
        defer { client.close() }
        let error = await #expect(throws: ClientError.self) { try await client.put(Bytes("b"), Bytes("2")) }
        #expect(error?.error == .busy, "\(error?.message ?? "")")
        let probe = try ClusterProbe(nodes: [address])
        defer { probe.close() }
        #expect(await probe.status(of: address)?.state == "serving")
        #expect(try early.redis("GET", "a") == "1")

        silent = []
        try await Wait.until("there is room again") { try RawConnection(to: address).redis("PING") == "+PONG" }
        try await Wait.until("also for the client") { (try? await client.put(Bytes("b"), Bytes("2"))) != nil }
    }

    @Test("requests above the limit are busy, and nothing is lost of the others", .timeLimit(.minutes(2)))
    func requests() async throws {
        let cluster = try await TestCluster(nodes: 3, groups: 1) { configuration in
            configuration.admission.requests = 8
        }
        defer { cluster.close() }
        var settings = Client.Settings()
        settings.router.maxOperationsPerRequest = 1
        settings.router.maxRequestsInFlightPerShard = 64
        settings.timeout = .milliseconds(60_000)
        let client = try cluster.makeClient(settings)
        defer { client.close() }
        try await client.put(Bytes("counter"), Bytes("0"))
        // sixty-four are under way at a time, of which eight are taken: the library asks again for the others
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<100 { group.addTask { _ = try await client.increment(Bytes("counter")) } }
            try await group.waitForAll()
        }
        #expect(try await client.get(Bytes("counter")) == Bytes("100"))
        // and one that does not ask again hears it
        settings.timeout = .milliseconds(15)
        settings.router.retryDelay = .milliseconds(10_000)
        settings.router.maxRetryDelay = .milliseconds(10_000)
        let hasty = try cluster.makeClient(settings)
        defer { hasty.close() }
        try await Wait.until("somebody is refused") {
            await withTaskGroup(of: NamedError?.self) { group in
                for number in 0..<64 {
                    group.addTask {
                        do throws(ClientError) {
                            _ = try await hasty.get(Bytes("key\(number)"))
                            return nil
                        } catch {
                            return error.error
                        }
                    }
                }
                var errors: [NamedError] = []
                for await error in group { if let error { errors.append(error) } }
                return errors.contains(.busy)
            }
        }
    }
}
