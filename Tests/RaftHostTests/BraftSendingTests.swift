import RaftCore
import RaftStorage
import Simulator
import Testing

@testable import RaftHost
@testable import Transport

@Suite("Snapshots for a braft")
struct BraftSendingTests {
    /// A braft that lacks what the two others of its group have compacted, and the one of them that leads.
    private func lagging(
        _ change: (inout HostCluster.Plan) -> Void = { _ in }
    ) throws -> (HostCluster, SimulatedNode, BraftPeer) {
        var plan = HostCluster.Plan()
        plan.isOnItsOwn = true
        plan.flushesOneOf = 2
        plan.settings.compactionEntries = 40
        plan.settings.keptEntries = 10
        plan.settings.keptBytes = 4 << 10
        plan.settings.compactionPace = .milliseconds(100)
        plan.settings.snapshotChunkBytes = 4 << 10
        plan.settings.snapshotBytesPerSecond = 1 << 20
        change(&plan)
        let cluster = HostCluster(seed: 21, plan: plan)
        for node in cluster.nodes.prefix(2) { try node.start() }
        #expect(cluster.run(limit: 20_000) { cluster.leader(of: 0) != nil })
        cluster.run(.milliseconds(1000))
        for tag in 1...150 as ClosedRange<UInt64> {
            guard let leader = cluster.leader(of: 0) else { continue }
            leader.lane.post { [host = leader.host!] in
                host.propose(Command.payload(tag: tag, byteCount: 200), to: "g0") { _ in }
            }
            cluster.run(.milliseconds(20))
        }
        let leader = try #require(cluster.leader(of: 0))
        #expect(leader.host.raft(of: "g0")?.base.index ?? .zero > LogIndex(60))
        let braft = try BraftPeer(cluster.world, at: SimulatedNode.address(3))
        return (cluster, leader, braft)
    }

    /// The same, with an offer made.
    private func offered(
        _ change: (inout HostCluster.Plan) -> Void = { _ in }
    ) throws -> (HostCluster, SimulatedNode, BraftPeer, reader: Int64) {
        let (cluster, leader, braft) = try lagging(change)
        #expect(cluster.run(limit: 20_000) { !braft.offers.isEmpty })
        let offer = try #require(braft.offers.first)
        let source = try #require(RaftWire.braftSource(offer.uri))
        #expect(source.address == leader.address)
        return (cluster, leader, braft, source.reader)
    }

