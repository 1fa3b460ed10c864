import CMessages
import RaftCore
import ShardMap
import Testing
import WireMessages

@testable import RaftHost
import ShardServer
import Simulator
@testable import Transport

@Suite("Who is heard without hello")
struct StrangerTests {
    /// Two nodes of three run.
    private func started(seed: UInt64) throws -> HostCluster {
        let cluster = HostCluster(seed: seed)
        for node in cluster.nodes.prefix(2) { try node.start() }
        return cluster
    }

    @Test("A member that speaks braft's services only is heard") func member() throws {
        let cluster = try started(seed: 31)
        let foreigner = try ScriptedForeigner(at: 3, in: cluster.world)
        cluster.run(.milliseconds(3000))
        #expect(foreigner.askForVote("g0", of: cluster.nodes[0].peer) == nil)
    }

    /// One whose directory was lost, say, and that was started without a cluster: its votes would not be those it gave.
    @Test("What stands at the address of a node of the cluster, and is not that node, is neither heard nor counted")
    func another() throws {
        let cluster = try started(seed: 38)
        let foreigner = try ScriptedForeigner(at: 3, in: cluster.world)
        for node in cluster.nodes.prefix(2) { node.host.mayBeForeign = { $0 != foreigner.peer.address } }
        cluster.run(.milliseconds(3000))
        #expect(foreigner.askForVote("g0", of: cluster.nodes[0].peer) != nil)
        for node in cluster.nodes.prefix(2) { #expect(!node.host.liveness.isForeign(foreigner.peer.address)) }
    }

    /// A guest hears whoever uses a node's name; the groups of the cluster go on relying on that node.
    @Test("Where everybody is heard, a request in the name of a node of the cluster does not make that a foreigner")
    func borrowedName() throws {
        var plan = HostCluster.Plan()
        plan.isOnItsOwn = true
        let cluster = HostCluster(seed: 36, plan: plan)
        for node in cluster.nodes.prefix(2) { try node.start() }
        let foreigner = try ScriptedForeigner(at: 9, in: cluster.world)
        let (node, absent) = (cluster.nodes[0], cluster.nodes[2].peer)
        for isNode in [true, false] {
            node.host.mayBeForeign = { _ in !isNode }
            #expect(foreigner.askForVote("g0", of: node.peer, as: absent) == nil)
            #expect(node.host.liveness.isForeign(absent.address) == !isNode)
        }
    }

    /// A replica that no leader has told of its group yet.
    private func createNewcomer(on node: SimulatedNode, in cluster: HostCluster) {
        node.lane.post {
            node.host.create(group: "new", peer: node.peer, birth: .empty, kind: "recording") { number in
                RecordingMachine(
                    node: Int(number), history: AppliedHistory(group: "new"), store: MachineStore(), seed: 1,
                    flushesOneOf: .max)
            } completion: {
                #expect($0 == nil)
            }
        }
        cluster.run(.milliseconds(1000))
    }

    @Test("Whoever is no member is not heard, nor dialled") func noMember() throws {
        let cluster = try started(seed: 39)
        let foreigner = try ScriptedForeigner(at: 9, in: cluster.world)
        cluster.run(.milliseconds(2000))
        for _ in 0..<2 {
            #expect(foreigner.askForVote("g0", of: cluster.nodes[0].peer) == 1)
            cluster.run(.milliseconds(300))
        }
        #expect(foreigner.connections == 0)
    }

    @Test("A newcomer that knows no members hears a braft: busy until it has found out what that is")
    func stranger() throws {
        let cluster = try started(seed: 32)
        let node = cluster.nodes[0]
        let foreigner = try ScriptedForeigner(at: 9, in: cluster.world)
        createNewcomer(on: node, in: cluster)
        #expect(foreigner.connections == 0)
        #expect(foreigner.askForVote("new", of: node.peer) == RaftHost.again)
        cluster.run(.milliseconds(300))
        #expect(foreigner.connections == 1)
        #expect(foreigner.askForVote("new", of: node.peer) == nil)
        // and it is forgotten when nothing is heard of it
        cluster.run(.milliseconds(31_000))
        #expect(node.host.strangers.isEmpty && !node.host.liveness.isForeign(foreigner.peer.address))
    }

    @Test("Nobody is heard in the name of a node of the cluster, or of the receiver itself") func impostor() throws {
        let cluster = try started(seed: 33)
        let foreigner = try ScriptedForeigner(at: 9, in: cluster.world)
        createNewcomer(on: cluster.nodes[0], in: cluster)
        cluster.run(.milliseconds(3000))
        for group in ["g0", "new", "g0", "new"] {
            #expect(foreigner.askForVote(group, of: cluster.nodes[0].peer, as: cluster.nodes[1].peer) == 1)
            #expect(foreigner.askForVote(group, of: cluster.nodes[0].peer, as: cluster.nodes[0].peer) == 1)
            cluster.run(.milliseconds(200))
        }
    }

    @Test("Names of many strangers cost a bounded number of connections") func bound() throws {
        let cluster = try started(seed: 34)
        let foreigner = try ScriptedForeigner(at: 9, in: cluster.world)
        createNewcomer(on: cluster.nodes[0], in: cluster)
        for number in 0..<60 {
            let name = PeerID(address: SimulatedNode.address(1000 + number))
            #expect(foreigner.askForVote("new", of: cluster.nodes[0].peer, as: name) == RaftHost.again)
            #expect(cluster.nodes[0].host.strangers.count <= RaftHost.strangersMax)
        }
        // whoever is real is heard when the others are a while ago
        cluster.run(.milliseconds(2500))
        #expect(foreigner.askForVote("new", of: cluster.nodes[0].peer) == RaftHost.again)
        cluster.run(.milliseconds(300))
        #expect(foreigner.askForVote("new", of: cluster.nodes[0].peer) == nil)
    }

    @Test("When one of ours takes a braft's place, what speaks without hello in its name is heard no more")
    func replaced()
        throws
    {
        let cluster = try started(seed: 35)
        let first = try ScriptedForeigner(at: 3, in: cluster.world)
        cluster.run(.milliseconds(3000))
        #expect(first.askForVote("g0", of: cluster.nodes[0].peer) == nil)
        cluster.world.crash(SimulatedNode.address(3))
        try cluster.nodes[2].start()
        cluster.run(.milliseconds(6000))
        let other = try ScriptedForeigner(at: 9, in: cluster.world)
        #expect(other.askForVote("g0", of: cluster.nodes[0].peer, as: cluster.nodes[2].peer) == 1)
        // and the other way round
        cluster.nodes[2].crash()
        let second = try ScriptedForeigner(at: 3, in: cluster.world)
        cluster.run(.milliseconds(6000))
        #expect(second.askForVote("g0", of: cluster.nodes[0].peer) == nil)
        #expect(cluster.nodes[0].host.liveness.isForeign(SimulatedNode.address(3)))
    }
}

@Suite("What a foreign member is sent")
struct ForeignSendingTests {
    /// Answers appends as a braft does that holds everything.
    static func agree(_ wire: RaftWire, _ request: RpcRequest) -> Bytes? {
        guard let (_, message, _) = try? wire.decodeAppendRequest(request.body, attachment: request.attachment) else {
            return nil
        }
        let reply = AppendReply(
            ticket: AppendTicket(
                term: message.term, previous: message.previous.index, count: message.entries.count, round: 0),
            term: message.term, success: true, lastIndex: nil)
        return wire.packReply(.appendReply(reply))
    }

