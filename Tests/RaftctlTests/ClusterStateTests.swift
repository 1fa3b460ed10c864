import CMessages
import RaftCore
import ShardMap
import Testing
import WireMessages

@testable import raftctl

@Suite("The state of the cluster") struct ClusterStateTests {
    private static let addresses = (1...3).map { NodeAddress(ip: 0x7f00_0001, port: UInt16(8100 + $0)) }
    private let peers = addresses.map { PeerID(address: $0) }
    private var map: ClusterMap {
        let nodes = Self.addresses.enumerated().map { Node(id: UInt64($0 + 1), address: $1, incarnation: 1) }
        let record = BootstrapRecord(
            clusterID: 9, nodes: nodes, controllerPeers: peers, groups: 1, replicas: 3, boundaries: [])
        return record.initialMap
    }

    private func node(_ number: Int, _ replicas: [ReplicaStatus]) -> NodeStatus {
        NodeStatus(id: UInt64(number), incarnation: 1, runNumber: 1, state: "serving", replicas: replicas)
    }

    private func replica(
        _ group: String, _ node: Int, _ state: String, term: Int64, commit: Int64, applied: Int64
    ) -> ReplicaStatus {
        ReplicaStatus(
            group: group, peer: peers[node - 1], state: state, term: term, leader: nil, commitIndex: commit,
            appliedIndex: applied, lastIndex: commit, durableIndex: commit, peers: [], problem: nil)
    }

    @Test("of two who say they lead, the higher term counts; lag is counted from its commit index")
    func leader() throws {
        let state = ClusterState(
            map: map,
            answers: [
                node(1, [replica("g1", 1, "leader", term: 4, commit: 80, applied: 80)]),
                node(2, [replica("g1", 2, "leader", term: 5, commit: 90, applied: 90)]),
                node(3, [replica("g1", 3, "follower", term: 5, commit: 90, applied: 70)]),
            ])
        let group = try #require(state.groups.first { $0.id == "g1" })
        #expect(group.leader == peers[1] && group.term == 5 && group.commitIndex == 90)
        #expect(group.maxLag == 20)
        #expect(group.members.map { group.lag(of: $0) } == [10, 0, 20])
        #expect(!state.isLed, "nobody leads the controller")
    }

    @Test("a node that does not answer is down, its replicas too; one that lacks its replica says so")
    func down() throws {
        let state = ClusterState(
            map: map,
            answers: [nil, node(2, [replica("g1", 2, "candidate", term: 5, commit: 9, applied: 9)]), node(3, [])])
        let group = try #require(state.groups.first { $0.id == "g1" })
        #expect(state.nodes.map(\.state) == ["down", "serving", "serving"])
        #expect(group.members.map(\.state) == ["down", "candidate", "missing"])
        #expect(group.leader == nil && group.healthyMembers == 1)
        #expect(state.groupTable.contains("1/3"))
        #expect(group.json.text.contains(#""leader":null,"term":5,"commit_index":9"#))
    }

