import CMessages
import RaftCore
import RaftStorage
import Testing
import WireMessages

@testable import RaftHost
import Simulator
@testable import Transport

/// A node of ours in a group of four with scripted brafts; the fourth member never runs.
private struct LeaseScene {
    let cluster: HostCluster
    let leader: ScriptedForeigner
    let asker: ScriptedForeigner
    var node: SimulatedNode { cluster.nodes[0] }

    init(seed: UInt64, plan: HostCluster.Plan = HostCluster.Plan(), leaderNumber: Int = 2) throws {
        var plan = plan
        plan.size = 4
        cluster = HostCluster(seed: seed, plan: plan)
        try cluster.nodes[0].start()
        leader = try ScriptedForeigner(at: leaderNumber, in: cluster.world)
        asker = try ScriptedForeigner(at: 3, in: cluster.world)
        cluster.run(.milliseconds(3000))
    }

    /// The leader is heard, and followed.
    func follow(term: Int64) {
        var isHeard = false
        for _ in 0..<100 where !isHeard {
            leader.heartbeat("g0", to: node.peer, term: Term(term)) { isHeard = isHeard || $0 == nil }
            cluster.run(.milliseconds(20))
        }
        #expect(isHeard && node.status(0)?.leader == leader.peer)
    }

    /// The leader sends entries of term 40.
    func append(after previous: Int64, count: Int) -> AppendReply? {
        let wire = leader.wire
        let entries = (1...count).map {
            LogEntry(
                position: LogPosition(term: Term(40), index: LogIndex(previous + Int64($0))), kind: .data,
                payload: Bytes("a"))
        }
        let last = LogPosition(term: previous == 0 ? .zero : Term(40), index: LogIndex(previous))
        let body = wire.arena.scope { arena in
            arena.pack(
                wire.appendRequest(
                    group: "g0", from: leader.peer, to: node.peer, term: Term(40), previous: last,
                    entries: entries[...],
                    withPayloads: true, commit: .zero, arena: arena))
        }
        let payload = Bytes([UInt8](repeating: UInt8(ascii: "a"), count: count))
        let ticket = AppendTicket(term: Term(40), previous: last.index, count: count, round: 0)
        var outcome: AppendReply??
        leader.call(node.address, "append_entries", body, attachment: [payload]) { error, reply in
            outcome = .some(error == nil ? wire.decodeAppendReply(reply, to: ticket) : nil)
        }
        cluster.run(limit: 3000) { outcome != nil }
        return outcome ?? nil
    }

    /// The node ends and starts again; from its start to its vote for the asker.
    func timeToVote(term: Int64) throws -> Interval {
        node.crash()
        try node.start()
        let start = node.lane.clock.now
        for _ in 0..<400 {
            if asker.askForVote("g0", of: node.peer, term: Term(term))?.granted == true {
                return node.lane.clock.now - start
            }
            cluster.run(.milliseconds(10))
        }
        Issue.record("it never votes")
        return .milliseconds(0)
    }
}

@Suite("Leases of foreign leaders")
struct ForeignLeaseTests {
    /// The braft is cut off from the node, and goes on leading the others.
    @Test("A node that starts anew waits out the lease that its braft may have, if it followed one lately")
    func restart() throws {
        let scene = try LeaseScene(seed: 51)
        scene.follow(term: 40)
        #expect(scene.node.host.records.map(\.followedForeigners) == [true])
        scene.cluster.world.crash(scene.leader.peer.address)
        #expect(try scene.timeToVote(term: 41) >= .milliseconds(2000))
        // nobody foreign has led since
        scene.cluster.run(.milliseconds(500))
        #expect(scene.node.host.records.map(\.followedForeigners) == [false])
        #expect(try scene.timeToVote(term: 42) <= .milliseconds(1900))
    }

    @Test("What is on record stays while a braft leads, and is there again when one comes back")
    func record() throws {
        let scene = try LeaseScene(seed: 52)
        scene.follow(term: 40)
        for isLed in [true, false] {
            scene.node.crash()
            try scene.node.start()
            if isLed { scene.follow(term: 40) }
            scene.cluster.run(.milliseconds(4000))
            #expect(scene.node.host.records.map(\.followedForeigners) == [isLed])
        }
        scene.follow(term: 40)
        #expect(scene.node.host.records.map(\.followedForeigners) == [true])
    }

    @Test("A leader that has been deposed is not followed, and so nothing is put on record for it") func deposed()
        throws
    {
        let scene = try LeaseScene(seed: 58)
        #expect(scene.asker.askForVote("g0", of: scene.node.peer, term: Term(50))?.granted == true)
        var codes: [Int32?] = []
        scene.leader.heartbeat("g0", to: scene.node.peer, term: Term(40)) { codes.append($0?.code) }
        scene.cluster.run(limit: 1000) { !codes.isEmpty }
        #expect(codes == [nil])
        scene.cluster.run(.milliseconds(500))
        #expect(scene.node.host.records.map(\.followedForeigners) == [false])
    }

