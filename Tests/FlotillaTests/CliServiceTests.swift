import CMessages
import Flotilla
import FlotillaTestSupport
import RaftCore
import RaftHost
import ShardClient
import Testing
import WireMessages

@testable import CounterExample

/// What braft's clients ask of groups that are in no map, on embedded nodes.
@Suite("braft's command line service, embedded", .serialized, .timeLimit(.minutes(2))) struct CliServiceTests {
    private final class Nodes {
        let addresses = LoopbackPorts.take(4)
        let directory = TemporaryDirectory()
        var nodes: [EmbeddedNode?] = [nil, nil, nil]
        let client: Client

        init(catchUpMilliseconds: Int = 500) throws {
            client = try Client(seeds: addresses)
            var settings = RaftHost.Settings()
            settings.raft.catchUpTimeout = .milliseconds(catchUpMilliseconds)
            for number in 0..<3 {
                nodes[number] = try EmbeddedNode(
                    address: addresses[number], peers: Array(addresses[..<3]),
                    dataDirectory: "\(directory.path)/node\(number)", cluster: "counters",
                    groups: ["counter": .volatile { Counter() }], settings: settings)
            }
        }

        deinit {
            client.close()
            for number in 0..<3 { kill(number) }
        }

        func kill(_ number: Int) {
            nodes[number]?.kill()
            nodes[number] = nil
        }

        func peer(_ number: Int) -> String { PeerID(address: addresses[number]).description }

        /// The reply of a method of braft's service, or the number of its error.
        func call(_ method: String, at number: Int, _ body: Bytes) async -> Result<Bytes, Refused> {
            await Nodes.call(method, at: addresses[number], body, client)
        }

        static func call(
            _ method: String, at node: NodeAddress, _ body: Bytes, _ client: Client
        ) async -> Result<Bytes, Refused> {
            do throws(ClientError) {
                return .success(
                    try await client.call(
                        node, service: "CliService", method: method, body: body,
                        timeout: .milliseconds(10_000)))
            } catch {
                let number = error.message.split(separator: "(E").last.flatMap { Int($0.dropLast()) }
                return .failure(Refused(code: number ?? -1))
            }
        }

        /// The number of the node that is said to lead.
        func leader(asking number: Int) async -> Int? {
            let reply = await call("get_leader", at: number, Nodes.packed([(1, "counter"), (2, peer(number))]))
            guard case .success(let body) = reply, let name = Nodes.strings(in: body)[1]?.first else { return nil }
            return (0..<3).first { peer($0) == name }
        }

        func waitForLeader(asking number: Int, _ isRight: (Int) -> Bool = { _ in true }) async throws -> Int {
            let end = ContinuousClock.now + .seconds(20)
            while ContinuousClock.now < end {
                if let leader = await leader(asking: number), isRight(leader) { return leader }
                try await Task.sleep(for: .milliseconds(20))
            }
            throw Refused(code: -1)
        }

        /// A message of string fields.
        static func packed(_ fields: [(UInt8, String)]) -> Bytes {
            Bytes(fields.flatMap { [$0 << 3 | 2, UInt8($1.utf8.count)] + Array($1.utf8) })
        }

        /// The string fields of a message.
        static func strings(in message: Bytes) -> [UInt8: [String]] {
            var (fields, rest): ([UInt8: [String]], [UInt8]) = ([:], message.array)
            while rest.count >= 2 {
                fields[rest[0] >> 3, default: []].append(String(decoding: rest[2..<2 + Int(rest[1])], as: UTF8.self))
                rest.removeFirst(2 + Int(rest[1]))
            }
            return fields
        }
    }

    struct Refused: Error, Equatable { var code: Int }

    @Test func membersGoAndComeBackAndLeadershipMoves() async throws {
        let nodes = try Nodes()
        let leader = try await nodes.waitForLeader(asking: 0)
        let (other, third) = ((leader + 1) % 3, (leader + 2) % 3)
        let all = (0..<3).map(nodes.peer).sorted()
        let order = { (fields: [(UInt8, String)]) in Nodes.packed([(1, "counter"), (2, nodes.peer(leader))] + fields) }

        let removed = try await nodes.call("remove_peer", at: leader, order([(3, nodes.peer(other))])).get()
        let left = all.filter { $0 != nodes.peer(other) }
        #expect(Nodes.strings(in: removed) == [1: all, 2: left])
        let again = try await nodes.call("remove_peer", at: leader, order([(3, nodes.peer(other))])).get()
        #expect(Nodes.strings(in: again) == [1: left, 2: left])
        let added = try await nodes.call("add_peer", at: leader, order([(3, nodes.peer(other))])).get()
        #expect(Nodes.strings(in: added) == [1: left, 2: all])
        // through the joint stage
        let changed = try await nodes.call("change_peers", at: leader, order([(3, nodes.peer(leader))])).get()
        #expect(Nodes.strings(in: changed) == [1: all, 2: [nodes.peer(leader)]])
        let back = try await nodes.call("change_peers", at: leader, order(all.map { (3, $0) })).get()
        #expect(Nodes.strings(in: back) == [1: [nodes.peer(leader)], 2: all])

        #expect(await nodes.call("snapshot", at: leader, Nodes.packed([(1, "counter")])) == .success(Bytes()))
        let moved = await nodes.call("transfer_leader", at: leader, order([(3, nodes.peer(third))]))
        #expect(moved == .success(Bytes()))
        #expect(try await nodes.waitForLeader(asking: other) { $0 == third } == third)
        #expect(await nodes.call("add_peer", at: leader, order([(3, nodes.peer(other))])) == .failure(Refused(code: 1)))
    }

    @Test func whatCannotBeIsRefused() async throws {
        let nodes = try Nodes()
        let leader = try await nodes.waitForLeader(asking: 0)
        let order = { (fields: [(UInt8, String)]) in Nodes.packed([(1, "counter"), (2, "")] + fields) }
        func code(_ method: String, _ body: Bytes) async -> Int? {
            guard case .failure(let refused) = await nodes.call(method, at: leader, body) else { return nil }
            return refused.code
        }
        #expect(await code("add_peer", order([(3, "nobody")])) == 22)
        // nobody is there to catch up
        #expect(await code("add_peer", order([(3, nodes.peer(3))])) == 10003)
        #expect(await code("change_peers", order([(3, nodes.peer(leader) + "x"), (3, "")])) == 22)
        #expect(await code("change_peers", order([])) == 22)
        let witnesses = (0..<3).map { (UInt8(3), "\(nodes.addresses[$0]):0:1") }
        #expect(await code("change_peers", order(witnesses)) == 22)
        #expect(await code("transfer_leader", order([(3, nodes.peer(3))])) == 22)
        #expect(await code("reset_peer", order([(4, nodes.peer(leader))])) == 1)
        #expect(await code("get_leader", Nodes.packed([(1, "none")])) == 2)
        #expect(await code("snapshot", Bytes([0x0a, 9])) == 1003)

        let other = (leader + 1) % 3
        nodes.kill(other)
        let end = ContinuousClock.now + .seconds(20)
        while await code("transfer_leader", order([(3, nodes.peer(other))])) != 113 {
            try #require(ContinuousClock.now < end, "a successor that is down is not noticed")
            try await Task.sleep(for: .milliseconds(50))
        }
        let third = (leader + 2) % 3
        nodes.kill(third)
        // nobody is left to hand over to, or to follow
        while await code("transfer_leader", order([])) != 2001 {
            guard await code("get_leader", Nodes.packed([(1, "counter")])) != 11 else { break }
            try #require(ContinuousClock.now < end)
            try await Task.sleep(for: .milliseconds(20))
        }
        while await code("get_leader", Nodes.packed([(1, "counter")])) != 11 {
            try #require(ContinuousClock.now < end, "a leader without a majority stays one")
            try await Task.sleep(for: .milliseconds(50))
        }
        while let refusal = await code("reset_peer", order([(4, nodes.peer(leader))])) {
            try #require(refusal == 1 && ContinuousClock.now < end + .seconds(20))
            try await Task.sleep(for: .milliseconds(50))
        }
        #expect(try await nodes.waitForLeader(asking: leader) == leader)
    }

    @Test func oneChangeAtATime() async throws {
        // long enough for all that is asked meanwhile
        let nodes = try Nodes(catchUpMilliseconds: 5000)
        let leader = try await nodes.waitForLeader(asking: 0)
        let other = (leader + 1) % 3
        let order = { (fields: [(UInt8, String)]) in Nodes.packed([(1, "counter"), (2, "")] + fields) }
        // nobody is there
        let (client, node, newcomer) = (nodes.client, nodes.addresses[leader], order([(3, nodes.peer(3))]))
        let waiting = Task.detached { await Nodes.call("add_peer", at: node, newcomer, client) }
        let end = ContinuousClock.now + .seconds(20)
        // who comes first is carried out, so nothing that would change anything is asked first
        while await nodes.call("transfer_leader", at: leader, order([(3, nodes.peer(leader))]))
            != .failure(Refused(code: 16))
        {
            try #require(ContinuousClock.now < end, "the change does not begin")
        }
        for (method, fields) in [
            ("add_peer", [(3, "10.9.8.7:1:0")]), ("remove_peer", [(3, nodes.peer(other))]),
            ("change_peers", [(3, nodes.peer(leader))]), ("reset_peer", [(4, nodes.peer(leader))]),
            ("transfer_leader", [(3, nodes.peer(other))]),
        ] as [(String, [(UInt8, String)])] {
            #expect(await nodes.call(method, at: leader, order(fields)) == .failure(Refused(code: 16)), "\(method)")
        }
        #expect(await waiting.value == .failure(Refused(code: 10003)))
        // behind it the next one is carried out
        #expect(try await nodes.call("remove_peer", at: leader, order([(3, nodes.peer(other))])).get().count > 0)
    }
}
