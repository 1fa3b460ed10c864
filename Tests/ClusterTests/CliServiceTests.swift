import ClusterProcesses
import FlotillaTestSupport
import RaftCore
import ShardClient
import ShardMap
import Testing

extension Clusters {
    /// What braft's clients ask of groups of the map, on real nodes.
    @Suite("braft's command line service") struct CliServiceTests {
        /// The members of a group, as the newest map has them.
        private static func members(_ cluster: TestCluster, _ group: String) async throws -> [PeerID] {
            let client = try cluster.makeClient()
            defer { client.close() }
            return try await client.clusterMap().group(group)?.peers.sorted() ?? []
        }

        /// Who leads, as the group's members say, once they do.
        private static func leader(_ cluster: TestCluster, _ group: String) async throws -> PeerID {
            var found: PeerID?
            try await Wait.until("\(group) is led") {
                for member in try await members(cluster, group) {
                    let answer = try? HttpCall.cli(
                        member.address, "get_leader", ("group_id", .text(group)), ("peer_id", .text("\(member)")))
                    found = answer.flatMap { PeerID($0.body.dropFirst(14).dropLast(2)) }
                    if found != nil { return true }
                }
                return false
            }
            return try #require(found)
        }

        private static func list(_ peers: [PeerID]) -> HttpCall.Field { .list(peers.map(\.description)) }

        private static func answer(_ before: [PeerID], _ after: [PeerID]) -> String {
            "{\"old_peers\":\(list(before).json),\"new_peers\":\(list(after).json)}"
        }

        @Test func theMapFollowsTheMembers() async throws {
            let cluster = try await TestCluster(nodes: 4, groups: 1, replicas: 3)
            defer { cluster.close() }
            let before = try await Self.members(cluster, "g1")
            let outsider = PeerID(
                address: try #require(
                    cluster.addresses.first { node in
                        !before.contains { $0.address == node }
                    }))
            let leader = try await Self.leader(cluster, "g1")
            // the controller's leader is another node, which has to be asked by the group's
            let other = try #require(cluster.addresses.first { $0 != leader.address })
            let controller = try await Self.leader(cluster, "controller")
            if controller.address == leader.address {
                let moved = try HttpCall.cli(
                    leader.address, "transfer_leader", ("group_id", "controller"),
                    ("leader_id", .text("\(controller)")),
                    ("peer_id", .text("\(PeerID(address: other))")))
                #expect(moved.status == 200 && moved.body.isEmpty, "\(moved)")
                try await Wait.until("the controller is led elsewhere") {
                    try await Self.leader(cluster, "controller").address == other
                }
            }

            func order(_ method: String, _ fields: (String, HttpCall.Field)...) throws -> HttpCall.Answer {
                let all = [("group_id", HttpCall.Field.text("g1")), ("leader_id", .text("\(leader)"))] + fields
                let body = all.map { "\"\($0)\":\($1.json)" }.joined(separator: ",")
                return try HttpCall.post("/braft.CliService/\(method)", "{\(body)}", to: leader.address)
            }
            let four = (before + [outsider]).sorted()
            let added = try order("add_peer", ("peer_id", .text("\(outsider)")))
            #expect(added.status == 200 && added.body == Self.answer(before, before + [outsider]), "\(added)")
            #expect(try await Self.members(cluster, "g1") == four)
            // a member: nothing is to be done
            let again = try order("add_peer", ("peer_id", .text("\(outsider)")))
            #expect(again.status == 200 && again.body == Self.answer(four, four), "\(again)")

            let leaver = try #require(four.first { $0 != leader && $0 != outsider })
            let three = four.filter { $0 != leaver }
            let removed = try order("remove_peer", ("peer_id", .text("\(leaver)")))
            #expect(removed.status == 200 && removed.body == Self.answer(four, three), "\(removed)")
            #expect(try await Self.members(cluster, "g1") == three)
            let gone = try order("remove_peer", ("peer_id", .text("\(leaver)")))
            #expect(gone.status == 200 && gone.body == Self.answer(three, three), "\(gone)")

            // whoever comes back gets a new idx, and says so
            let back = PeerID(address: leaver.address, idx: 1)
            let returned = try order("add_peer", ("peer_id", .text("\(leaver.address)")))
            #expect(returned.status == 200 && returned.body == Self.answer(three, three + [back]), "\(returned)")
            let target = [leader, back].sorted()
            let changed = try order("change_peers", ("new_peers", Self.list(target)))
            #expect(
                changed.status == 200 && changed.body.hasSuffix("\"new_peers\":\(Self.list(target).json)}"),
                "\(changed)")
            #expect(try await Self.members(cluster, "g1") == target)