    /// Reads a part; the segments, or an error.
    private func read(
        _ cluster: HostCluster, _ braft: BraftPeer, _ node: SimulatedNode, _ reader: Int64, _ name: String,
        at offset: Int64 = 0, count: Int64 = 131_072, partly: Bool = true
    ) throws -> (reply: GetFileReply, bytes: [UInt8], code: Int32?) {
        let call = braft.getFile(
            GetFileRequest(reader: reader, name: name, count: count, offset: offset, readPartly: partly), of: node)
        #expect(cluster.run(limit: 10_000) { call.result != nil })
        guard let reply = call.reply else { return (GetFileReply(isAtEnd: false), [], call.code) }
        let segments = try #require(RaftWire.segments(reply.attachment, within: 0..<Int.max))
        #expect(segments.count <= 1 && segments.allSatisfy { $0.offset == Int(offset) })
        return (try #require(braft.wire.decodeGetFileReply(reply.body)), segments.first?.bytes.array ?? [], nil)
    }

    private func readAll(
        _ cluster: HostCluster, _ braft: BraftPeer, _ node: SimulatedNode, _ reader: Int64, _ name: String
    ) throws -> [UInt8] {
        var bytes: [UInt8] = []
        while true {
            let part = try read(cluster, braft, node, reader, name, at: Int64(bytes.count))
            try #require(part.code == nil)
            #expect(part.reply.readSize == Int64(part.bytes.count))
            bytes += part.bytes
            if part.reply.isAtEnd { return bytes }
        }
    }

    @Test("It is offered files, reads them one after the other, and goes on with the log behind them")
    func conversation() throws {
        let (cluster, leader, braft, reader) = try offered()
        let offer = try #require(braft.offers.first)
        let (files, last) = try braft.wire.decodeBraftList(
            Bytes(try read(cluster, braft, leader, reader, "__raft_snapshot_meta", count: 4_294_967_295).bytes))
        #expect(last == offer.request.meta.last)
        #expect(offer.request.meta.configuration.peers.count == 3)
        #expect(files.map(\.name) == ["empty", "first", "second", "state"])
        var contents: [String: [UInt8]] = [:]
        for file in files { contents[file.name] = try readAll(cluster, braft, leader, reader, file.name) }
        #expect(contents["empty"] == [] && contents["first"]?.count == 50_000 && contents["second"]?.count == 50_000)
        #expect(contents["first"] == Command.payload(tag: 0, byteCount: 50_000).array)
        #expect(String(decoding: contents["state"] ?? [], as: UTF8.self).hasPrefix("0 \(last.index) \(last.term) "))
        // it counts as long as it is read
        for _ in 0..<3 {
            cluster.run(.milliseconds(50_000))
            #expect(try read(cluster, braft, leader, reader, "state").code == nil)
        }
        // the offer counts until it is answered, however long that takes; the files and the log are not kept for that
        cluster.run(.milliseconds(70_000))
        #expect(try read(cluster, braft, leader, reader, "state").code == 2)
        #expect(leader.host.sending.order.isEmpty && leader.host.replicas[0].pins.isEmpty)
        #expect(leader.host.raft(of: "g0")?.progress(of: braft.peer)?.isInstalling == true)
        braft.answerOffer(success: true)
        #expect(cluster.run(limit: 10_000) { braft.lastIndex == leader.host.raft(of: "g0")?.lastIndex })
        #expect(try read(cluster, braft, leader, reader, "state").code == 2)
        #expect(braft.offers.count == 1)
        cluster.run(.milliseconds(2000))
        #expect(try leader.snapshotDisk.folders() == [])
        #expect(leader.host.sending.readers.isEmpty && leader.host.sending.order.isEmpty)
        #expect(cluster.allViolations == [])
    }

    @Test("A braft that does not take the snapshot that it needs is named by the leader, until it does") func refused()
        throws
    {
        let (cluster, leader, braft, _) = try offered()
        func refusals() -> [String] { leader.host.snapshotRefusals(of: "g0").map { "\($0.peer) \($0.text)" } }
        #expect(refusals() == [])
        // busy is not a refusal
        for (code, isRefusal) in [(16, false), (22, true), (22, true), (16, true)] as [(Int32, Bool)] {
            let count = braft.offers.count
            braft.refuseOffer(code)
            #expect(cluster.run(limit: 60_000) { braft.offers.count > count })
            #expect(refusals() == (isRefusal ? ["\(braft.peer) [\(braft.address)][E22]told to refuse"] : []))
        }
        braft.answerOffer(success: true)
        #expect(cluster.run(limit: 10_000) { refusals() == [] })
    }

    @Test("Every bad request gets braft's number") func refusals() throws {
        let (cluster, leader, braft, reader) = try offered()
        let list = "__raft_snapshot_meta"
        #expect(try read(cluster, braft, leader, reader &+ 1, list).code == 2)
        #expect(try read(cluster, braft, leader, reader &+ 1, "first", count: 0).code == 2)
        #expect(try read(cluster, braft, leader, reader, "first", count: 0).code == 1003)
        #expect(try read(cluster, braft, leader, reader, "first", count: -1).code == 1003)
        #expect(try read(cluster, braft, leader, reader, "first", at: -1).code == 1003)
        #expect(try read(cluster, braft, leader, reader, "third").code == 1)
        #expect(try read(cluster, braft, leader, reader, "../first").code == 1)
        // a file begins at its start
        #expect(try read(cluster, braft, leader, reader, "first", at: 1).code == 22)
        #expect(try read(cluster, braft, leader, reader, "first").reply == GetFileReply(isAtEnd: false, readSize: 4096))
        // not before the end of the one before; the list is none of them
        #expect(try read(cluster, braft, leader, reader, "second").code == 22)
        #expect(try read(cluster, braft, leader, reader, list, at: 7, count: 1).reply.isAtEnd)
        // what was lost on the way is read again, and may be left out
        #expect(try read(cluster, braft, leader, reader, "first").bytes.count == 4096)
        let end = GetFileReply(isAtEnd: true, readSize: 1)
        #expect(try read(cluster, braft, leader, reader, "first", at: 49_999).reply == end)
        #expect(try read(cluster, braft, leader, reader, "second", at: 3).code == 22)
        #expect(try read(cluster, braft, leader, reader, "second").code == nil)
        let nothing = GetFileReply(isAtEnd: true, readSize: 0)
        #expect(try read(cluster, braft, leader, reader, "second", at: .max).reply == nothing)
        #expect(try read(cluster, braft, leader, reader, "empty").reply == nothing)
        let garbage = braft.call("braft.FileService", "get_file", Bytes("\u{7f}"), to: leader.address)
        let other = braft.call("braft.FileService", "put_file", Bytes(), to: leader.address)
        cluster.run(.milliseconds(1000))
        #expect(garbage.code == 1003 && other.code == 1002)
    }

    @Test("A count is no more than a wish, and who takes no less is told to wait if it is too much")
    func counts() throws {
        let (cluster, leader, braft, reader) = try offered { $0.snapshotBytes = 12 << 20 }
        for count in [Int64.max, 1 << 40, 4097] {
            let part = try read(cluster, braft, leader, reader, "first", count: count)
            #expect(part.reply == GetFileReply(isAtEnd: false, readSize: 4096) && part.bytes.count == 4096)
        }
        #expect(try read(cluster, braft, leader, reader, "first", count: 10).reply.readSize == 10)
        #expect(try read(cluster, braft, leader, reader, "first", count: 200_000, partly: false).bytes.count == 200_000)
        #expect(try read(cluster, braft, leader, reader, "first", count: .max, partly: false).code == 11)
        // its end is no less than all that is left
        let end = try read(cluster, braft, leader, reader, "first", at: (6 << 20) - 9, count: .max, partly: false)
        #expect(end.reply == GetFileReply(isAtEnd: true, readSize: 9))
    }

    @Test("There is one read of a reader at a time") func oneAtATime() throws {
        let (cluster, leader, braft, reader) = try offered()
        leader.recording.worker("reader").hangs = true
        let request = GetFileRequest(reader: reader, name: "first", count: 100, offset: 0, readPartly: true)
        let first = braft.getFile(request, of: leader)
        cluster.run(.milliseconds(200))
        let second = braft.getFile(request, of: leader)
        cluster.run(.milliseconds(200))
        #expect(first.result == nil && second.code == 11)
        leader.recording.worker("reader").hangs = false
        cluster.run(.milliseconds(200))
        #expect(first.reply != nil)
        #expect(try read(cluster, braft, leader, reader, "first", at: 100).code == nil)
    }

    @Test("Files leave no faster than the budget allows, and who would wait too long is told to come again")
    func budget() throws {
        let (cluster, leader, braft, reader) = try offered { $0.settings.snapshotBytesPerSecond = 25_000 }
        let begin = cluster.world.now
        _ = try readAll(cluster, braft, leader, reader, "first")
        #expect(cluster.world.now - begin >= .milliseconds(1500), "\(cluster.world.now - begin)")
        #expect(try read(cluster, braft, leader, reader, "second", count: 50_000, partly: false).code == nil)
        #expect(try read(cluster, braft, leader, reader, "second", count: 50_000, partly: false).code == nil)
        let third = try read(cluster, braft, leader, reader, "second", count: 50_000, partly: false)
        #expect(third.code == nil || third.code == 11)
        let calls = (0..<3).map { _ in
            braft.getFile(
                GetFileRequest(reader: reader, name: "second", count: 50_000, offset: 0, readPartly: false), of: leader)
        }
        cluster.run(.milliseconds(9000))
        #expect(calls.contains { $0.code == 11 } && calls.allSatisfy { $0.result != nil })
    }

    @Test(
        "Whoever is busy is left alone for a second; whoever refuses is offered another soon",
        arguments: [16, 4, 22, 2001] as [Int32])
    func refused(code: Int32) throws {
        let (cluster, leader, braft, reader) = try offered()
        let begin = cluster.world.now
        braft.refuseOffer(code)
        #expect(cluster.run(limit: 10_000) { braft.offers.count == 2 })
        #expect(cluster.world.now - begin >= .milliseconds(code == 16 || code == 4 ? 1000 : 100))
        try #require(braft.offers.count == 2)
        let second = try #require(RaftWire.braftSource(braft.offers[1].uri)).reader
        #expect(second != reader)
        #expect(try read(cluster, braft, leader, reader, "first").code == 2)
        #expect(try read(cluster, braft, leader, second, "first").code == nil)
        braft.answerOffer(success: true)
        #expect(cluster.run(limit: 10_000) { braft.lastIndex == leader.host.raft(of: "g0")?.lastIndex })
        #expect(cluster.allViolations == [])
    }

    @Test("An offer that nobody reads loses its place, its files and the log; who only asks around does not read")
    func unread() throws {
        let (cluster, leader, braft, reader) = try offered()
        for _ in 0..<11 {
            cluster.run(.milliseconds(5000))
            #expect(try read(cluster, braft, leader, reader, "__raft_snapshot_meta").code == nil)
            #expect(try read(cluster, braft, leader, reader, "third").code == 1)
            #expect(try read(cluster, braft, leader, reader, "first", at: 1).code == 22)
            #expect(try read(cluster, braft, leader, reader, "empty").reply.isAtEnd)
        }
        #expect(leader.host.sending.order.count == 1 && leader.host.replicas[0].pins.count == 1)
        #expect(cluster.run(limit: 10_000) { leader.host.sending.order.isEmpty })
        #expect(leader.host.sending.readers.isEmpty && leader.host.replicas[0].pins.isEmpty)
        cluster.run(.milliseconds(2000))
        #expect(try leader.snapshotDisk.folders() == [])
        // it may be busy with what it has: nothing else is offered before it says so
        #expect(braft.offers.count == 1)
        #expect(try read(cluster, braft, leader, reader, "first").code == 2)
        braft.refuseOffer(2)
        #expect(cluster.run(limit: 10_000) { braft.offers.count == 2 })
        braft.answerOffer(success: true)
        #expect(cluster.run(limit: 10_000) { braft.lastIndex == leader.host.raft(of: "g0")?.lastIndex })
        #expect(cluster.allViolations == [])
    }

    @Test("Whoever is always busy holds no place for ever either") func alwaysBusy() throws {
        let (cluster, leader, braft, _) = try offered()
        let id = try #require(leader.host.sending.order.first?.id)
        var answered = 0
        let end = cluster.world.now + .milliseconds(58_000)
        func refuse() {
            guard braft.offers.count > answered else { return }
            answered = braft.offers.count
            braft.refuseOffer(16)
        }
        while cluster.world.now < end {
            refuse()
            cluster.run(.milliseconds(100))
        }
        #expect(leader.host.sending.order.map(\.id) == [id] && answered > 20)
        #expect(
            cluster.run(limit: 10_000) {
                refuse()
                return !leader.host.sending.order.contains { $0.id == id }
            })
        // it gets another, and has that
        let before = answered
        #expect(cluster.run(limit: 10_000) { braft.offers.count > before })
        braft.answerOffer(success: true)
        #expect(cluster.run(limit: 10_000) { braft.lastIndex == leader.host.raft(of: "g0")?.lastIndex })
        #expect(cluster.allViolations == [])
    }

