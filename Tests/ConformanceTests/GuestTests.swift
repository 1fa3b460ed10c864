import NodeRuntime
import RaftCore
import RaftHost
import Testing

@testable import FlotillaTestSupport

/// A node in no cluster that is a member of the group `g`.
final class Guest {
    let address: NodeAddress
    let directory = TemporaryDirectory()
    private let probe: ClusterProbe
    private var node: NodeThread?

    init(at address: NodeAddress = LoopbackPorts.take(1)[0]) throws {
        self.address = address
        probe = try ClusterProbe(nodes: [address])
    }

    deinit {
        node?.kill()
        probe.close()
    }

    var peer: PeerID { PeerID(address: address) }
    var dataDirectory: String { directory.path + "/node" }

    func start(
        _ peers: [PeerID] = [], idx: Int32? = nil, change: (inout NodeConfiguration) -> Void = { _ in }
    ) throws {
        var configuration = NodeConfiguration(listen: address, dataDirectory: dataDirectory, controllers: [])
        configuration.guests = [GuestGroup(group: "g", peers: peers, idx: idx)]
        configuration.segmentBytes = 1 << 20
        configuration.logSpace = 64 << 20
        configuration.reserveBytes = 1 << 20
        configuration.host.raft.electionTimeout = .milliseconds(400)
        configuration.host.raft.maxClockDrift = .milliseconds(200)
        change(&configuration)
        node = try NodeThread(configuration, logger: .silent, cut: [])
    }

    func kill() {
        node?.kill()
        node = nil
    }

    func status() async -> NodeStatus.Replica? { await probe.status(of: address)?.replica(of: "g") }

    func until(_ goal: String, seconds: Int = 20, _ condition: (NodeStatus.Replica) -> Bool) async throws {
        let end = ContinuousClock.now + .seconds(seconds)
        while ContinuousClock.now < end {
            if let status = await status(), condition(status) { return }
            try await Task.sleep(for: .milliseconds(20))
        }
        Issue.record("not in time: \(goal); \(String(describing: await status()))")
    }
}

/// What a braft that leads `group` in `term` says.
struct Leader {
    let peer: PeerID
    let term: Int64
    var group = "g"

    private func head(_ to: PeerID) -> WireFields {
        WireFields().text(1, group).text(2, peer.description).text(3, to.description).number(4, term)
    }

    /// The members, as an entry.
    func configuration(_ peers: [PeerID]) -> WireFields {
        var entry = WireFields().number(1, term).number(2, 3)
        for peer in peers { entry = entry.text(3, peer.description) }
        return entry.number(4, 0)
    }

    func data(_ bytes: Int) -> WireFields { WireFields().number(1, term).number(2, 2).number(4, Int64(bytes)) }

    func append(
        _ entries: [WireFields], after previous: (term: Int64, index: Int64), commit: Int64, to: PeerID
    ) -> WireFields {
        var message = head(to).number(5, previous.term).number(6, previous.index)
        for entry in entries { message = message.message(7, entry) }
        return message.number(8, commit)
    }

    func snapshot(_ index: Int64, of peers: [PeerID], uri: String, to: PeerID) -> WireFields {
        head(to).message(5, meta(index, peers)).text(6, uri)
    }

    func meta(_ index: Int64, _ peers: [PeerID]) -> WireFields {
        var meta = WireFields().number(1, index).number(2, term)
        for peer in peers { meta = meta.text(3, peer.description) }
        return meta
    }
}

@Suite("Guests of brafts", .serialized, .timeLimit(.minutes(2)))
struct GuestTests {
    private func answer(_ frame: BraftFrame) throws -> WireFields {
        #expect(frame.errorCode == 0, "\(frame.errorText)")
        return try #require(WireFields(frame.body))
    }

    @Test(
        "One that begins as nobody's member obeys who leads and keeps what it took; later flags change nothing"
    )
    func beginsEmpty() async throws {
        let guest = try Guest()
        let braft = ScriptedBraft(at: LoopbackPorts.take(1)[0])
        defer { braft.close() }
        try guest.start()
        try await guest.until("it is there") { $0.state == "follower" && $0.kind == "guest" && $0.members.isEmpty }
        // long enough for an election, if it wanted one
        try await Task.sleep(for: .milliseconds(1500))
        #expect(await guest.status()?.term ?? Term(9) <= Term(1))

        let leader = Leader(peer: PeerID(address: braft.address), term: 7)
        let members = [leader.peer, guest.peer]
        var caller = try RawCaller(to: guest.address)
        let entries = [leader.configuration(members), leader.data(3), leader.data(2)]
        let taken = try answer(
            try caller.call(
                "append_entries", leader.append(entries, after: (0, 0), commit: 2, to: guest.peer),
                attachment: Array("onetw".utf8)))
        #expect(taken.isSet(2) == true && taken.integer(1) == 7)
        try await guest.until("it knows of its members") {
            $0.members == members.sorted() && $0.commitIndex.rawValue == 2
        }

        guest.kill()
        try guest.start([guest.peer, PeerID(address: NodeAddress("10.1.1.1:1")!)], idx: nil)
        try await guest.until("it has what it took") { $0.lastIndex.rawValue == 3 && $0.members == members.sorted() }
        caller = try RawCaller(to: guest.address)
        let probed = try answer(
            try caller.call("append_entries", leader.append([], after: (7, 3), commit: 3, to: guest.peer)))
        #expect(probed.isSet(2) == true && probed.integer(3) == 3)
    }