    @Test("No frame with entries before the last one is answered, heartbeats beside it, and none of our own services")
    func oneFrame() throws {
        var plan = HostCluster.Plan()
        plan.settings.frameBytes = 1000
        let cluster = HostCluster(seed: 36, plan: plan)
        for node in cluster.nodes.prefix(2) { try node.start() }
        let foreigner = try ScriptedForeigner(at: 3, in: cluster.world)
        var held: [RpcRequest] = []
        var mostHeld = 0
        var entries = 0
        var heartbeats = 0
        foreigner.answer = { [unowned foreigner] method, request in
            guard method == "append_entries",
                let (_, message, _) = try? foreigner.wire.decodeAppendRequest(
                    request.body, attachment: request.attachment)
            else { return nil }
            guard message.entries.contains(where: { $0.kind == .data }) else {
                heartbeats += 1
                return Self.agree(foreigner.wire, request)
            }
            held.append(request)
            mostHeld = max(mostHeld, held.count)
            entries += message.entries.count
            return nil
        }
        cluster.run(.milliseconds(4000))
        let leader = try #require(cluster.leader(of: 0))
        for _ in 0..<10 { _ = cluster.propose(Bytes(Array(repeating: 7, count: 700)), on: leader) }
        let before = heartbeats
        cluster.run(.milliseconds(900))
        #expect(held.count == 1 && heartbeats >= before + 5)
        // one frame after the other, once it may
        for _ in 0..<60 {
            for request in held { request.responder.reply(body: Self.agree(foreigner.wire, request)!) }
            held = []
            cluster.run(.milliseconds(100))
        }
        #expect(mostHeld == 1 && entries >= 10)
        #expect(
            leader.host.raft(of: "g0")?.progress(of: foreigner.peer)?.match == leader.host.raft(of: "g0")?.lastIndex)
        #expect(Set(foreigner.calls).isSubset(of: ["append_entries", "pre_vote", "request_vote"]))
    }
}