            // the leader itself goes: answered when that is committed
            let last = try order("remove_peer", ("peer_id", .text("\(leader)")))
            #expect(last.status == 200, "\(last)")
            #expect(try await Self.members(cluster, "g1") == [back])
            #expect(try await Self.leader(cluster, "g1") == back)
        }

        @Test func everyRefusalHasItsNumber() async throws {
            let cluster = try await TestCluster(nodes: 3, groups: 1, replicas: 3)
            defer { cluster.close() }
            let leader = try await Self.leader(cluster, "g1")
            let node = leader.address
            let others = try await Self.members(cluster, "g1").filter { $0 != leader }
            func code(_ method: String, at node: NodeAddress? = nil, _ body: String) throws -> Int {
                try HttpCall.post("/CliService/\(method)", body, to: node ?? leader.address).code
            }
            func fields(_ leader: String, _ rest: String) -> String {
                #"{"group_id":"g1","leader_id":"\#(leader)"\#(rest)}"#
            }
            let peer = { (name: String) in #","peer_id":"\#(name)""# }
            let known = peer("\(others[0])")
            // who is meant
            #expect(try code("add_peer", #"{"group_id":"g9","leader_id":"\#(leader)","peer_id":"\#(leader)"}"#) == 2)
            #expect(try code("add_peer", fields("\(node):7", known)) == 2)
            #expect(try code("add_peer", fields("\(others[0])", known)) == 2)
            #expect(try code("add_peer", fields("nobody", known)) == 22)
            #expect(try code("get_leader", #"{"group_id":"g1","peer_id":"1.2.3"}"#) == 22)
            #expect(try code("get_leader", #"{"group_id":"g9"}"#) == 2)
            #expect(try code("get_leader", #"{"group_id":"g1"}"#) == 0)
            // who does not lead
            for method in ["add_peer", "remove_peer", "transfer_leader"] {
                #expect(try code(method, at: others[0].address, fields("\(others[0])", known)) == 1)
            }
            #expect(try code("change_peers", at: others[0].address, fields("", #","new_peers":["\#(leader)"]"#)) == 1)
            // an empty name is the only replica there is
            #expect(try code("add_peer", fields("", known)) == 0)
            // which members
            for name in ["", "nobody", "10.0.0.1", "[::1]:80:0", "10.0.0.1:80:x", "10.0.0.1:80:0:2", "10.0.0.1:80:0:3"]
            {
                #expect(try code("add_peer", fields("\(leader)", peer(name))) == 22, "\(name)")
            }
            #expect(try code("add_peer", fields("\(leader)", peer("10.9.8.7:6543:0"))) == 22, "no node of the map")
            #expect(try code("change_peers", fields("\(leader)", #","new_peers":[]"#)) == 22)
            #expect(try code("change_peers", fields("\(leader)", "")) == 22)
            #expect(try code("change_peers", fields("\(leader)", #","new_peers":["\#(leader)","x"]"#)) == 22)
            #expect(try code("change_peers", fields("\(leader)", #","new_peers":["\#(node):0:1"]"#)) == 22)
            #expect(try code("transfer_leader", fields("\(leader)", peer("10.9.8.7:6543:0"))) == 22)
            #expect(try code("transfer_leader", fields("\(leader)", peer("\(leader)"))) == 0)
            // a group that has its majority is not reset by force
            let alone = #"{"group_id":"g1","peer_id":"\#(leader)","new_peers":["\#(leader)"]}"#
            #expect(try code("reset_peer", alone) == 16)
            #expect(try code("reset_peer", #"{"group_id":"g1","peer_id":"\#(leader)"}"#) == 22)
            // what is no request
            #expect(try code("add_peer", #"{"group_id":"g1","leader_id":""}"#) == 1003)
            #expect(try code("no_method", "{}") == 1002)
            #expect(try code("snapshot", #"{"group_id":"g1"}"#) == 0)

            let client = try cluster.makeClient()
            defer { client.close() }
            func failure(_ service: String, _ method: String, _ body: [UInt8]) async -> String {
                do throws(ClientError) {
                    let reply = try await client.call(
                        node, service: service, method: method, body: Bytes(body), timeout: .milliseconds(5000))
                    return reply.text
                } catch {
                    return error.message
                }
            }
            // short names in frames, too; the errors of those that are not there differ
            #expect(await failure("CliService", "get_leader", [0x0a, 2] + Array("g1".utf8)).contains("\(leader)"))
            #expect(await failure("NoService", "get_leader", []).hasSuffix("(E1001)"))
            #expect(await failure("no.Service", "get_leader", []).hasSuffix("(E1002)"))
            #expect(await failure("braft.CliService", "get_leader", [0xff, 0xff]).hasSuffix("(E1003)"))
            #expect(await failure("braft.CliService", "add_peer", [0x0a, 2] + Array("g1".utf8)).hasSuffix("(E1003)"))
        }

        @Test func aNewcomerThatIsDownEndsTheChange() async throws {
            let cluster = try await TestCluster(nodes: 4, groups: 1, replicas: 3)
            defer { cluster.close() }
            let before = try await Self.members(cluster, "g1")
            let outsider = try #require(
                cluster.addresses.indices.first { node in !before.contains { $0.address == cluster.addresses[node] } })
            cluster.kill(outsider)
            try await cluster.waitUntilLed()
            let leader = try await Self.leader(cluster, "g1")
            let name = "\(PeerID(address: cluster.addresses[outsider]))"
            let waiting = Task.detached {
                try HttpCall.cli(
                    leader.address, "add_peer", ("group_id", "g1"), ("leader_id", .text("\(leader)")),
                    ("peer_id", .text(name)))
            }
            // one change at a time; the other one would be carried out if it came first
            let nodes = cluster.addresses.map(\.description).joined(separator: ",")
            try await Wait.until("the first one has begun") {
                let list = try? await Tools.run(Tools.raftctl, ["--cluster", nodes, "operation", "list"])
                return list?.output.contains("change the members of group g1") ?? false
            }
            let victim = try #require(before.first { $0 != leader })
            try await Wait.until("another change is refused") {
                try HttpCall.cli(
                    leader.address, "transfer_leader", ("group_id", "g1"), ("leader_id", .text("\(leader)")),
                    ("peer_id", "10.9.8.7:1:0")
                ).code == 22
                    && HttpCall.cli(
                        leader.address, "change_peers", ("group_id", "g1"), ("leader_id", .text("\(leader)")),
                        ("new_peers", .list([leader, victim].map(\.description)))
                    ).code == 16
            }
            let answer = try await waiting.value
            #expect(answer.code == 10003, "\(answer)")
            #expect(try await Self.members(cluster, "g1") == before)
        }

        @Test func whatNeverLeftIsNotUnknown() async throws {
            let cluster = try await TestCluster(nodes: 3, groups: 1, replicas: 1)
            defer { cluster.close() }
            let leader = try await Self.leader(cluster, "g1")
            for (number, address) in cluster.addresses.enumerated() where address != leader.address {
                cluster.kill(number)
            }
            try await Wait.until("nobody leads the controller") {
                try HttpCall.cli(leader.address, "get_leader", ("group_id", "controller")).code == 11
            }
            // the controller has no majority, and the others cannot even be asked
            let other = try #require(cluster.addresses.first { $0 != leader.address })
            let answer = try HttpCall.cli(
                leader.address, "add_peer", ("group_id", "g1"), ("leader_id", .text("\(leader)")),
                ("peer_id", .text("\(other)")))
            #expect(answer.code == 11, "\(answer)")
        }

        @Test func aNodeMayHaveItSwitchedOff() async throws {
            let cluster = try await TestCluster(nodes: 1, groups: 1, replicas: 1) { $0.host.answersCli = false }
            defer { cluster.close() }
            let leader = try await Self.leader(cluster, "g1")
            let node = leader.address
            for (method, rest) in [
                ("add_peer", #","leader_id":"","peer_id":"\#(leader)""#),
                ("remove_peer", #","leader_id":"","peer_id":"10.0.0.1:1:0""#),
                ("change_peers", #","leader_id":"","new_peers":["\#(leader)"]"#),
                ("reset_peer", #","peer_id":"","new_peers":["\#(leader)"]"#), ("snapshot", ""),
                ("transfer_leader", #","leader_id":"""#),
            ] {
                let answer = try HttpCall.post("/CliService/\(method)", #"{"group_id":"g1"\#(rest)}"#, to: node)
                #expect(answer.code == 13 && answer.status == 500, "\(method): \(answer)")
            }
        }

        @Test func whatIsLeftOfAGroupGoesOnByForce() async throws {
            let cluster = try await TestCluster(nodes: 3, groups: 1, replicas: 3)
            defer { cluster.close() }
            cluster.kill(1)
            cluster.kill(2)
            let left = PeerID(address: cluster.addresses[0])
            for group in ["g1", "controller"] {
                if group == "controller" {
                    // whoever took the order has forgotten it, and the map had nobody to tell
                    cluster.kill(0)
                    try cluster.restart(0)
                }
                try await Wait.until("nobody leads \(group)") {
                    try HttpCall.cli(left.address, "get_leader", ("group_id", .text(group))).code == 11
                }
                try await Wait.until("\(group) is reset") {
                    let answer = try HttpCall.cli(
                        left.address, "reset_peer", ("group_id", .text(group)), ("peer_id", .text("\(left)")),
                        ("new_peers", Self.list([left])))
                    guard answer.code == 16 else {
                        #expect(answer.status == 200, "\(answer)")
                        return true
                    }
                    return false
                }
                // twice is once
                let again = try HttpCall.cli(
                    left.address, "reset_peer", ("group_id", .text(group)), ("peer_id", ""),
                    ("new_peers", Self.list([left])))
                #expect(again.status == 200, "\(again)")
            }
            try await Wait.until("the map follows", timeout: .seconds(40)) {
                let client = try Client(seeds: [left.address])
                defer { client.close() }
                let map = try await client.clusterMap()
                return ["controller", "g1"].allSatisfy { map.group($0)?.peers == [left] }
            }
        }

        @Test func thePageRaftStatTellsOfEveryReplica() async throws {
            let cluster = try await TestCluster(nodes: 3, groups: 2, replicas: 3)
            defer { cluster.close() }
            let leader = try await Self.leader(cluster, "g1")
            let one = try HttpCall.get("/raft_stat/g1", from: leader.address)
            // CR LF would be one character
            let lines = one.body.utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
                .map { String(decoding: $0, as: UTF8.self) }
            #expect(one.status == 200 && lines[0] == "[g1]\r" && lines[1] == "peer_id: \(leader)\r", "\(one)")
            for start in [
                "state: LEADER\r", "readonly: 0\r", "term: ", "conf_index: ", "peers: 127.0.0.1:",
                "election_timer: timeout(",
                "changing_conf: NO    stage: STAGE_NONE\r", "storage: [", "last_log_id: (index=", "state_machine: Idle",
                "snapshot_status: IDLE\r", "replicator_1@127.0.0.1:",
            ] {
                #expect(lines.contains { $0.hasPrefix(start) }, "\(start) is missing:\n\(one.body)")
            }
            // as braft has it: these lines end in LF alone
            #expect(lines.filter { !$0.hasSuffix("\r") && !$0.isEmpty }.count == 5)
            #expect(one.body.contains(" flying_append_entries_size=0 idle hc=0 ac=0 ic=0\r\n"))
            #expect(one.body.hasSuffix("\r\n\r\n") && lines.count { $0.hasPrefix("replicator_") } == 2)
            let all = try HttpCall.get("/raft_stat", from: leader.address)
            #expect(["[controller]\r\n", "[g1]\r\n", "[g2]\r\n"].allSatisfy { all.body.contains($0) })
            #expect(try HttpCall.get("/raft_stat/none", from: leader.address).body.isEmpty)
            let follower = try #require(cluster.addresses.first { $0 != leader.address })
            try await Wait.until("the page of a follower names the leader") {
                let body = try HttpCall.get("/raft_stat/g1", from: follower).body
                return body.contains("state: FOLLOWER\r\n") && body.contains("leader: \(leader)\r\n")
            }
        }

        @Test func theOtherServicesAreReachedAsWell() async throws {
            let cluster = try await TestCluster(nodes: 1, groups: 1, replicas: 1)
            defer { cluster.close() }
            let node = cluster.addresses[0]
            #expect(try HttpCall.get("/health", from: node).body == "OK")
            let status = try HttpCall.get("/ClusterService/status", from: node)
            #expect(status.status == 200 && status.body.contains("\"state\":\"serving\""), "\(status)")
            let map = try HttpCall.post("/flotilla.ClusterService/get_map", "{}", to: node)
            #expect(map.status == 200 && map.body.contains("\"\(node):0:0\""), "\(map)")
            // what only nodes ask of each other is not there
            #expect(try HttpCall.post("/ClusterService/load", "{}", to: node).code == 1002)
            #expect(try HttpCall.post("/NodeService/hello", "{}", to: node).code == 1002)
            let list = try HttpCall.get("/list", from: node).body
            let silent = list.split(separator: "\n").reversed().reduce(into: (names: [Substring](), isLast: true)) {
                if !$1.hasPrefix(" "), $0.isLast { $0.names.append($1) }
                $0.isLast = !$1.hasPrefix(" ")
            }
            #expect(silent.names.isEmpty, "services whose messages are not known: \(silent.names)")
            #expect(try HttpCall.get("/status", from: node).body.contains("cluster_enabled"))
        }
    }
}