    @Test("One that leads hands over to the voter that can serve and has the whole log, and lets that one be elected")
    func handsOver() async throws {
        let ports = LoopbackPorts.take(2)
        let guest = try Guest()
        let grants: @Sendable (ScriptedBraft.Call) -> ScriptedBraft.Answer = { call in
            let term = call.message.integer(4) ?? 0
            switch call.method {
            case "pre_vote": return ScriptedBraft.vote(term: term - 1, granted: true)
            case "request_vote": return ScriptedBraft.vote(term: term, granted: true)
            // as braft does without leases: in the term that it campaigns in
            case "timeout_now": return .message(WireFields().number(1, term + 1).flag(2, true))
            default: return ScriptedBraft.obedient(call)
            }
        }
        let behind = ScriptedBraft(at: ports[0]) { call in
            call.method == "append_entries" && !call.message.messages(7).isEmpty
                ? .failure(5, "no disk") : grants(call)
        }
        let upToDate = ScriptedBraft(at: ports[1], grants)
        defer {
            behind.close()
            upToDate.close()
        }
        // long enough for this test to ask for the vote meanwhile
        try guest.start([guest.peer] + ports.map { PeerID(address: $0) }) {
            $0.host.raft.electionTimeout = .milliseconds(4000)
        }
        let calls = try #require(await upToDate.wait { $0.contains { $0.method == "timeout_now" } })
        let order = try #require(calls.last { $0.method == "timeout_now" }?.message)
        let term = try #require(order.integer(4))
        #expect(order.text(1) == "g" && order.text(2) == guest.peer.description)
        #expect(order.text(3) == PeerID(address: ports[1]).description && order.isSet(5) != true)
        #expect(behind.calls("timeout_now").isEmpty)

        // whoever refuses by its lease must hear who has gone
        let caller = try RawCaller(to: guest.address)
        let last = try #require(await guest.status()?.lastIndex.rawValue)
        let request = WireFields().text(1, "g").text(2, PeerID(address: ports[1]).description)
            .text(3, guest.peer.description).number(4, term + 1).number(5, term).number(6, last)
        let vote = try answer(try caller.call("request_vote", request))
        #expect(vote.isSet(2) == true && vote.integer(1) == term + 1, "\(vote)")
        #expect(vote.isSet(3) == true && vote.integer(4) == term, "\(vote)")
    }

    @Test("A successor that died and comes back leads at once, though it was looked for meanwhile")
    func successorComesBack() async throws {
        let guests = try LoopbackPorts.take(2).map { try Guest(at: $0) }
        let address = LoopbackPorts.take(1)[0]
        let peers = guests.map(\.peer) + [PeerID(address: address)]
        let grants: @Sendable (ScriptedBraft.Call) -> ScriptedBraft.Answer = { call in
            let term = call.message.integer(4) ?? 0
            switch call.method {
            case "pre_vote": return ScriptedBraft.vote(term: term - 1, granted: true)
            case "request_vote": return ScriptedBraft.vote(term: term, granted: true)
            case "timeout_now": return .message(WireFields().number(1, term + 1).flag(2, true))
            default: return ScriptedBraft.obedient(call)
            }
        }
        let before = ScriptedBraft(at: address, grants)
        defer { before.close() }
        try guests[0].start(peers)
        // it votes, and leaves the rest to the other
        try guests[1].start(peers) { $0.host.raft.electionPriority = 0 }
        let calls = try #require(await before.wait { $0.contains { $0.method == "timeout_now" } })
        let term = try #require(calls.last { $0.method == "timeout_now" }?.message.integer(4))
        // the braft leads, and dies
        let leader = Leader(peer: peers[2], term: term + 1)
        let last = try #require(await guests[0].status()).lastIndex.rawValue
        let heard = try answer(
            try RawCaller(to: guests[0].address).call(
                "append_entries", leader.append([], after: (term, last), commit: last, to: guests[0].peer)))
        #expect(heard.isSet(2) == true, "\(heard)")
        before.close()
        try await guests[0].until("it leads again") { $0.state == "leader" && $0.term.rawValue > term + 1 }
        // it looks several times, and finds nobody
        try await Task.sleep(for: .milliseconds(2000))
        let after = ScriptedBraft(at: address, grants)
        defer { after.close() }
        try #require(await after.wait { !$0.isEmpty } != nil)
        let back = ContinuousClock.now
        #expect(await after.wait { $0.contains { $0.method == "timeout_now" } } != nil)
        #expect(ContinuousClock.now - back < .seconds(3))
    }