    @Test("what a replica owes, or cannot read, stands in the group's table until it is made good")
    func problems() throws {
        let arena = Arena()
        func lines(debt: Int64?, problem: String?) throws -> [Substring] {
            let body = arena.scope { arena in
                let record = arena.make(flotilla__group_status__init)
                record.pointee.id = arena.string("g1")
                record.pointee.peer = arena.string(peers[1].description)
                record.pointee.state = arena.string("follower")
                record.pointee.leader = arena.string("")
                if let debt { (record.pointee.has_debt_index, record.pointee.debt_index) = (1, debt) }
                if let problem { record.pointee.problem = arena.string(problem) }
                let reply = arena.make(flotilla__status_reply__init)
                reply.pointee.state = arena.string("serving")
                reply.pointee.n_groups = 1
                return withUnsafeMutablePointer(to: &reply.pointee.groups) { groups in
                    var records: UnsafeMutablePointer<Flotilla__GroupStatus>? = record
                    return withUnsafeMutablePointer(to: &records) { list in
                        groups.pointee = list
                        return arena.pack(reply)
                    }
                }
            }
            let status = try #require(NodeStatus(body, arena))
            let state = ClusterState(map: map, answers: [nil, status, nil])
            let group = try #require(state.groups.first { $0.id == "g1" })
            return group.memberTable.split(separator: "\n").filter { $0.contains(peers[1].description) }
        }
        #expect(
            try lines(debt: 42, problem: nil).first?.hasSuffix("its log has lost entries up to 42 and is being healed")
                == true)
        #expect(try lines(debt: 42, problem: "damaged at offset 7").first?.hasSuffix("damaged at offset 7") == true)
        #expect(try lines(debt: nil, problem: nil).first?.contains("lost") == false)
    }

    @Test("without a map the nodes that answer show their own replicas, and a note says what is missing")
    func lone() throws {
        var own = replica("g1", 2, "follower", term: 5, commit: 9, applied: 9)
        (own.peers, own.problem) = (peers, "its log has lost entries")
        let seeds = [Self.addresses[1]]
        let alone = ClusterState(asked: seeds, answers: [node(2, [own])], because: "no leader")
        #expect(alone.nodesUnasked == [Self.addresses[0], Self.addresses[2]])
        let state = ClusterState(
            asked: seeds + alone.nodesUnasked, answers: [node(2, [own]), nil, nil], because: "no leader")
        let group = try #require(state.groups.first)
        #expect(state.groups.map(\.id) == ["g1"] && group.leader == nil && group.term == 5 && group.commitIndex == 9)
        #expect(group.members.map(\.state) == ["down", "follower", "down"])
        #expect(group.memberTable.contains("its log has lost entries"))
        #expect(state.note?.hasSuffix("(no leader)") == true && !state.isLed)
        #expect(state.nodes.map(\.state) == ["serving", "down", "down"] && state.nodes[0].id == 2)
    }

    @Test("of nodes that belong to no cluster there is nothing to show") func unformed() {
        let status = NodeStatus(id: 0, incarnation: 1, runNumber: 1, state: "uninitialized", replicas: [])
        let state = ClusterState(asked: [Self.addresses[0]], answers: [status], because: "not initialized")
        #expect(state.groups.isEmpty && state.note == nil && state.nodes[0].id == nil && state.nodesUnasked.isEmpty)
    }

    @Test("guests are shown beside the map's groups, with members of whom nothing is known, and nobody waits for them")
    func guests() throws {
        var own = replica("counter", 2, "follower", term: 5, commit: 9, applied: 9)
        let braft = try #require(PeerID("10.9.9.9:8100:0:0"))
        (own.kind, own.leader, own.peers) = ("guest", braft, [braft, peers[1]])
        let leads = (1...3).map { number in
            node(number, ["controller", "g1"].map { replica($0, number, "leader", term: 2, commit: 1, applied: 1) })
        }
        var answers = leads
        answers[1].replicas.append(own)
        let state = ClusterState(map: map, answers: answers)
        #expect(state.groups.map(\.id).contains("counter") == false && state.isLed)
        let guest = try #require(state.guests.first)
        #expect(
            guest.id == "counter" && guest.leader == braft && guest.members.map(\.state) == ["foreign", "follower"])
        #expect(state.groupTable.contains("counter (guest)") && guest.json.text.contains(#""guest":true"#))
        // without a map it asks no braft for its status as a node
        let alone = ClusterState(asked: [Self.addresses[1]], answers: [node(2, [own])], because: "no cluster")
        #expect(alone.nodesUnasked.isEmpty && alone.groups.isEmpty && alone.guests.map(\.id) == ["counter"])
    }

    @Test(
        "a member that runs another program is shown, and counts, as the group's leader says")
    func foreignMembers() throws {
        let braft = try #require(PeerID("10.9.9.9:8100:7:0"))
        func group(
            leads: Bool = true, follows: PeerID? = nil, _ told: ForeignStatus?
        ) throws -> (ClusterState, ClusterState.GroupView) {
            let answers = (1...3).map { number -> NodeStatus in
                var own = replica(
                    "g1", number, leads && number == 1 ? "leader" : "follower", term: 5, commit: 90, applied: 90)
                (own.peers, own.leader) = (peers + [braft], follows)
                // followers say who is foreign and no more
                if let told { own.foreign = [leads && number == 1 ? told : ForeignStatus(peer: braft)] }
                let other = replica(
                    "controller", number, number == 1 ? "leader" : "follower", term: 2, commit: 1, applied: 1)
                return node(number, [other, own])
            }
            let state = ClusterState(map: map, answers: answers)
            return (state, try #require(state.groups.first { $0.id == "g1" }))
        }
        let (all, inTouch) = try group(ForeignStatus(peer: braft, isReachable: true, matchIndex: 85))
        #expect(inTouch.members.map(\.state) == ["leader", "follower", "follower", "braft"])
        #expect(inTouch.healthyMembers == 4 && inTouch.members.map { inTouch.lag(of: $0) }.last == 5)
        #expect(inTouch.voters == (4, 4, 0) && all.isLed && all.groupTable.contains("4/4"))
        #expect(inTouch.json.text.contains(#""foreign":true,"reachable":true,"match_index":85"#))
        let (_, silent) = try group(ForeignStatus(peer: braft, isReachable: false, matchIndex: 40))
        #expect(silent.members.last?.state == "braft, silent" && silent.maxLag == 50 && silent.voters == (4, 3, 0))
        // it leads: whoever follows it does not know how far the others are
        let (led, foreign) = try group(leads: false, follows: braft, ForeignStatus(peer: braft))
        #expect(foreign.leader == braft && foreign.isLedByForeigner && !led.isLed)
        #expect(foreign.members.last?.state == "braft, unknown" && foreign.voters == (4, 3, 1))
        #expect(foreign.lag(of: try #require(foreign.members.last)) == nil)
        // nodes that are too old to tell
        let (_, untold) = try group(nil)
        #expect(untold.members.last?.state == "foreign" && untold.voters == (4, 3, 1))
    }

    @Test("what is told of foreign members is read") func foreignOnTheWire() throws {
        let arena = Arena()
        let braft = try #require(PeerID("10.9.9.9:8100:7:0"))
        let body = arena.scope { arena in
            let member = arena.make(flotilla__foreign_member__init)
            member.pointee.peer = arena.string(braft.description)
            (member.pointee.has_reachable, member.pointee.reachable) = (1, 1)
            (member.pointee.has_match_index, member.pointee.match_index) = (1, 12)
            let unknown = arena.make(flotilla__foreign_member__init)
            unknown.pointee.peer = arena.string(braft.description)
            let record = arena.make(flotilla__group_status__init)
            record.pointee.id = arena.string("g1")
            record.pointee.peer = arena.string(peers[1].description)
            record.pointee.state = arena.string("leader")
            record.pointee.n_foreign = 2
            record.pointee.foreign = arena.array([member, unknown])
            let reply = arena.make(flotilla__status_reply__init)
            reply.pointee.state = arena.string("serving")
            reply.pointee.n_groups = 1
            reply.pointee.groups = arena.array([record])
            return arena.pack(reply)
        }
        #expect(
            NodeStatus(body, arena)?.replicas.first?.foreign == [
                ForeignStatus(peer: braft, isReachable: true, matchIndex: 12), ForeignStatus(peer: braft),
            ])
    }

    @Test("tables fit 100 columns")
    func width() {
        let answers = (1...3).map { number in
            node(number, [replica("g1", number, "follower", term: 1_000_000, commit: 10_000_000, applied: 10_000_000)])
        }
        let state = ClusterState(map: map, answers: answers)
        let tables = [state.nodeTable, state.groupTable] + state.groups.map(\.memberTable)
        #expect(tables.flatMap { $0.split(separator: "\n") }.allSatisfy { $0.count <= 100 })
    }
}
