import ClusterProcesses
import FlotillaTestSupport
import RaftCore
import ShardClient
import ShardMap
import Testing

extension Clusters {
    @Suite("What no node should be sent") struct BadInputTests {
        @Test func keysAndValuesThatAreTooLarge() async throws {
            let cluster = try await TestCluster(nodes: 1, groups: 1, replicas: 1)
            defer { cluster.close() }
            let client = try cluster.makeClient()
            defer { client.close() }
            let largestKey = [UInt8](repeating: 0x6b, count: KeyLimits.keyBytes)
            let largestValue = [UInt8](repeating: 0x76, count: KeyLimits.valueBytes)
            await #expect(throws: ClientError(.keyTooLarge)) { try await client.put(Bytes(largestKey + [0]), Bytes()) }
            await #expect(throws: ClientError(.keyTooLarge)) { try await client.put(Bytes(), Bytes()) }
            await #expect(throws: ClientError(.valueTooLarge)) {
                try await client.put(Bytes("k"), Bytes(largestValue + [0]))
            }
            try await client.put(Bytes(largestKey), Bytes(largestValue))
            #expect(try await client.get(Bytes(largestKey))?.count == KeyLimits.valueBytes)

            let set = Array("SET".utf8)
            let connection = try RawConnection(to: cluster.addresses[0])
            #expect(try connection.redis([set, largestKey + [0], []]).hasPrefix("-ERR a key must be"))
            #expect(try connection.redis([set, [0x6b], largestValue + [0]]).hasPrefix("-ERR a value must be"))
            // the connection has lost nothing by it
            #expect(try connection.redis("PING") == "+PONG")
            #expect(try connection.redis("EXISTS", "k") == ":0")
        }

        @Test func garbageOnThePort() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, groups: 2, replicas: 3)
            let client = try cluster.makeClient()
            defer { client.close() }
            try await client.put(Bytes("k"), Bytes("v"))
            let bystander = try RawConnection(to: cluster.addresses[0])
            #expect(try bystander.redis("GET", "k") == "v")
            var random = SeededRandom(seed: 20)
            for round in 0..<3000 {
                let input = Fuzz.input(&random)
                let connection = try RawConnection(to: cluster.addresses[0], timeoutMilliseconds: 5000)
                // whole, or cut in two
                let cut = Int(random.number(in: 0..<Int64(input.count + 1)))
                connection.send(Array(input[..<cut]))
                connection.send(Array(input[cut...]))
                connection.finishSending()
                #expect(connection.endsBeforeTimeout(), "input \(round) keeps its connection open")
                if round % 500 == 0 { #expect(try bystander.redis("PING") == "+PONG") }
                guard cluster.runs(0) else {
                    throw Failed("input \(round) ended the node: \(input)\n\(try cluster.log(of: 0).suffix(2000))")
                }
            }
            for node in 0..<3 { #expect(cluster.runs(node)) }
            #expect(try bystander.redis("GET", "k") == "v")
            try await client.put(Bytes("k"), Bytes("w"))
            #expect(try bystander.redis("GET", "k") == "w")
        }

        @Test func aDiskWithoutRoomRefusesWritesOnly() async throws {
            let cluster = try await TestCluster(nodes: 3, groups: 2, replicas: 3)
            defer { cluster.close() }
            let client = try cluster.makeClient()
            defer { client.close() }
            for key in ["!k", "~k"] { try await client.put(Bytes(key), Bytes("v")) }
            // as with --reserve-mb above what is free
            for node in 0..<3 {
                cluster.kill(node)
                try cluster.restart(node) { $0.host.minimumFreeBytes = .max }
            }
            try await cluster.waitUntilLed()
            // a node looks at its disk when it is first asked to write
            for key in ["!k", "~k"] {
                try await Wait.until("writes of \(key) are refused") {
                    do throws(ClientError) {
                        try await client.put(Bytes(key), Bytes("w"))
                        return false
                    } catch {
                        return error.error == .diskFull
                    }
                }
                #expect(try await client.get(Bytes(key)).map { ["v", "w"].contains($0.text) } == true)
                let connection = try RawConnection(to: cluster.addresses[0])
                #expect(try connection.redis("SET", key, "x").hasPrefix("-MISCONF the disk is full"))
                #expect(["v", "w"].contains(try connection.redis("GET", key)))
            }
            let states = await cluster.probe.statuses().map(\.state)
            #expect(states.contains("read_only"))

            for node in 0..<3 {
                cluster.kill(node)
                try cluster.restart(node)
            }
            try await cluster.waitUntilLed()
            try await client.put(Bytes("!k"), Bytes("room"))
            #expect(try await client.get(Bytes("!k")) == Bytes("room"))
        }
    }
}