    @Test("Where all are guests one leads and keeps leading; when it dies another does")
    func amongThemselves() async throws {
        let guests = try LoopbackPorts.take(3).map { try Guest(at: $0) }
        let peers = guests.map(\.peer)
        for guest in guests { try guest.start(peers) }
        try await guests[0].until("somebody leads") { $0.leader != nil }
        try await Task.sleep(for: .milliseconds(500))
        let before = try #require(await guests[0].status())
        // two searches for a successor
        try await Task.sleep(for: .milliseconds(2500))
        let after = try #require(await guests[0].status())
        #expect(after.leader == before.leader && after.term == before.term && after.commitIndex > .zero)
        let dead = try #require(guests.first { $0.peer == after.leader })
        dead.kill()
        let other = try #require(guests.first { $0 !== dead })
        try await other.until("another one leads") { $0.leader != nil && $0.leader != dead.peer }
        try dead.start(peers)
        try await dead.until("the dead one follows") { $0.leader != nil && $0.leader != dead.peer }
    }

    @Test("Nodes that look for a cluster, or are in none, are brafts to each other")
    func strangersOfOurs() async throws {
        let guests = try LoopbackPorts.take(3).map { try Guest(at: $0) }
        let peers = guests.map(\.peer)
        try guests[0].start(peers)
        for guest in guests[1...] { try guest.start(peers) { $0.controllers = [guest.address] } }
        for guest in guests { try await guest.until("somebody leads") { $0.leader != nil && $0.commitIndex > .zero } }
        let leader = try #require(await guests[0].status()?.leader)
        try #require(guests.first { $0.peer == leader }).kill()
        for guest in guests where guest.peer != leader {
            try await guest.until("another one leads") { $0.leader != nil && $0.leader != leader }
        }
    }

    @Test("A heavy log asks the leader for a later snapshot, once; it is taken, kept over a kill, and not taken twice")
    func laterSnapshot() async throws {
        let guest = try Guest()
        let address = LoopbackPorts.take(1)[0]
        let leader = Leader(peer: PeerID(address: address), term: 7)
        let members = [leader.peer, guest.peer]
        let list = WireFields().message(1, leader.meta(10, members))
            .message(2, WireFields().text(1, "dir/data").message(2, WireFields())).encoded
        let braft = ScriptedBraft(at: address) { call in
            guard call.method == "get_file" else { return ScriptedBraft.obedient(call) }
            let isList = call.message.text(2) == "__raft_snapshot_meta"
            let bytes = isList ? list : Array("the state".utf8)
            let length = [UInt8](repeating: 0, count: 11) + [UInt8(bytes.count)]
            return .message(
                WireFields().flag(1, true).number(2, Int64(bytes.count)), attachment: length + bytes)
        }
        defer { braft.close() }
        let light: (inout NodeConfiguration) -> Void = { $0.host.compactionEntries = 12 }
        try guest.start(change: light)
        try await guest.until("it is there") { $0.state == "follower" }
        var caller = try RawCaller(to: guest.address)
        let first = [leader.configuration(members)] + (0..<13).map { _ in leader.data(1) }
        let begun = try answer(
            try caller.call(
                "append_entries", leader.append(first, after: (0, 0), commit: 1, to: guest.peer),
                attachment: Array(repeating: 0x61, count: 13)))
        #expect(begun.isSet(2) == true)
        try await guest.until("it has applied") { $0.commitIndex.rawValue == 1 }
        let more = leader.append([leader.data(1)], after: (7, 14), commit: 14, to: guest.peer)
        var asked = try answer(try caller.call("append_entries", more, attachment: [0x62]))
        // once it has found out that a braft leads
        for _ in 0..<200 where asked.isSet(2) == true {
            try await Task.sleep(for: .milliseconds(50))
            asked = try answer(try caller.call("append_entries", more, attachment: [0x62]))
        }
        #expect(asked.isSet(2) == false && asked.integer(1) == 7 && asked.integer(3) == 0, "\(asked)")
        let resumed = try answer(try caller.call("append_entries", more, attachment: [0x62]))
        #expect(resumed.isSet(2) == true, "it asks once")

        let offer = leader.snapshot(10, of: members, uri: "remote://\(address)/-42", to: guest.peer)
        let installed = try answer(try caller.call("install_snapshot", offer))
        #expect(installed.isSet(2) == true && installed.integer(1) == 7)
        #expect(braft.calls("get_file").map { $0.message.text(2) }.contains("dir/data"))
        #expect(await guest.status()?.lastIndex.rawValue == 15, "what is behind it stays")

        guest.kill()
        try guest.start(change: light)
        try await guest.until("it has its log") { $0.lastIndex.rawValue == 15 && $0.problem == nil }
        let reads = braft.calls("get_file").count
        caller = try RawCaller(to: guest.address)
        _ = try caller.call("append_entries", leader.append([], after: (7, 15), commit: 15, to: guest.peer))
        let again = try answer(try caller.call("install_snapshot", offer))
        #expect(again.isSet(2) == true && braft.calls("get_file").count == reads, "it is there already")
    }
}