    @Test("Places for brafts are no others' places") func places() throws {
        _ = try offered { $0.settings.snapshotsSent = 0 }
        let (cluster, leader, braft) = try lagging { $0.settings.foreignSnapshotsSent = 0 }
        cluster.run(.milliseconds(5000))
        #expect(braft.offers.isEmpty && leader.host.sending.order.allSatisfy(\.isFrozen))
        #expect(leader.host.hasRoomToSend(toBraft: false))
    }

    @Test("A connection that breaks ends the offer, and the next one has a reader of its own for the same files")
    func broken() throws {
        let (cluster, leader, braft, reader) = try offered()
        #expect(try read(cluster, braft, leader, reader, "first").code == nil)
        let id = try #require(leader.host.sending.order.first?.id)
        cluster.world.breakConnections(between: leader.address, and: braft.address)
        #expect(cluster.run(limit: 20_000) { braft.offers.count == 2 })
        #expect(try read(cluster, braft, leader, reader, "first").code == 2)
        try #require(braft.offers.count == 2)
        let second = try #require(RaftWire.braftSource(braft.offers[1].uri)).reader
        #expect(try readAll(cluster, braft, leader, second, "first").count == 50_000)
        #expect(leader.host.sending.order.map(\.id) == [id])
        braft.answerOffer(success: true)
        #expect(cluster.run(limit: 10_000) { braft.lastIndex == leader.host.raft(of: "g0")?.lastIndex })
        #expect(cluster.allViolations == [])
    }

    @Test("The log is kept for a braft that reads, and the leader's writes go on meanwhile") func pinned() throws {
        let (cluster, leader, braft, reader) = try offered()
        let index = try #require(braft.offers.first).request.meta.last.index
        for tag in 1...200 as ClosedRange<UInt64> {
            leader.lane.post { [host = leader.host!] in
                host.propose(Command.payload(tag: tag, byteCount: 200), to: "g0") { _ in }
            }
            cluster.run(.milliseconds(20))
            if tag % 50 == 0 { #expect(try read(cluster, braft, leader, reader, "first").code == nil) }
        }
        let raft = try #require(leader.host.raft(of: "g0"))
        #expect(raft.base.index <= index && raft.commitIndex > index.advanced(by: 190))
        braft.answerOffer(success: true)
        #expect(cluster.run(limit: 10_000) { braft.lastIndex == leader.host.raft(of: "g0")?.lastIndex })
        #expect(braft.offers.count == 1)
        #expect(cluster.allViolations == [])
    }
}