@Suite("Elections that need a foreign member")
struct ForeignVoteTests {
    @Test("Two nodes and a braft go on without either node, again and again, over connections long idle")
    func votes() throws {
        let cluster = HostCluster(seed: 38)
        for node in cluster.nodes.prefix(2) { try node.start() }
        let foreigner = try ScriptedForeigner(at: 3, in: cluster.world)
        foreigner.answer = { [unowned foreigner] method, request in
            let wire = foreigner.wire
            switch method {
            case "pre_vote", "request_vote":
                let isPreVote = method == "pre_vote"
                guard let (_, vote) = try? wire.decodeVoteRequest(request.body, isPreVote: isPreVote) else {
                    return nil
                }
                let term = isPreVote ? Term(vote.term.rawValue - 1) : vote.term
                return wire.packReply(
                    .voteReply(VoteReply(isPreVote: isPreVote, requestTerm: vote.term, term: term, granted: true)))
            default: return ForeignSendingTests.agree(wire, request)
            }
        }
        for _ in 0..<3 {
            cluster.run(.milliseconds(20_000))
            let leader = try #require(cluster.leader(of: 0))
            let other = try #require(cluster.nodes.prefix(2).first { $0 !== leader })
            leader.crash()
            #expect(cluster.run(limit: 10_000) { other.leads(0) }, "the braft's vote makes a majority")
            #expect(cluster.propose(Bytes("x"), on: other)?.position != nil)
            try leader.start()
        }
        #expect(cluster.allViolations == [])
    }
}

@Suite("A group of keys that a foreign member leads")
struct NotServedTests {
    @Test("It answers NOT_SERVED, and one member asks for leadership, again and again until it has it")
    func reclaimed() throws {
        let cluster = ShardedCluster(seed: 37)
        #expect(try cluster.form())
        let foreigner = try ScriptedForeigner(at: 50, in: cluster.world)
        var asked: [String] = []
        foreigner.answer = { [unowned foreigner] method, request in
            if method == "append_entries" { return ForeignSendingTests.agree(foreigner.wire, request) }
            guard method == "transfer_leader" else { return nil }
            let name = Arena().scope { arena in
                arena.unpack(braft__transfer_leader_request__init, request.body).map {
                    "\(String(field: $0.pointee.group_id)) \(String(field: $0.pointee.leader_id)) "
                        + String(field: $0.pointee.peer_id)
                }
            }
            asked.append(name ?? "malformed")
            request.responder.fail(16, "a change is under way")
            return nil
        }
        let group = "g1"
        // a member of the group before it leads
        let leader = try #require(cluster.nodes.first { $0.host.leads(group) })
        let present = try #require(leader.host.raft(of: group)).configuration
        var outcome: ChangeOutcome?
        leader.lane.post {
            leader.host.changeMembership(of: group, to: Configuration(peers: present.peers + [foreigner.peer])) {
                outcome = $0
            }
        }
        #expect(cluster.world.runUntil(limit: .milliseconds(5000)) { outcome != nil })
        guard case .done = outcome else { Issue.record("not a member: \(outcome as Any)"); return }
        func lead(for milliseconds: Int) {
            for _ in 0..<milliseconds / 100 {
                for node in cluster.nodes {
                    let raft = node.host.raft(of: group)!
                    foreigner.heartbeat(group, to: raft.id, term: Term(40))
                }
                cluster.world.run(for: .milliseconds(100))
            }
        }
        lead(for: 4000)
        for node in cluster.nodes { #expect(node.host.raft(of: group)?.leader == foreigner.peer) }
        for node in cluster.nodes {
            var reply: ExecuteReply?
            node.lane.post {
                let read = KeyOperation(.get, key: Bytes("a"))
                node.server.execute(
                    ExecuteRequest(group: group, shard: 1, epoch: 1, reads: [read]), command: nil
                ) { packed in reply = ExecuteReply(packed, Arena()) }
            }
            lead(for: 300)
            #expect(reply?.error == .notServed)
        }
        let first = cluster.nodes[0].host.raft(of: group)!.id
        #expect(asked.first == "g1 \(foreigner.peer) \(first)")
        let firsts = asked.count { $0.hasSuffix(" \(first)") }
        #expect(firsts >= 3 && firsts <= 6, "once a second: \(asked)")
        // it goes: a node of ours leads, and nobody is asked any more
        let count = asked.count
        cluster.world.crash(foreigner.peer.address)
        #expect(
            cluster.world.runUntil(limit: .milliseconds(10_000)) {
                cluster.nodes.contains { $0.host.leads(group) }
            })
        cluster.world.run(for: .milliseconds(2000))
        #expect(asked.count <= count + 1)
    }
}