    @Test("Nothing is followed before it is on record") func noting() throws {
        let scene = try LeaseScene(seed: 53)
        var codes: [Int32?] = []
        scene.leader.heartbeat("g0", to: scene.node.peer, term: Term(40)) { codes.append($0?.code) }
        scene.cluster.run(limit: 1000) { !codes.isEmpty }
        #expect(codes == [RaftHost.again] && scene.node.status(0)?.leader == nil)
    }

    @Test(
        "A record of an earlier version, which says nothing of it, counts as one that says so; now each says yes or no")
    func earlierRecord() throws {
        let arena = Arena()
        func note(_ followed: Bool?) -> Bytes {
            let message = arena.make(flotilla__node_state__init)
            let record = arena.make(flotilla__replica_record__init)
            record.pointee.group = arena.string("g0")
            record.pointee.peer = arena.string("10.0.0.1:8100:0:0")
            record.pointee.number = 1
            record.pointee.kind = arena.string("kv")
            record.pointee.has_followed_foreigners = followed == nil ? 0 : 1
            record.pointee.followed_foreigners = followed == true ? 1 : 0
            message.pointee.format = NodeState.format
            message.pointee.n_replicas = 1
            message.pointee.replicas = arena.array([record])
            return arena.pack(message)
        }
        for (said, read) in [(nil, true), (true, true), (false, false)] as [(Bool?, Bool)] {
            let state = try #require(NodeState(note(said)))
            #expect(state.replicas.map(\.followedForeigners) == [read])
            let again = try #require(NodeState(state.packed(arena)))
            #expect(again == state)
        }
    }

    @Test("A guest that asks for a later snapshot is as loyal to its leader as after any other append")
    func askingGuest() throws {
        var plan = HostCluster.Plan()
        plan.kind = RaftHost.guestKind
        plan.settings.compactionEntries = 12
        let scene = try LeaseScene(seed: 57, plan: plan)
        let node = scene.node
        #expect(scene.append(after: 0, count: 14)?.success == true)
        // nothing reaches it until shortly before its loyalty would end
        scene.cluster.run(.milliseconds(1500))
        let asked = scene.append(after: 14, count: 1)
        #expect(asked?.success == false && asked?.lastIndex == .zero, "it asks for a later snapshot")
        #expect(node.status(0)?.lastIndex == LogIndex(14))
        scene.cluster.run(.milliseconds(1500))
        let vote = scene.asker.askForVote(
            "g0", of: node.peer, term: Term(41), last: LogPosition(term: Term(40), index: LogIndex(20)))
        #expect(vote?.granted == false && vote?.details?.isRejectedByLease == true)
    }

    @Test("Where all are ours nobody waits longer for a leader after a start, though one of them is not there")
    func amongOurselves() throws {
        let cluster = HostCluster(seed: 54)
        try cluster.start()
        cluster.awaitLeaders()
        for node in cluster.nodes { node.crash() }
        cluster.run(.milliseconds(100))
        for node in cluster.nodes.prefix(2) { try node.start() }
        // a clock of its own in each life
        let start = cluster.nodes[0].lane.clock.now
        #expect(cluster.run(limit: 5000) { cluster.leader(of: 0) != nil })
        #expect(cluster.nodes[0].lane.clock.now - start <= .milliseconds(1900))
    }

    @Test("Where everybody is heard a leader that is no member yet is owed its lease as well")
    func unknownLeader() throws {
        var plan = HostCluster.Plan()
        plan.isOnItsOwn = true
        let scene = try LeaseScene(seed: 55, plan: plan, leaderNumber: 9)
        scene.follow(term: 40)
        #expect(!scene.node.host.liveness.isForeign(scene.leader.peer.address))
        let reply = scene.asker.askForVote("g0", of: scene.node.peer, term: Term(41))
        #expect(reply?.granted == false && reply?.details?.isRejectedByLease == true)
        // and after a start, without a record
        #expect(try scene.timeToVote(term: 41) >= .milliseconds(2000))
    }

    @Test("Where brafts have no leases a vote is free while their leader is heard, and at once after a start")
    func withoutLeases() throws {
        var plan = HostCluster.Plan()
        plan.settings.raft.foreignLeases = false
        let scene = try LeaseScene(seed: 56, plan: plan)
        scene.follow(term: 40)
        let asked = scene.asker.askForVote("g0", of: scene.node.peer, term: Term(41), isPreVote: true)
        #expect(asked?.granted == false && asked?.details?.isRejectedByLease == true)
        #expect(scene.asker.askForVote("g0", of: scene.node.peer, term: Term(41))?.granted == true)
        scene.follow(term: 42)
        #expect(try scene.timeToVote(term: 43) <= .milliseconds(1900))
    }
}
